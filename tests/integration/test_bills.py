"""Bills over HTTP on real Postgres: what is answered is what is stored, and what is refused says what is allowed."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from api import version_token
from api.version_token import Written
from schemas.days import today
from tests.support.bills import PLAIN, made, opened, parts_of
from tests.support.edge_parts import Parts, new_tenant, problem


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    running = Parts(Path(tmp_path_factory.mktemp("bills")))
    try:
        running.start_postgres()
        running.start_edge()
        yield running
    finally:
        running.stop_all()


@pytest.fixture(scope="module")
def tenant(parts: Parts) -> dict[str, str]:
    return new_tenant(parts)


@pytest.fixture
def client(parts: Parts, tenant: dict[str, str]) -> Iterator[httpx.Client]:
    with opened(parts, tenant) as found:
        yield found


@pytest.fixture
def stranger(parts: Parts) -> Iterator[httpx.Client]:
    with opened(parts, new_tenant(parts)) as found:
        yield found


class TestMaking:
    """POST /bills."""

    def test_installments_add_up_and_keep_the_end_of_the_month(self, client: httpx.Client) -> None:
        """Three parts of 100.00 are 33.34, 33.33 and 33.33, due on the last day where a month has no 31st."""
        answer = client.post("/bills", json={**PLAIN, "installments": 3, "due_date": "2091-01-31"})
        bill = answer.json()
        assert answer.status_code == 201
        assert answer.headers["location"] == f"/bills/{bill['id']}"
        assert answer.headers["etag"] == '"1"'
        assert [(p["amount"], p["due_date"]) for p in bill["occurrences"]] == [
            ("33.34", "2091-01-31"), ("33.33", "2091-02-28"), ("33.33", "2091-03-31"),
        ]  # fmt: skip
        assert (bill["amount"], bill["status"], bill["version"], bill["installments"]) == ("100.00", "open", 1, 3)
        assert version_token.read(answer.headers["afluente-version-token"]) == (
            Written("bill_occurrences", uuid.UUID(bill["occurrences"][-1]["id"]), 1),
            Written("bills", uuid.UUID(bill["id"]), 1),
        )
        stored = parts_of(client, bill["id"])
        assert [{name: part[name] for name in shown} for shown in bill["occurrences"] for part in stored
                if part["id"] == shown["id"]] == bill["occurrences"]  # fmt: skip

    def test_a_recurrence_is_made_out_in_full(self, client: httpx.Client) -> None:
        """Count and until say how many there are; each has the whole amount."""
        by_count = made(client, recurrence="yearly", count=3, due_date="2088-02-29")["occurrences"]
        assert [p["due_date"] for p in by_count] == ["2088-02-29", "2089-02-28", "2090-02-28"]
        assert {p["amount"] for p in by_count} == {"100.00"}
        by_day = made(client, recurrence="weekly", until="2090-02-14")["occurrences"]
        assert [p["due_date"] for p in by_day] == ["2090-01-31", "2090-02-07", "2090-02-14"]

    def test_what_is_past_its_day_is_overdue_from_the_start(self, client: httpx.Client) -> None:
        """Yesterday's part is overdue and so is its bill; today's is not, while today lasts anywhere."""
        yesterday, now = today() - timedelta(days=1), today()
        assert made(client, due_date=str(yesterday))["status"] == "overdue"
        assert made(client, due_date=str(now))["status"] == "open"

    @pytest.mark.parametrize(
        ("field", "value", "allowed"),
        [
            ("amount", "-1.00", "above 0"),
            ("amount", "1.234", "at most 2 decimals"),
            ("amount", 10.5, "as text"),
            ("amount", "0.00", "above 0"),
            ("amount", "1000000000000.00", "at most 999999999999.99"),
            ("currency", "XXX", "ISO 4217"),
            ("currency", ["BRL"], "ISO 4217"),
            ("installments", 0, "greater than or equal to 1"),
            ("installments", 1000, "less than or equal to 480"),
            ("installments", True, "whole number"),
            ("due_date", "0000-00-00", "from 1970-01-01 to 2149-06-06"),
            ("due_date", "2026-02-30", "a day that exists"),
            ("category", "c" * 10_000, "at most 100 characters"),
            ("category", "a\u0000b", "without control characters"),
            ("user_id", "", "at least 1 character"),
            ("recurrence", "daily", "'weekly'"),
            ("surprise/~", 1, "not a field here; there are user_id"),
        ],
    )
    def test_a_wrong_field_is_named_with_what_is_allowed(
        self, client: httpx.Client, field: str, value: Any, allowed: str
    ) -> None:
        """Each refused field has its pointer and a text that says what it may be; nothing is stored."""
        before = client.get("/bills", params={"limit": 1, "sort": "-created_at"}).json()["items"]
        found = problem(client.post("/bills", json={**PLAIN, field: value}), 422, "invalid_body")
        assert [error["pointer"] for error in found["errors"]] == ["/" + field.replace("~", "~0").replace("/", "~1")]
        assert allowed in found["errors"][0]["detail"]
        assert client.get("/bills", params={"limit": 1, "sort": "-created_at"}).json()["items"] == before

    @pytest.mark.parametrize(
        ("fields", "pointer"),
        [
            ({"recurrence": "monthly"}, "/count"),
            ({"recurrence": "monthly", "count": 2, "until": "2091-01-01"}, "/count"),
            ({"recurrence": "monthly", "count": 2, "installments": 2}, "/installments"),
            ({"count": 2}, "/recurrence"),
            ({"recurrence": "weekly", "until": "2149-01-01"}, "/until"),
            ({"recurrence": "weekly", "until": "2090-01-30"}, "/until"),
            ({"amount": "0.02", "installments": 3}, "/amount"),
            ({"amount": "10.50", "currency": "JPY"}, "/amount"),
            ({"due_date": "2149-05-31", "installments": 2}, "/installments"),
            ({"due_date": "2149-05-31", "recurrence": "yearly", "count": 480}, "/count"),
        ],
    )
    def test_fields_that_do_not_go_together_are_refused(
        self, client: httpx.Client, fields: dict[str, Any], pointer: str
    ) -> None:
        """A contradiction is pointed at where it can be mended."""
        answer = client.post("/bills", json={**PLAIN, **fields})
        assert answer.status_code == 422, answer.text
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]

    @pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null", b"{", b"", b'{"amount":1,"amount":2}', b"\xff"])
    def test_what_is_no_object_is_refused(self, client: httpx.Client, body: bytes) -> None:
        """No body breaks the edge."""
        assert client.post("/bills", content=body).status_code in {400, 422}

    def test_the_smallest_and_the_largest_are_taken(self, client: httpx.Client) -> None:
        """480 parts of one cent each, and the largest amount in 480 parts, add up."""
        for amount in ("4.80", "999999999999.99"):
            bill = made(client, amount=amount, installments=480)
            assert sum(Decimal(part["amount"]) for part in parts_of(client, bill["id"])) == Decimal(amount)


class TestKeys:
    """Who may."""

    def test_only_app_keys_open_bills(self, parts: Parts, tenant: dict[str, str]) -> None:
        """A write key stands in pages, a read key is for tracking: both are 403 on every bills route; none is 401."""
        anything = uuid.uuid4()
        routes = [
            ("POST", "/bills"), ("GET", "/bills"), ("GET", f"/bills/{anything}"), ("PATCH", f"/bills/{anything}"),
            ("DELETE", f"/bills/{anything}"), ("GET", f"/bills/{anything}/occurrences"), ("GET", "/occurrences"),
            ("PATCH", f"/occurrences/{anything}"), ("POST", f"/occurrences/{anything}/pay"),
            ("POST", f"/occurrences/{anything}/unpay"),
        ]  # fmt: skip
        for method, path in routes:
            for kind in ("write_key", "read_key"):
                headers = {"Authorization": f"Bearer {tenant[kind]}"}
                answer = httpx.request(method, parts.edge_url + path, headers=headers)
                problem(answer, 403, "wrong_kind_of_key")
            problem(httpx.request(method, parts.edge_url + path), 401, "key_missing")
        beacon = httpx.post(f"{parts.edge_url}/track/click", json={}, headers={"X-Write-Key": tenant["app_key"]})
        problem(beacon, 403, "wrong_kind_of_key")

    def test_the_key_names_who_changed_it(self, client: httpx.Client) -> None:
        """The actor is the key, by its id, never by a piece of the key."""
        bill = made(client)
        shown = client.get(f"/bills/{bill['id']}").json()
        assert uuid.UUID(shown["actor"].removeprefix("key:"))

    def test_another_tenant_s_rows_are_as_absent_as_none(self, client: httpx.Client, stranger: httpx.Client) -> None:
        """Every route answers another tenant's id with the same bytes as an id that nobody has."""
        bill = made(client, installments=2)
        part = bill["occurrences"][0]["id"]
        for method, path, ident, body in (
            ("GET", "/bills/{}", bill["id"], None),
            ("GET", "/bills/{}/occurrences", bill["id"], None),
            ("PATCH", "/bills/{}", bill["id"], {"category": "x", "version": 1}),
            ("DELETE", "/bills/{}", bill["id"], {"version": 1}),
            ("PATCH", "/occurrences/{}", part, {"amount": "1.00", "version": 1}),
            ("POST", "/occurrences/{}/pay", part, {}),
            ("POST", "/occurrences/{}/unpay", part, {}),
        ):
            theirs, nobodys, nonsense = (
                stranger.request(method, path.format(one), json=body) for one in (ident, uuid.uuid4(), "no-id")
            )
            problem(theirs, 404, "not_found")
            assert theirs.content == nobodys.content == nonsense.content
        assert stranger.get("/bills").json()["items"] == stranger.get("/occurrences").json()["items"] == []
        assert client.get(f"/bills/{bill['id']}").json()["version"] == 1

    def test_a_tenant_has_a_rate(self, parts: Parts) -> None:
        """The tenant's limit counts requests for bills too."""
        limited = new_tenant(parts)
        parts.cli("tenant", "set", limited["tenant_id"], "--rate-limit", "1")
        with opened(parts, limited) as client:
            answers = [client.get("/bills") for _ in range(4)]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert int(answers[-1].headers["retry-after"]) >= 1


class TestChanging:
    """PATCH, DELETE, pay and unpay."""

    def test_a_change_needs_the_version_that_is_current(self, client: httpx.Client) -> None:
        """No version is 428, another one 409 with the current one, header and body alike; `*` takes any."""
        bill = made(client)
        path = f"/bills/{bill['id']}"
        problem(client.patch(path, json={"category": "a"}), 428, "version_required")
        assert client.patch(path, json={"category": "a", "version": 1}).headers["etag"] == '"2"'
        for answer in (
            client.patch(path, json={"category": "b", "version": 1}),
            client.patch(path, json={"category": "b"}, headers={"If-Match": '"1"'}),
            client.patch(path, json={"category": "b"}, headers={"If-Match": "1"}),
            client.delete(path, headers={"If-Match": '"1"'}),
        ):
            assert problem(answer, 409, "version_conflict")["current_version"] == 2
            assert answer.headers["etag"] == '"2"'
        for header in ('W/"2"', "two", '"2", "3"', ""):
            answer = client.patch(path, json={"category": "b"}, headers={"If-Match": header})
            problem(answer, 422, "invalid_version")
        both = client.patch(path, json={"category": "b", "version": 2}, headers={"If-Match": '"1"'})
        problem(both, 422, "invalid_version")
        assert client.patch(path, json={"category": "b"}, headers={"If-Match": "*"}).json()["version"] == 3
        assert client.get(path, headers={"If-None-Match": '"3"'}).status_code == 304
        problem(client.patch(path, json={"version": 3}), 422, "invalid_body")

    def test_paying_all_pays_the_bill_and_unpaying_one_opens_it(self, client: httpx.Client) -> None:
        """A bill's status follows from its occurrences; its paid_at is the latest of theirs."""
        bill = made(client, installments=2)
        first, second = (part["id"] for part in bill["occurrences"])
        answer = client.post(f"/occurrences/{first}/pay", json={"paid_at": "2026-01-30T18:00:00-03:00"}).json()
        assert (answer["status"], answer["paid_at"]) == ("paid", "2026-01-30T21:00:00+00:00")
        assert answer["bill"] == {"id": bill["id"], "status": "open", "amount": "100.00", "version": 1}
        answer = client.post(f"/occurrences/{second}/pay").json()
        assert answer["bill"]["status"] == "paid"
        assert client.get(f"/bills/{bill['id']}").json()["paid_at"] == answer["paid_at"]
        assert set(version_token.read(answer["version_token"])) == {
            Written("bill_occurrences", uuid.UUID(second), 2), Written("bills", uuid.UUID(bill["id"]), 2),
        }  # fmt: skip
        again = problem(client.post(f"/occurrences/{second}/pay"), 409, "already_paid")
        assert again["current_version"] == 2
        answer = client.post(f"/occurrences/{first}/unpay", json={"version": 2}).json()
        assert (answer["status"], answer["bill"]["status"]) == ("open", "open")
        problem(client.post(f"/occurrences/{first}/unpay"), 409, "not_paid")
        ahead = {"paid_at": (datetime.now(UTC) + timedelta(days=2)).isoformat()}
        problem(client.post(f"/occurrences/{first}/pay", json=ahead), 422, "invalid_body")

    def test_a_bill_is_edited_around_what_is_paid(self, client: httpx.Client) -> None:
        """A new amount is split over what is unpaid; paid parts keep amount and date; all add up."""
        bill = made(client, installments=3)
        client.post(f"/occurrences/{bill['occurrences'][0]['id']}/pay")
        change = {"amount": "200.00", "due_date": "2090-05-31", "category": "home", "user_id": "rui"}
        answer = client.patch(f"/bills/{bill['id']}", json=change, headers={"If-Match": "*"})
        assert answer.status_code == 200, answer.text
        assert [(p["amount"], p["due_date"], p["status"]) for p in parts_of(client, bill["id"])] == [
            ("33.34", "2090-01-31", "paid"), ("83.33", "2090-06-30", "open"), ("83.33", "2090-07-31", "open"),
        ]  # fmt: skip
        assert {(p["category"], p["user_id"]) for p in parts_of(client, bill["id"])} == {("home", "rui")}
        least = client.patch(f"/bills/{bill['id']}", json={"amount": "33.35"}, headers={"If-Match": "*"})
        assert "at least 33.36" in problem(least, 422, "invalid_bill")["errors"][0]["detail"]

    def test_an_occurrence_is_edited_and_its_bill_follows(self, client: httpx.Client) -> None:
        """The bill's amount stays the sum of its installments; a recurrence's stays as planned."""
        bill = made(client, installments=2)
        part = bill["occurrences"][0]["id"]
        change = {"amount": "60.00", "due_date": "2090-03-01", "version": 1}
        answer = client.patch(f"/occurrences/{part}", json=change).json()
        assert (answer["amount"], answer["due_date"], answer["bill"]["amount"]) == ("60.00", "2090-03-01", "110.00")
        assert client.get(f"/bills/{bill['id']}").json()["due_date"] == "2090-03-01"
        client.post(f"/occurrences/{part}/pay")
        paid = client.patch(f"/occurrences/{part}", json={"amount": "1.00"}, headers={"If-Match": "*"})
        problem(paid, 409, "already_paid")
        rent = made(client, recurrence="monthly", count=2)
        answer = client.patch(f"/occurrences/{rent['occurrences'][1]['id']}", json={"amount": "7", "version": 1}).json()
        assert answer["bill"]["amount"] == "100.00"

    def test_cancelling_and_reopening(self, client: httpx.Client) -> None:
        """Cancelling a bill cancels what is unpaid; reopening opens it again; a cancelled part cannot be paid."""
        bill = made(client, installments=2)
        path, part = f"/bills/{bill['id']}", bill["occurrences"][0]["id"]
        assert client.patch(path, json={"status": "cancelled", "version": 1}).json()["status"] == "cancelled"
        problem(client.post(f"/occurrences/{part}/pay"), 409, "already_cancelled")
        assert {p["status"] for p in parts_of(client, bill["id"])} == {"cancelled"}
        answer = client.patch(f"/occurrences/{part}", json={"status": "open"}, headers={"If-Match": "*"}).json()
        assert (answer["status"], answer["bill"]["status"]) == ("open", "open")
        assert client.patch(path, json={"status": "open"}, headers={"If-Match": "*"}).status_code == 200
        assert {p["status"] for p in parts_of(client, bill["id"])} == {"open"}

    def test_deleting_leaves_nothing(self, client: httpx.Client) -> None:
        """A deleted bill is gone with its occurrences, and its token names the tombstones."""
        bill = made(client, installments=2)
        answer = client.delete(f"/bills/{bill['id']}", headers={"If-Match": '"1"'})
        assert answer.json()["deleted"] is True
        rows = version_token.read(answer.json()["version_token"])
        assert {(row.table, row.version, row.deleted) for row in rows} == {
            ("bill_occurrences", 1, True), ("bills", 1, True),
        }  # fmt: skip
        problem(client.get(f"/bills/{bill['id']}"), 404, "not_found")
        problem(client.post(f"/occurrences/{bill['occurrences'][0]['id']}/pay"), 404, "not_found")


class TestOnce:
    """Idempotency-Key."""

    def test_the_same_request_has_the_same_answer_and_one_effect(self, client: httpx.Client) -> None:
        """A retry gets the first answer's bytes, however its JSON is ordered; another body is 422."""
        key = {"Idempotency-Key": str(uuid.uuid4())}
        first = client.post("/bills", json=PLAIN, headers=key)
        again = client.post("/bills", content=json.dumps(dict(reversed(PLAIN.items()))), headers=key)
        assert (again.status_code, again.content) == (first.status_code, first.content)
        for name in ("etag", "location", "afluente-version-token"):
            assert again.headers[name] == first.headers[name]
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        other = client.post("/bills", json={**PLAIN, "amount": "1.00"}, headers=key)
        assert problem(other, 422, "idempotency_key_reused")["errors"][0]["pointer"] == "/header/Idempotency-Key"
        part = first.json()["occurrences"][0]["id"]
        problem(client.post(f"/occurrences/{part}/pay", headers=key), 422, "idempotency_key_reused")

    def test_a_refusal_by_the_rows_is_kept_and_one_by_the_body_is_not(self, client: httpx.Client) -> None:
        """What was refused under a key stays refused under it; a body that was never tried may be mended."""
        part = made(client)["occurrences"][0]["id"]
        key = {"Idempotency-Key": str(uuid.uuid4())}
        refused = client.post(f"/occurrences/{part}/unpay", headers=key)
        problem(refused, 409, "not_paid")
        client.post(f"/occurrences/{part}/pay")
        again = client.post(f"/occurrences/{part}/unpay", headers=key)
        assert (again.status_code, again.content, again.headers["etag"]) == (409, refused.content, '"1"')
        assert again.headers["content-type"] == "application/problem+json"
        mended = {"Idempotency-Key": str(uuid.uuid4())}
        assert client.post("/bills", json={**PLAIN, "amount": "x"}, headers=mended).status_code == 422
        assert client.post("/bills", json=PLAIN, headers=mended).status_code == 201

    def test_a_key_is_the_tenant_s_own(self, client: httpx.Client, stranger: httpx.Client) -> None:
        """Two tenants with the same key make two bills, and neither sees the other's answer."""
        key = {"Idempotency-Key": "the same"}
        one, two = (who.post("/bills", json=PLAIN, headers=key).json()["id"] for who in (client, stranger))
        assert one != two

    @pytest.mark.parametrize("key", ["", "k" * 129, "a\tb"])
    def test_a_key_that_is_none_is_refused(self, client: httpx.Client, key: str) -> None:
        """Too long, empty or unprintable keys are 422."""
        problem(client.post("/bills", json=PLAIN, headers={"Idempotency-Key": key}), 422, "invalid_idempotency_key")
