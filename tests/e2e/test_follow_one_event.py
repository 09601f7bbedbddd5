"""One event from the HTTP request to a row, and everything a user does around it, on the whole stack."""

import hashlib
import hmac
import json
import secrets
import uuid

import httpx
import pytest

from infra.local.stack import Stack
from tests.e2e.conftest import Cli, Traces
from tests.support.edge_parts import wait_for

TRACE_ID = secrets.token_hex(16)


@pytest.fixture
def edge(stack: Stack) -> str:
    return f"http://127.0.0.1:{stack.settings.edge_port}"


@pytest.fixture(scope="module")
def secret(cli: Cli, tenant: dict[str, str]) -> str:
    chosen = secrets.token_urlsafe(24)
    done = cli.run("webhook", "set-secret", tenant["tenant_id"], "generic", given=chosen + "\n")
    assert done.returncode == 0, done.stderr
    return chosen


def rows(stack: Stack, sql: str) -> list[dict[str, object]]:
    answer = httpx.post(stack.settings.clickhouse_url, content=f"{sql} FORMAT JSONEachRow")
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_click_becomes_one_row_and_can_be_read_back(stack: Stack, edge: str, tenant: dict[str, str]) -> None:
    """What the edge accepted twice is one row, in ClickHouse and on the reading side, under the key's tenant."""
    event_id = f"follow-{uuid.uuid4()}"
    event = {"event_id": event_id, "url": "https://shop.example/?utm_source=mail", "utm_source": "mail"}
    for _ in range(2):
        answer = httpx.post(
            f"{edge}/track/click", json=event, headers={"Authorization": f"Bearer {tenant['write_key']}"}
        )
        assert (answer.status_code, answer.json()["event_ids"]) == (202, [event_id])
    where = f"WHERE tenant_id = '{tenant['tenant_id']}' AND event_id = '{event_id}'"
    columns = "event_id, event_type, utm_source, _topic, _partition, _offset"
    sql = f"SELECT {columns} FROM afluente.tracking_events {where}"
    found = wait_for(lambda: rows(stack, sql), "the row is there")
    assert [(row["event_type"], row["utm_source"], row["_topic"]) for row in found] == [
        ("click", "mail", "tracking.collected")
    ]
    key = {"Authorization": f"Bearer {tenant['read_key']}"}
    read = httpx.get(f"{edge}/tracking/events", params={"limit": 1000}, headers=key).json()
    assert [each["event_id"] for each in read["items"]].count(event_id) == 1


def test_another_tenant_sees_nothing_of_it(edge: str, cli: Cli) -> None:
    """A tenant never sees another's events: the tenant comes from the read key alone."""
    stranger = cli.json("tenant", "create", f"stranger-{uuid.uuid4().hex[:8]}")
    key = {"Authorization": f"Bearer {stranger['read_key']}"}
    for path in ("/tracking/events", "/sales"):
        answer = httpx.get(f"{edge}{path}", headers=key)
        assert answer.status_code == 200
        assert answer.json()["items"] == []


def test_a_signed_sale_becomes_a_row_of_its_order(stack: Stack, edge: str, secret: str, tenant: dict[str, str]) -> None:
    """A webhook with the right signature is normalised into one sale; the same delivery again adds none."""
    sale = {
        "event_id": f"d-{uuid.uuid4()}",
        "event": "order_approved",
        "order_id": "O-1",
        "occurred_at": "2026-11-01T12:00:00Z",
        "amount": "149.90",
        "currency": "BRL",
        "buyer": {"email": "ana@example.com"},
    }
    body = json.dumps(sale).encode()
    signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    for _ in range(2):
        answer = httpx.post(
            f"{edge}/webhooks/generic",
            params={"key": tenant["write_key"]},
            content=body,
            headers={"X-Afluente-Signature": signature, "Content-Type": "application/json"},
        )
        assert answer.status_code == 200, answer.text
    columns = "event_type, toString(amount) AS amount, email_hash"
    sql = f"SELECT {columns} FROM afluente.gateway_events WHERE tenant_id = '{tenant['tenant_id']}'"
    found = wait_for(lambda: rows(stack, sql), "the sale is a row")
    assert [(row["event_type"], row["amount"]) for row in found] == [("order_approved", "149.9")]
    assert "ana" not in str(found[0]["email_hash"])


def test_one_trace_leads_from_the_request_to_the_insert(edge: str, tenant: dict[str, str], traces: Traces) -> None:
    """The trace context of the request travels in the Kafka headers: edge and worker export spans of one trace."""
    headers = {"Authorization": f"Bearer {tenant['write_key']}", "traceparent": f"00-{TRACE_ID}-{'1' * 16}-01"}
    assert httpx.post(f"{edge}/track/click", json={"url": "https://shop.example/"}, headers=headers).status_code == 202

    def names() -> set[str]:
        return {name for trace_id, name in traces.spans if trace_id == TRACE_ID}

    wait_for(lambda: {"edge.track", "tracking.collect insert"} <= names(), "both spans are exported")


def test_a_record_that_cannot_be_normalised_waits_in_the_dlq(
    edge: str, cli: Cli, secret: str, tenant: dict[str, str]
) -> None:
    """Poison goes to the DLQ with its reason, and its neighbours arrive."""
    body = b'{"event": "order_approved", "nothing": "else"}'
    signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    answer = httpx.post(
        f"{edge}/webhooks/generic",
        params={"key": tenant["write_key"]},
        content=body,
        headers={"X-Afluente-Signature": signature},
    )
    assert answer.status_code == 200

    def dead() -> list[dict[str, object]]:
        listed = cli.json("dlq", "list", "--tenant", tenant["tenant_id"])
        found: list[dict[str, object]] = listed["entries"] if isinstance(listed, dict) else listed
        return found

    found = wait_for(dead, "the DLQ has it")
    assert [entry["pipeline"] for entry in found] == ["tracking.normalise"]


def test_the_metrics_of_both_processes_are_scraped(stack: Stack) -> None:
    """Edge and worker give Prometheus what the dashboard needs, under the pipeline's one name."""
    worker = httpx.get(f"http://127.0.0.1:{stack.settings.worker_port}/metrics").text
    edge = httpx.get(f"http://127.0.0.1:{stack.settings.edge_port}/metrics").text
    assert 'afluente_rows_inserted_total{pipeline="tracking.collect",table="tracking_events"}' in worker
    assert "afluente_http_requests_total" in edge
