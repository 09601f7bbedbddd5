"""Postgres away, hung or full: bills answer 503 in bounded time, nothing is half done, and tracking goes on."""

import os
import signal
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from api.tenant_store import ANSWER_S, POOL_MAX
from tests.support.bills import PLAIN, made, opened, parts_of
from tests.support.edge_parts import Parts, new_tenant, problem, wait_for
from tests.support.edges import Edge
from tests.support.proxy import Fault, Proxy
from tests.support.standby import Standby, family

SLACK_S = 3.0  # key lookup and a machine that is busy with other things


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    running = Parts(Path(tmp_path_factory.mktemp("outages")))
    try:
        running.start_kafka()
        running.start_postgres()
        running.start_edge(AFLUENTE_CREDENTIAL_CACHE_S="0")
        yield running
    finally:
        running.stop_all()


@pytest.fixture
def tenant(parts: Parts) -> dict[str, str]:
    return new_tenant(parts)


@pytest.fixture
def client(parts: Parts, tenant: dict[str, str]) -> Iterator[httpx.Client]:
    """A client of an edge that has got over the outage before, and that knows both keys of the tenant."""
    with opened(parts, tenant) as found:
        wait_for(lambda: found.get("/bills").status_code == 200, "bills are there")
        wait_for(lambda: clicked(parts, tenant).status_code == 202, "clicks are taken")
        yield found


def refused(answer: httpx.Response, seconds: float) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"] == "application/problem+json"
    assert seconds < ANSWER_S + SLACK_S


def timed(client: httpx.Client, method: str, path: str, **sent: Any) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    answer = client.request(method, path, **sent)
    return answer, time.monotonic() - began


def clicked(parts: Parts, tenant: dict[str, str]) -> httpx.Response:
    return httpx.post(
        f"{parts.edge_url}/track/click", json={}, headers={"X-Write-Key": tenant["write_key"]}, timeout=10
    )


def track(parts: Parts, tenant: dict[str, str]) -> None:
    answer = clicked(parts, tenant)
    assert answer.status_code == 202, answer.text


def test_without_postgres_bills_wait_and_tracking_does_not(
    parts: Parts, tenant: dict[str, str], client: httpx.Client
) -> None:
    """With Postgres gone, bills are 503 with Retry-After; clicks with a known key are still taken; all comes back."""
    bill = made(client)
    parts.stop("postgres", signal.SIGINT)
    for method, path, body in (
        ("POST", "/bills", PLAIN),
        ("GET", "/bills", None),
        ("GET", f"/bills/{bill['id']}", None),
    ):
        refused(*timed(client, method, path, json=body))
    for _ in range(5):
        track(parts, tenant)
    parts.start_postgres(migrate=False)
    wait_for(lambda: client.get(f"/bills/{bill['id']}").status_code == 200, "bills are back")


def test_a_server_that_hangs_is_not_waited_for(parts: Parts, tenant: dict[str, str], client: httpx.Client) -> None:
    """A frozen Postgres costs its own requests the deadline, no others; the retry with the same key makes one bill."""
    key = {"Idempotency-Key": str(uuid.uuid4())}
    body = {**PLAIN, "category": key["Idempotency-Key"]}
    family = psutil.Process(parts.processes["postgres"].pid)
    frozen = [family, *family.children(recursive=True)]
    for process in frozen:
        process.suspend()
    try:
        refused(*timed(client, "POST", "/bills", json=body, headers=key))
        for _ in range(POOL_MAX + 2):  # more than there are connections to hang on
            refused(*timed(client, "GET", "/bills"))
        track(parts, tenant)
    finally:
        for process in frozen:
            process.resume()
    answer = wait_for(lambda: _taken(client.post("/bills", json=body, headers=key)), "the retry is answered")
    found = client.get("/bills", params={"category": key["Idempotency-Key"]}).json()["items"]
    assert [bill["id"] for bill in found] == [answer.json()["id"]]


def edge_over(parts: Parts, address: Proxy, name: str) -> Edge:
    """An edge more, whose way to Postgres is that address."""
    url = parts.settings.postgres_url.get_secret_value()
    moved = url.replace(f":{parts.settings.postgres_port}/", f":{address.port}/")
    environ = {**os.environ, **parts.environ, "AFLUENTE_POSTGRES_URL": moved, "AFLUENTE_CREDENTIAL_CACHE_S": "0"}
    return Edge(environ, parts.home.root / f"{name}-edge.log").await_ready()


def test_a_frozen_primary_that_is_replaced_costs_one_deadline(parts: Parts, tenant: dict[str, str]) -> None:
    """After a failover every idle connection leads to a server that never answers: one is waited for, not each."""
    address = Proxy(parts.settings.postgres_port)
    edge = edge_over(parts, address, "second")
    standby = Standby(parts.home.root, parts.settings).start()
    client = httpx.Client(base_url=edge.url, headers={"X-App-Key": tenant["app_key"]}, timeout=20)
    with ThreadPoolExecutor(2 * POOL_MAX) as pool:  # until each pool is full of connections
        assert {one.status_code for one in pool.map(lambda _: client.get("/bills"), range(10 * POOL_MAX))} <= {200, 503}
    other = {"X-App-Key": new_tenant(parts)["app_key"]}
    primary = family(parts.processes["postgres"].pid)
    for process in primary:
        process.suspend()
    try:
        standby.promote()
        address.port_behind = standby.port
        began = time.monotonic()
        wait_for(lambda: client.get("/bills").status_code == 200, "bills are back")
        wait_for(lambda: client.get("/bills", headers=other).status_code == 200, "unknown keys are looked up again")
        assert time.monotonic() - began < ANSWER_S + SLACK_S
    finally:
        for process in primary:
            process.resume()
        edge.kill()
        standby.leave()
        address.close()


def test_last_words_of_a_server_are_an_outage(parts: Parts, tenant: dict[str, str]) -> None:
    """Connections that Postgres ended, and whose end is not heard: 503 or an answer, never a 500, and soon well."""
    address = Proxy(parts.settings.postgres_port)
    edge = edge_over(parts, address, "third")
    client = httpx.Client(base_url=edge.url, headers={"X-App-Key": tenant["app_key"]}, timeout=20)
    try:
        wait_for(lambda: client.get("/bills").status_code == 200, "bills are there")
        with address.broken(Fault(keep_open=True)):
            assert _end_connections(parts) >= 2  # of rows and of keys
            found = [client.get("/bills").status_code for _ in range(2 * POOL_MAX)]
        assert set(found) <= {200, 503}
        assert 503 in found
        wait_for(lambda: client.get("/bills").status_code == 200, "bills are back")
    finally:
        edge.kill()
        address.close()


def _end_connections(parts: Parts) -> int:
    """End every idle connection as pg_terminate_backend does; how many there were."""
    children = psutil.Process(parts.processes["postgres"].pid).children(recursive=True)
    idle = [child for child in children if child.cmdline()[0].endswith(" idle")]
    for one in idle:
        one.terminate()
    psutil.wait_procs(idle, timeout=SLACK_S)
    return len(idle)


def _taken(answer: httpx.Response) -> httpx.Response | None:
    return answer if answer.status_code == 201 else None


def test_a_killed_edge_leaves_all_or_nothing(parts: Parts, client: httpx.Client) -> None:
    """Killed in the middle of changes: each is whole or absent, and its retry with the same key ends as one change."""
    bills = [made(client, installments=6, amount="600.00") for _ in range(4)]
    keys = {bill["id"]: str(uuid.uuid4()) for bill in bills}

    def ask(bill: dict[str, Any]) -> httpx.Response | None:
        headers = {"Idempotency-Key": keys[bill["id"]], "If-Match": "*"}
        try:
            return client.patch(f"/bills/{bill['id']}", json={"amount": "900.00"}, headers=headers)
        except httpx.TransportError:
            return None

    with ThreadPoolExecutor(len(bills)) as pool:
        asked = [pool.submit(ask, bill) for bill in bills]
        parts.stop("edge", signal.SIGKILL)
        for one in asked:
            one.result()
    parts.start_edge(AFLUENTE_CREDENTIAL_CACHE_S="0")
    for bill in bills:
        found = parts_of(client, bill["id"])
        assert {part["amount"] for part in found} in ({"100.00"}, {"150.00"})
        answer = wait_for(lambda bill=bill: ask(bill), "the edge answers")  # type: ignore[misc]
        assert (answer.status_code, answer.json()["amount"], answer.json()["version"]) == (200, "900.00", 2)


def test_a_refused_body_is_not_repeated(client: httpx.Client) -> None:
    """An unreadable body or header on a bills route is a 4xx, with nothing of it in the answer."""
    secret = "s3cr3t-in-the-body"
    for sent in (
        {"content": f'{{"{secret}":'},
        {"json": {**PLAIN, "amount": secret}},
        {"json": {**PLAIN, secret: [secret]}},
    ):
        answer = client.post("/bills", **sent)  # type: ignore[arg-type]
        assert answer.status_code in {400, 422}
        assert f'"{secret}"' not in answer.text
    assert problem(client.get("/bills", params={"limit": "x"}), 422, "invalid_parameters")
