"""Dead letters go back after a fix: while new traffic flows, killed on the way, twice. Each takes effect once."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from typing import Any

import asyncpg

from app.codec import schema
from app.producer import Record
from infra.local.home import ROOT
from loadtest.history import Outcome, Stream
from loadtest.traffic import SALES
from schemas import envelope
from schemas.topics import GATEWAY_RECEIVED
from tests.fault.case import FULL, Case
from tests.support.children import Child, poll
from tests.support.oracle import MARK

ENTRIES = 10_000 if FULL else 1_000
RATE = ENTRIES // 4  # a second: four seconds, to be killed within
FIXED = "tests.support.fixed_worker"
REASON = "unknown_event"


def sales(tenant: str, count: int) -> tuple[list[Record], list[str], list[str]]:
    """Webhooks of an event that only the fixed worker knows, the keys of their rows there, and their marks."""
    subject = schema("gateway-webhook")
    fixture = ROOT / "tests" / "fixtures" / "webhooks" / "generic" / "order.json"
    order = json.loads(fixture.read_text())
    records, keys, marks = [], [], []
    for _ in range(count):
        event_id, order_id = str(uuid.uuid4()), uuid.uuid4().hex
        body = json.dumps(order | {"event": "order_settled", "order_id": order_id}).encode()
        value = subject.encode({
            "tenant_id": tenant, "event_id": event_id, "gateway": "generic",
            "received_at": int(time.time() * 1000), "content_type": "application/json", "body": body,
        })  # fmt: skip
        headers = envelope.headers(event_id, tenant, "generic", subject.name)
        headers.append((MARK, event_id.encode()))
        records.append(Record(GATEWAY_RECEIVED.name, tenant.encode(), value, headers))
        marks.append(event_id)
        keys.append(f"{order_id}/order_approved")
    return records, keys, marks


def command(case: Case, tenant: str) -> tuple[list[str], dict[str, str]]:
    """`./afluente dlq replay` of that tenant's entries, and its environment."""
    asked = ["dlq", "replay", "--reason", REASON, "--tenant", tenant, "--rate", str(RATE), "--yes", "--json"]
    return [sys.executable, "-m", "infra.local.cli", *asked], {**os.environ, **case.stack.environ}


def replay(case: Case, tenant: str) -> dict[str, Any]:
    """The whole of it, and what it tells."""
    argv, environ = command(case, tenant)
    done = subprocess.run(argv, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def audited(case: Case, tenant: str) -> list[str]:
    """The ids in the audit trail of that tenant's replays."""

    async def ask() -> list[Any]:
        connection = await asyncpg.connect(case.stack.settings.postgres_owner_url.get_secret_value())
        try:
            await connection.execute("SELECT set_config('afluente.tenant_id', $1, false)", tenant)
            found: list[Any] = await connection.fetch(
                "SELECT detail FROM audit WHERE action = 'dlq.replay' AND tenant_id = $1", uuid.UUID(tenant)
            )
            return found
        finally:
            await connection.close()

    return [name for row in asyncio.run(ask()) for name in json.loads(row["detail"])["ids"]]


def test_redrive_killed_and_repeated(case: Case) -> None:
    """A redrive killed half way and run again, twice, beside new traffic: one row an entry, each act audited."""
    tenant = case.traffic.tenants[0]
    records, keys, marks = sales(tenant, ENTRIES)
    case.fleet.ensure(dlq_ratio_max=1, batch_rows_max=1_000)
    case.traffic.poison.update(marks)
    case.channel.send(records)
    case.quiet()
    case.fleet.kill_all()
    for outcome in (Outcome.INVOKED, Outcome.ACCEPTED):
        case.traffic.history.note(outcome, Stream(tenant, SALES), keys)
    argv, environ = command(case, tenant)
    with case.traffic.flowing(100, poisons_each=0):
        case.fleet.start(module=FIXED, batch_rows_max=1_000)
        sent_before = sum(case.oracle.ends(GATEWAY_RECEIVED.name).values())
        first = Child("redrive", argv, environ, case.fleet.next_log("redrive"))

        def sent() -> int:
            return sum(case.oracle.ends(GATEWAY_RECEIVED.name).values()) - sent_before

        poll(lambda: sent() > 0 or not first.alive, "the redrive has begun")
        assert first.kill() == -signal.SIGKILL
        killed_after = sent()
        case.lifted()
        told = [replay(case, tenant), replay(case, tenant)]
    case.fired = f"killed after {killed_after} of {ENTRIES}, then {told[0]['replayed']}, then {told[1]['replayed']}"
    case.settle()
    assert killed_after < ENTRIES
    assert told[1]["selected"] == 0
    names = audited(case, tenant)
    assert len(names) == len(set(names)) == ENTRIES
    case.fleet.kill_all()
