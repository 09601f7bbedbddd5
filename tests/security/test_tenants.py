"""Nobody reaches another tenant: every route, parameter and field of the edge's own document, with foreign values."""

import copy
import itertools
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from api.main import create_app
from app.settings import Settings
from tests.support.belongings import Belongings, cursors, fingerprints, hired, nobody, owned, word
from tests.support.children import poll
from tests.support.edge_parts import Parts
from tests.support.edges import Edge
from tests.support.foreign import (
    ANSWER_S,
    KEY,
    UNDECLARED,
    WIDEST,
    Neighbours,
    NotCovered,
    Operation,
    Place,
    Request,
    operations,
    seen,
    shown,
)
from tests.support.workers import Worker

AT_ONCE = 8  # questions that wait for a foreign version token wait beside one another
# Outside the document: what draws the document itself. The page for people is tried below.
DOCUMENTATION = ("/docs", "/openapi.json", "/static-offline-docs", "/favicon.png")


def document() -> dict[str, Any]:
    return create_app(Settings(master_key="A" * 43 + "=")).openapi()


# Questions first: changes write words of the other tenant into rows of the one that asks.
OPERATIONS = sorted(operations(document()), key=lambda one: one.changes)


@pytest.fixture(scope="module")
def neighbours(parts: Parts) -> Neighbours:
    return planted(parts)


@pytest.fixture(scope="module")
def untouched(parts: Parts, neighbours: Neighbours) -> dict[str, str]:
    """What is stored of the other tenant before anybody tries anything."""
    return fingerprints(parts, neighbours.foreign.values["tenant_id"])


@pytest.fixture
def client(parts: Parts) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=parts.edge_url, timeout=ANSWER_S, trust_env=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def third(parts: Parts) -> Belongings:
    """A tenant that has used no key yet."""
    return Belongings(hired(parts, {}), {})


@pytest.fixture(scope="module")
def hurt(parts: Parts, broken_edge: Edge) -> Neighbours:
    """Other tenants, for the edge whose walls are missing."""
    made = planted(parts)
    made.foreign.cursors = cursors(broken_edge.url, made.foreign)
    return made


def planted(parts: Parts) -> Neighbours:
    return Neighbours(owned(parts, foreign=False), owned(parts, foreign=True), nobody())


def findings(operation: Operation, neighbours: Neighbours, client: httpx.Client) -> list[str]:
    """What the tries of one operation say against the law: foreign values shown, or told from missing ones."""
    foreign = neighbours.foreign
    plain = neighbours.own_request(operation)
    found = [f"shows {mark}" for mark in shown(plain.send(client), plain, foreign)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for one in pool.map(lambda place: tried(operation, place, neighbours, client), operation.places):
            found += one
    return found


def tried(operation: Operation, place: Place, neighbours: Neighbours, client: httpx.Client) -> list[str]:
    pair = neighbours.pair(operation, place, client)
    with ThreadPoolExecutor(len(pair)) as pool:
        answers = list(pool.map(lambda request: request.send(client), pair))
    found = [
        f"{place}: shows {mark}"
        for request, answer in zip(pair, answers, strict=True)
        for mark in shown(answer, request, neighbours.foreign)
    ]
    foreign, missing = (seen(answer, request) for answer, request in zip(answers, pair, strict=True))
    if foreign != missing:
        found.append(f"{place}: foreign {foreign} but missing {missing}")
    return found + [f"{place}: {answer.status_code}" for answer in answers if answer.status_code >= 500]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_a_foreign_value_is_no_better_than_a_missing_one(
    operation: Operation, neighbours: Neighbours, untouched: dict[str, str], client: httpx.Client, parts: Parts
) -> None:
    """No answer shows or betrays what another tenant has, and no request changes a row of it."""
    assert findings(operation, neighbours, client) == []
    assert fingerprints(parts, neighbours.foreign.values["tenant_id"]) == untouched


def is_told_apart_by_its_owner(operation: Operation, place: Place) -> bool:
    """Whether a question with them has two answers. The token of one is the token of all: each of them waits 2 s."""
    waits = place[1] == "at_least" and operation.path != "/analytics/month"
    return bool(operation.kind) and not (operation.changes or place in WIDEST or place in UNDECLARED or waits)


QUESTIONS = [(one, place) for one in OPERATIONS for place in one.places if is_told_apart_by_its_owner(one, place)]


@pytest.mark.parametrize(("operation", "place"), QUESTIONS, ids=lambda one: getattr(one, "name", None) or one[1])
def test_the_foreign_values_are_real(
    operation: Operation, place: Place, neighbours: Neighbours, client: httpx.Client
) -> None:
    """Their owner gets another answer with them than with missing ones, so that the test above could fail."""
    pair = neighbours.asked_by_its_owner(operation, place)
    foreign, missing = (seen(request.send(client), request) for request in pair)
    assert foreign["status"] == 200, foreign
    assert foreign != missing


@pytest.mark.parametrize("change", ["post /bills", "patch bill", "pay", "unpay", "patch occurrence", "delete"])
def test_an_idempotency_key_repeats_nothing_of_another_tenant(
    change: str, neighbours: Neighbours, client: httpx.Client, third: Belongings
) -> None:
    """The very request of another tenant, with its key, is new: an own bill, or nothing with that id."""
    method, path, body = neighbours.foreign.sent[change]
    headers = {**third.header("app"), KEY[1]: neighbours.foreign.keys[change]}
    answer = client.request(method, path, json=body, headers=headers)
    assert "Idempotency-Replayed" not in answer.headers
    assert answer.status_code == (201 if change == "post /bills" else 404)
    request = Request(method, path, {}, headers, body)
    assert shown(answer, request, neighbours.foreign) == []


def test_events_under_foreign_ids_are_rows_of_their_sender(
    neighbours: Neighbours, client: httpx.Client, parts: Parts, worker: Worker
) -> None:
    """An event id that another tenant has used is not a duplicate, and the row is the sender's."""
    theirs = neighbours.foreign.values["event_id"]
    own, last = neighbours.own, word("event_id")
    before = fingerprints(parts, neighbours.foreign.values["tenant_id"])
    for event_id in (theirs, last):
        sent = {"event_id": event_id, "tenant_id": neighbours.foreign.values["tenant_id"]}
        assert client.post("/track/click", json=sent, headers=own.header("write")).status_code == 202

    def rows() -> set[str]:
        answer = client.get("/tracking/events", params={"limit": 1000}, headers=own.header("read"))
        return {event["event_id"] for event in answer.json()["items"]}

    poll(lambda: {theirs, last} <= rows(), f"both events are rows of their sender\n{worker.tail()}")
    assert fingerprints(parts, neighbours.foreign.values["tenant_id"]) == before
    for record in (*parts.records("tracking.collected"), *parts.records("gateway.received")):
        assert neighbours.foreign.values["tenant_id"].encode() not in b"".join(
            (record.key(), *(value for _, value in record.headers() or ()))
        )


@contextmanager
def signed_in(parts: Parts, tenant: dict[str, str]) -> Iterator[httpx.Client]:
    headers = {"Sec-Fetch-Site": "same-origin"}
    with httpx.Client(base_url=parts.edge_url, timeout=ANSWER_S, trust_env=False, headers=headers) as client:
        assert client.post("/app/session", data={"key": tenant["app_key"]}).status_code == 303
        yield client


def page_requests(of: Belongings) -> dict[str, Request]:
    """Every route of the page that takes a value, by its path."""
    part = f"/app/occurrences/{of.values['occurrence_id']}"
    asked = {"month": of.values["month"], "currency": of.values["currency"], "at_least": of.values["at_least"]}
    return {
        "/app/occurrences/{occurrence_id}/pay": Request("post", f"{part}/pay", {}, {"Accept": "application/json"}),
        "/app/occurrences/{occurrence_id}/unpay": Request("post", f"{part}/unpay", {}, {}),
        "/app/bills": Request("get", "/app/bills", asked, {}),
        "/app/bills/board": Request("get", "/app/bills/board", asked, {}),
    }


def test_the_page_is_no_way_around(
    neighbours: Neighbours, untouched: dict[str, str], third: Belongings, parts: Parts
) -> None:
    """What the API refuses, the page refuses: foreign occurrences, months, currencies and tokens show nothing."""
    theirs, nobodys = page_requests(neighbours.foreign), page_requests(neighbours.missing)
    with signed_in(parts, third.tenant) as client, ThreadPoolExecutor(AT_ONCE) as pool:
        sent = [one for pair in zip(theirs.values(), nobodys.values(), strict=True) for one in pair]
        answers = iter(list(pool.map(lambda request: request.send(client), sent)))
        for path, request in theirs.items():
            answer, missing = next(answers), next(answers)
            assert answer.status_code == missing.status_code, path
            assert shown(answer, request, neighbours.foreign) == [], path
            if "occurrences" in path:
                assert seen(answer, request) == seen(missing, nobodys[path])
    assert fingerprints(parts, neighbours.foreign.values["tenant_id"]) == untouched


def test_no_route_is_left_out() -> None:
    """Each route is in the document, or a page's that is tried above, or draws the document."""
    app = create_app(Settings(master_key="A" * 43 + "="))
    known = {*document()["paths"], *(re.sub("/(un)?pay$", "/{action}", path) for path in page_requests(nobody()))}
    # Live changes of a session's own tenant, sign-in and out, and files that are the same for everybody.
    known |= {"/app/bills/changes", "/app/session", "/app/session/end", "/app/assets/{version}/{name}"}
    routers = [route.original_router.routes for route in app.routes if hasattr(route, "original_router")]
    single = [route for route in app.routes if not hasattr(route, "original_router")]
    paths = {getattr(route, "path", "") for route in (*single, *itertools.chain(*routers))}
    assert known <= paths
    assert {path for path in paths - known if not path.startswith(DOCUMENTATION)} == set()


@pytest.mark.parametrize(
    "added",
    [
        {"parameters": [{"in": "query", "name": "owner"}]},
        {"requestBody": {"content": {"application/json": {"schema": {"properties": {"owner": {}}}}}}},
        {"security": [{"newKeyHeader": []}]},
    ],
    ids=["parameter", "field", "key"],
)
def test_a_new_route_fails_until_it_is_covered(added: dict[str, Any]) -> None:
    """A parameter, field or kind of key without a foreign value stops the generator."""
    changed = copy.deepcopy(document())
    changed["paths"]["/new"] = {"post": {"security": [{"appKeyHeader": []}], **added}}
    with pytest.raises(NotCovered):
        operations(changed)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("GET /sales", ("query", "order_id")),
        ("GET /tracking/summary", ("query", "from")),
        ("GET /analytics/categories", ("query", "from")),
        ("GET /bills/{bill_id}", ("path", "bill_id")),
        ("GET /occurrences", ("query", "user_id")),
        ("PATCH /bills/{bill_id}", ("path", "bill_id")),
        ("GET /tracking/events", ("query", "cursor")),
        ("POST /occurrences/{occurrence_id}/unpay", ("path", "occurrence_id")),
    ],
)
def test_planted_faults_are_found(name: str, place: Place, hurt: Neighbours, broken_edge: Edge) -> None:
    """Where a wall between tenants is missing, the tries say so."""
    operation = next(one for one in OPERATIONS if one.name == name)
    with httpx.Client(base_url=broken_edge.url, timeout=ANSWER_S, trust_env=False) as client:
        assert tried(operation, place, hurt, client), (name, place)


def test_a_planted_write_is_found(parts: Parts, broken_edge: Edge) -> None:
    """Where row security does not hold, the fingerprint says that rows of another tenant have changed."""
    hurt = planted(parts)
    before = fingerprints(parts, hurt.foreign.values["tenant_id"])
    headers = {**hurt.own.header("app"), "If-Match": "*"}
    url = f"{broken_edge.url}/bills/{hurt.foreign.values['bill_id']}"
    answer = httpx.patch(url, json={"category": "mine"}, headers=headers, timeout=ANSWER_S, trust_env=False)
    assert answer.status_code == 200, answer.text
    after = fingerprints(parts, hurt.foreign.values["tenant_id"])
    assert {name for name in after if after[name] != before[name]} >= {"postgres bills", "postgres bill_occurrences"}
