"""The DLQ commands and the operator's replay on real Kafka, Postgres, ClickHouse and worker: exactly once in effect."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from app import dead_letters
from app.codec import schema
from app.dead_letters import Selection
from app.producer import Producer, Record
from infra.local.home import ROOT
from infra.local.launch import Launch
from infra.local.ports import free_port
from schemas import envelope
from tests.support.edge_parts import Parts, wait_for

TENANT = str(uuid4())
BUYER = "Nina.Teste@example.com"
TRACKED = 300
LOST = 40


class Stack(Parts):
    """The parts that a worker needs, and the worker."""

    def start_clickhouse(self) -> None:
        self._start("clickhouse", Launch([sys.executable, "-m", "infra.local.clickhouse"]))
        wait_for(lambda: httpx.get(f"{self.settings.clickhouse_url}/ping").status_code == 200, "ClickHouse answers")

    def migrate(self) -> None:
        subprocess.run([sys.executable, "-m", "app.migrate"], cwd=ROOT, env={**os.environ, **self.environ}, check=True)

    def start_worker(self, module: str = "agents.worker") -> None:
        faust = str(Path(sys.executable).with_name("faust"))
        self._start("worker", Launch([faust, "-A", module, "worker", "-l", "info"]))
        url = f"http://127.0.0.1:{self.settings.worker_port}/health/ready"
        wait_for(lambda: httpx.get(url).status_code == 200, "the worker is ready")

    def lose_worker_state(self) -> None:
        shutil.rmtree(self.settings.worker_folder)

    def afluente(self, *arguments: str, status: int = 0) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "infra.local.cli", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.environ, "AFLUENTE_MASTER_KEY": self.settings.master_key.get_secret_value()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout) if "--json" in arguments and status == 0 else done.stdout + done.stderr

    def sql(self, query: str) -> str:
        answer = httpx.post(self.settings.clickhouse_url, content=query, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.text.strip()

    def rows(self, table: str, event_id: str = "") -> tuple[int, int]:
        only = f" AND event_id = '{event_id}'" if event_id else ""
        counts = f"SELECT count(), uniqExact(event_id) FROM afluente.{table}"
        found = self.sql(f"{counts} WHERE tenant_id = '{TENANT}'{only}")
        count, unique = found.split("\t")
        return int(count), int(unique)

    def wait_rows(self, table: str, count: int) -> None:
        wait_for(lambda: self.rows(table)[0] >= count, f"{count} rows in {table}", 30)
        assert self.rows(table) == (count, count)

    def wait_dead(self, count: int) -> None:
        wait_for(lambda: len(self.records("gateway.received.dlq")) >= count, f"{count} records in the DLQ", 30)

    def wait_lag_zero(self) -> None:
        wait_for(lambda: self.afluente("lag", "--json")["lag"] == 0, "no lag", 30)

    def produce(self, records: list[Record]) -> None:
        async def send() -> None:
            producer = Producer(self.settings.kafka_url, timeout_ms=20_000)
            await producer.send_many(records)
            await producer.close()

        asyncio.run(send())

    def audit(self, action: str) -> list[dict[str, Any]]:
        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.settings.postgres_owner_url.get_secret_value())
            try:
                return await connection.fetch("SELECT * FROM audit WHERE action = $1 ORDER BY id", action)
            finally:
                await connection.close()

        return [dict(row) | {"detail": json.loads(row["detail"])} for row in asyncio.run(ask())]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Stack(Path(tmp_path_factory.mktemp("dlq")), AFLUENTE_WORKER_PORT=str(free_port()))
    try:
        running.start_kafka()
        running.start_postgres(migrate=False)
        running.start_clickhouse()
        running.migrate()
        running.start_worker()
        yield running
    finally:
        running.stop("worker")
        running.stop_all()


def webhook(event_id: str, event: str) -> Record:
    fixture = ROOT / "tests" / "fixtures" / "webhooks" / "generic" / "order.json"
    body = json.dumps(json.loads(fixture.read_text()) | {"event": event}).encode()
    subject = schema("gateway-webhook")
    value = subject.encode({
        "tenant_id": TENANT, "event_id": event_id, "gateway": "generic", "received_at": int(time.time() * 1000),
        "content_type": "application/json", "body": body,
    })  # fmt: skip
    headers = envelope.headers(event_id, TENANT, "generic", subject.name)
    return Record("gateway.received", TENANT.encode(), value, headers)


def click(event_id: str) -> Record:
    subject = schema("tracking-event")
    now_ms = int(time.time() * 1000)
    fields: dict[str, Any] = {}
    for field in subject.latest.parsed["fields"]:
        kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
        fields[field["name"]] = field.get("default", None if "null" in kinds else "")
    fields |= {"tenant_id": TENANT, "event_id": event_id, "event_type": "click"}
    fields |= {"occurred_at": now_ms, "received_at": now_ms}
    headers = envelope.headers(event_id, TENANT, "click", subject.name)
    return Record("tracking.collected", TENANT.encode(), subject.encode(fields), headers)


def resend(stack: Stack, reason: str) -> None:
    """What `dlq replay` does up to where a crash keeps it from marking."""
    found = dead_letters.select(stack.settings.kafka_url, Selection(reason=reason), lambda *_: None)
    for chunk in dead_letters.originals(stack.settings.kafka_url, found.entries):
        stack.produce([record for _, record in chunk])


def test_a_dead_record_takes_effect_once_after_the_fix(stack: Stack) -> None:
    """Poison, DLQ, fix, replay: one row, also when replay died before it marked, and when the worker lost its state."""
    stack.produce([webhook("good-1", "order_approved"), webhook("dead-1", "order_settled")])
    stack.wait_rows("gateway_events", 1)
    stack.wait_dead(1)
    (entry,) = stack.afluente("dlq", "list", "--json")["entries"]
    assert (entry["event_id"], entry["reason"], entry["state"]) == ("dead-1", "unknown_event", "open")
    name = entry["id"]

    # A range that was replayed after a crash has written its dead records twice: they are one entry.
    (dead,) = stack.records("gateway.received.dlq")
    stack.produce([Record("gateway.received.dlq", dead.key(), dead.value(), dead.headers())])
    listed = stack.afluente("dlq", "list", "--tenant", TENANT, "--from", "1h", "--json")
    assert [(each["id"], each["copies"]) for each in listed["entries"]] == [(name, 2)]

    assert BUYER not in stack.afluente("dlq", "show", name)
    assert stack.afluente("dlq", "show", name, "--body", "--json")["value"]["value"]["body"]["buyer"]["email"] == BUYER
    assert stack.afluente("dlq", "replay", name, "--dry-run", "--json")["replayed"] == 0

    stack.stop("worker")
    resend(stack, "unknown_event")  # a first replay that was killed before it marked
    assert stack.afluente("dlq", "replay", "--reason", "unknown_event", "--yes", "--json")["replayed"] == 1
    stack.lose_worker_state()
    stack.start_worker("tests.support.fixed_worker")
    stack.wait_rows("gateway_events", 2)
    assert "was replayed by" in stack.afluente("dlq", "replay", name, "--yes", status=1)

    stack.stop("worker")
    stack.lose_worker_state()
    resend(stack, "unknown_event")
    stack.start_worker("tests.support.fixed_worker")
    stack.wait_lag_zero()
    assert stack.rows("gateway_events") == (2, 2)
    assert stack.rows("gateway_events", "dead-1") == (1, 1)
    assert stack.afluente("dlq", "list", "--json") == {"entries": [], "found": 0}
    (trail,) = stack.audit("dlq.replay")
    assert (str(trail["tenant_id"]), trail["detail"]["ids"]) == (TENANT, [name])


def test_a_replayed_record_that_clickhouse_has_by_now_is_not_sent(stack: Stack) -> None:
    """A later good delivery of a dead event closes it: its replay is marked and nothing is produced."""
    dead = len(stack.records("gateway.received.dlq"))
    stack.produce([webhook("late-1", "order_unheard_of")])
    stack.wait_dead(dead + 1)
    before = stack.rows("gateway_events")[0]
    stack.produce([webhook("late-1", "order_approved")])
    stack.wait_rows("gateway_events", before + 1)
    produced = len(stack.records("gateway.received"))
    done = stack.afluente("dlq", "replay", "--yes", "--json")
    assert (done["replayed"], done["already_stored"]) == (0, 1)
    assert len(stack.records("gateway.received")) == produced


def test_a_discarded_record_is_closed_for_good(stack: Stack) -> None:
    """Discarding needs a reason, happens once, is audited, and keeps the record out of any replay."""
    dead = len(stack.records("gateway.received.dlq"))
    stack.produce([webhook("junk-1", "order_unheard_of")])
    stack.wait_dead(dead + 1)
    name = stack.afluente("dlq", "list", "--json")["entries"][0]["id"]
    assert "--why" in stack.afluente("dlq", "discard", name, "--yes", status=1)
    assert stack.afluente("dlq", "discard", name, "--why", "a test", "--yes", "--json")["discarded"] == 1
    assert "was discarded by" in stack.afluente("dlq", "discard", name, "--why", "again", "--yes", status=1)
    assert stack.afluente("dlq", "replay", "--yes", "--json")["selected"] == 0
    (act,) = stack.afluente("dlq", "list", "--state", "discarded", "--json")["entries"]
    assert (act["id"], act["action"]["reason"]) == (name, "a test")
    assert [line["detail"]["reason"] for line in stack.audit("dlq.discard")] == ["a test"]


def test_an_operators_replay_restores_what_is_missing_and_nothing_else(stack: Stack) -> None:
    """Rows lost in ClickHouse come back once; rows that are there and records of the worker are left alone."""
    ids = [f"click-{number:04}" for number in range(TRACKED)]
    stack.produce([click(one) for one in [*ids, *ids[:30]]])
    stack.wait_rows("tracking_events", TRACKED)
    stack.wait_lag_zero()
    lost = f"event_id < 'click-{LOST:04}' SETTINGS mutations_sync = 2"
    stack.sql(f"ALTER TABLE afluente.tracking_events DELETE WHERE {lost}")
    assert stack.rows("tracking_events") == (TRACKED - LOST, TRACKED - LOST)
    asked = ("replay", "--pipeline", "tracking.collect", "--from", "1h", "--json")
    assert stack.afluente(*asked, "--dry-run")["missing"] == LOST

    stack.stop("worker")
    stack.produce([click(f"waiting-{number}") for number in range(20)])
    done = stack.afluente(*asked, "--yes")
    assert (done["restored"], done["left_to_worker"], done["doubled"]) == (LOST, 20, 0)
    assert stack.rows("tracking_events") == (TRACKED, TRACKED)
    assert stack.afluente(*asked, "--yes")["restored"] == 0
    assert {line["detail"]["state"] for line in stack.audit("replay.run")} == {"started", "ended"}

    stack.start_worker()
    stack.wait_rows("tracking_events", TRACKED + 20)
    assert "There is no pipeline" in stack.afluente("replay", "--pipeline", "x", "--from", "1h", "--yes", status=1)
