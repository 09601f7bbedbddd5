"""Real Postgres, Kafka and Connect with Debezium, one stack a session: what tests of change data capture run on."""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from app.migrate import SCHEMAS, migrate_postgres, read_migrations
from app.settings import Settings
from infra.local import cdc_actions, jars
from infra.local.cdc_state import Report, definition, report
from infra.local.home import ROOT
from infra.local.ports import free_port
from infra.local.stack import Stack

PARTS = ("kafka", "postgres", "connect")
PARTITIONS = 8
RECORD_BYTES_MAX = 2 << 20
WAIT_S = 60.0
POLL_S = 0.2
TENANT = uuid.UUID("5b0c8a52-53a5-4d0f-8f0e-0d2b8f0f4a11")


def quiet(_text: str) -> None:
    """Nobody watches a test wait."""


@dataclass(frozen=True)
class Change:
    """One record of bills.changes."""

    partition: int
    offset: int
    key: str | None
    headers: list[tuple[str, bytes]]
    envelope: dict[str, Any]

    @property
    def table(self) -> str:
        return str(self.envelope["source"]["table"])

    @property
    def op(self) -> str:
        return str(self.envelope["op"])

    @property
    def row(self) -> dict[str, Any]:
        return self.envelope["after"] or self.envelope["before"]  # type: ignore[no-any-return]

    @property
    def positions(self) -> list[int]:
        """The end of the last commit before it, and its own place in the log."""
        return [int(each or 0) for each in json.loads(self.envelope["source"]["sequence"])]

    @property
    def identity(self) -> tuple[str, str, int, str]:
        return self.table, self.row.get("id", ""), self.positions[1], self.op


class Changes:
    """The topic from where it ended when this was made, or from its beginning."""

    def __init__(self, settings: Settings, *, whole: bool = False) -> None:
        self._consumer = Consumer({
            "bootstrap.servers": settings.kafka_url, "group.id": f"test-{uuid.uuid4()}", "enable.auto.commit": False,
            "log_level": 2,
        })  # fmt: skip
        topic = definition().topic
        places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        starts = [self._consumer.get_watermark_offsets(place, timeout=WAIT_S)[0 if whole else 1] for place in places]
        self._consumer.assign([TopicPartition(topic, number, start) for number, start in enumerate(starts)])
        self.seen: list[Change] = []

    def until(self, enough: Callable[[list[Change]], Any], what: str, seconds: float = WAIT_S) -> list[Change]:
        """Reads on until what was seen is enough. Heartbeats are among it."""
        deadline = time.monotonic() + seconds
        while not enough(self.seen):
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}; seen {len(self.seen)}"
            for record in self._consumer.consume(2000, POLL_S):
                assert record.error() is None, record.error()
                key = record.key()
                self.seen.append(Change(
                    record.partition() or 0, record.offset() or 0, key.decode() if key else None,
                    record.headers() or [], json.loads(record.value() or b"null"),
                ))  # fmt: skip
        return self.seen

    def bills(self, ids: set[uuid.UUID], what: str, ops: str = "cudr", seconds: float = WAIT_S) -> list[Change]:
        """Reads until each of these bills was seen with one of these ops. Returns the records about them."""
        wanted = {str(each) for each in ids}

        def mine(seen: list[Change]) -> list[Change]:
            return [each for each in seen if each.table == "bills" and each.op in ops and each.row["id"] in wanted]

        self.until(lambda seen: {each.row["id"] for each in mine(seen)} >= wanted, what, seconds)
        return mine(self.seen)

    def close(self) -> None:
        self._consumer.close()


class Cdc:
    """The stack and what tests do with it."""

    def __init__(self, home: Path) -> None:
        ports = ("KAFKA", "POSTGRES", "CLICKHOUSE", "EDGE", "WORKER", "CONNECT", "WATCH")
        self.stack = Stack(home, {f"AFLUENTE_{name}_PORT": str(free_port()) for name in ports})
        self.settings: Settings = self.stack.prepare()
        self.before = uuid.uuid4()  # a bill that is older than the connector

    def start(self) -> None:
        """Up to a connector that runs: tables, topic, one bill, the first snapshot."""
        for group in ("kafka", "connect"):
            jars.ensure(group)
        self.stack.up(PARTS)
        admin = AdminClient({"bootstrap.servers": self.settings.kafka_url})
        topic = definition().topic
        if topic not in admin.list_topics(timeout=WAIT_S).topics:
            size = {"max.message.bytes": str(RECORD_BYTES_MAX)}
            for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=size)]).values():
                future.result(WAIT_S)
        asyncio.run(self._fill())
        self.apply()

    async def _fill(self) -> None:
        connection = await self.owner()
        await migrate_postgres(connection, read_migrations(SCHEMAS / "postgres"))
        await connection.execute("INSERT INTO tenants (id, name) VALUES ($1, 'cdc')", TENANT)
        await self.insert(connection, [self.before])
        await connection.close()

    def apply(self) -> cdc_actions.Applied:
        return asyncio.run(cdc_actions.apply(self.settings, quiet))

    async def owner(self) -> "asyncpg.Connection[Any]":
        return await asyncpg.connect(self.settings.postgres_owner_url.get_secret_value())

    async def role(self) -> "asyncpg.Connection[Any]":
        """As Debezium connects."""
        return await asyncpg.connect(self.settings.postgres_cdc_url.get_secret_value())

    async def insert(self, connection: "asyncpg.Connection[Any]", ids: list[uuid.UUID], **columns: Any) -> None:
        """Bills of the test tenant, in one statement and so in one transaction."""
        row = {"user_id": "u", "description": "rent", "amount": 10, "currency": "BRL", "category": "home", **columns}
        await connection.execute(
            "INSERT INTO bills (tenant_id, id, due_date, user_id, description, amount, currency, category) "
            "SELECT $1, unnest($2::uuid[]), '2026-11-05', $3, $4, $5, $6, $7",
            TENANT, ids, row["user_id"], row["description"], row["amount"], row["currency"], row["category"],
        )  # fmt: skip

    def changes(self, *, whole: bool = False) -> Changes:
        return Changes(self.settings, whole=whole)

    def report(self) -> Report:
        return asyncio.run(report(self.settings))

    def wait_verdict(self, verdicts: set[str], seconds: float = WAIT_S) -> float:
        """Polls until the report says one of these. Returns how long that took."""
        began = time.monotonic()
        while True:
            found = self.report()
            if found.verdict in verdicts:
                return time.monotonic() - began
            assert time.monotonic() - began < seconds, f"still {found.verdict} after {seconds} s: {found.document}"
            time.sleep(POLL_S)

    def cli(self, *arguments: str, status: int = 0) -> Any:
        """`./afluente cdc ... --json`, parsed."""
        command = [sys.executable, "-m", "infra.local.cli", "cdc", *arguments, "--json"]
        environ = {**os.environ, **self.stack.environ}
        done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout) if done.stdout else done.stderr


@pytest.fixture(scope="session")
def cdc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cdc]:
    """Change data capture that runs. A test that breaks it mends it."""
    found = Cdc(tmp_path_factory.mktemp("cdc") / "home")
    try:
        found.start()
        yield found
    finally:
        found.stack.down()
