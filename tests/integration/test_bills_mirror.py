"""The mirror of bills on a real Kafka, ClickHouse and worker: hand-written changes become rows, progress and events."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from app import dead_letters, dlq
from app.cdc import Captured
from app.dead_letters import Selection
from app.producer import Record
from infra.local.environment import PREFIX, STACK_ONLY
from infra.local.home import ROOT
from infra.local.ports import free_port
from infra.local.stack import Stack
from schemas.bills import BILL_CREATED, BILL_DELETED, BILLS, EVENT_TYPES, KEYS, OCCURRENCES
from schemas.topics import BILLS_CHANGES
from tests.support.changes import NOVEMBER, TIME, Database, bill, heartbeat, ids, occurrence, produced, record, written
from tests.support.mirrored import Mirrored, send
from tests.support.traffic import Channel
from tests.support.workers import Fleet

PORTS = ("EDGE", "KAFKA", "POSTGRES", "CLICKHOUSE", "WORKER")
MONTHS = 480  # the most installments that a bill may have: each in a partition of its own
DAYS_A_MONTH = 31


class Running:
    """A stack without Connect, a worker, and the way into the topic."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.fleet = Fleet(stack.environ, stack.home.root)
        self.mirrored = Mirrored(stack.settings)
        self.channel = Channel(stack.settings.kafka_url)

    def database(self) -> Database:
        """An empty one, of a tenant of its own."""
        return Database(str(uuid.uuid4()))

    def settle(self) -> None:
        """Until every change is durable."""
        self.mirrored.await_quiet(lambda: self.fleet.workers["w0"].run_for(0.01))


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    # What the caller's shell says about another stack must not reach this one.
    for name in [name for name in os.environ if name.startswith(PREFIX) and name not in STACK_ONLY]:
        del os.environ[name]
    home = Path(tempfile.mkdtemp(prefix="afluente-mirror-"))
    stack = Stack(home, {f"AFLUENTE_{name}_PORT": str(free_port()) for name in PORTS})
    try:
        stack.up(("kafka", "postgres", "clickhouse"))
        found = Running(stack)
        found.fleet.start()
        yield found
        found.fleet.kill_all()
        found.channel.close()
    finally:
        stack.kill_everything()
        stack.down()
        shutil.rmtree(home, ignore_errors=True)


def test_changes_become_what_the_database_has(running: Running) -> None:
    """A life of many rows, each change twice and some late: rows equal to the last column, events once by id."""
    database = running.database()
    database.wander(300, 1)
    late = database.changes[::7]
    send(running.channel, [*(one for one in database.changes if one not in late), *late, *database.changes])
    running.settle()
    assert running.mirrored.differences(database) == []
    told = running.mirrored.events(database.tenant)
    form = Captured(KEYS)
    good, _ = form.inspect([record(offset, change) for offset, change in enumerate(database.changes)])
    assert len({event_id for event_id, _, _ in told}) == len(told) > len(good)
    assert {event_type for _, event_type, _ in told} <= set(EVENT_TYPES)
    assert all(str(value["event_id"]) == event_id for event_id, _, value in told)


def test_a_row_is_where_it_is_and_nowhere_else(running: Running) -> None:
    """Moved between months and days, deleted, inserted again, renamed: no ghost is left, merged or not."""
    database, (a, b, c, d) = running.database(), ids(4)
    database.insert(BILLS, a)
    database.update(BILLS, a, due_date=NOVEMBER + 40)
    database.update(BILLS, a, due_date=NOVEMBER)
    database.insert(BILLS, b)
    database.update(BILLS, b, due_date=NOVEMBER + 1, status="paid", paid_at=TIME)
    database.delete(BILLS, b)
    database.insert(BILLS, b, due_date=NOVEMBER + 70, amount="0.01")
    database.insert(BILLS, c)
    database.rename(BILLS, c, d)
    for change in database.changes:  # each in a batch of its own, so that nothing is settled within one block
        send(running.channel, [change])
        running.settle()
    assert running.mirrored.differences(database) == []
    running.mirrored.sql(f"OPTIMIZE TABLE afluente.{BILLS} FINAL")
    assert running.mirrored.differences(database) == []


def test_of_one_transaction_the_last_change_counts(running: Running) -> None:
    """Changes that share their position are one block or several: either way the later record is alive."""
    (a,) = ids(1)
    for batches in (1, 4):
        tenant = str(uuid.uuid4())
        rows = [bill(a, tenant, amount=f"{n}.00", version=n) for n in range(1, 5)]
        changes = [written(BILLS, "c", None, rows[0], 100, sequence='["900","100"]')]
        changes += [
            written(BILLS, "u", rows[n - 1], rows[n], 100 + n, sequence=f'["900","{100 + n}"]') for n in (1, 2, 3)
        ]
        for number in range(batches):
            send(running.channel, changes[number * 4 // batches : (number + 1) * 4 // batches])
            running.settle()
        assert [row["amount"] for row in running.mirrored.rows(BILLS, tenant)] == ["4.00"]


def test_heartbeats_say_how_far_it_has_come(running: Running) -> None:
    """One row a partition, the newest; a beat that a snapshot reads is left out."""
    tenant = str(uuid.uuid4())
    send(running.channel, [heartbeat(tenant, 5_000), heartbeat(tenant, 5_008), heartbeat(tenant, 9_000, op="r")])
    running.settle()
    query = f"SELECT lsn FROM afluente.cdc_progress FINAL WHERE tenant_id = '{tenant}'"
    assert running.mirrored.sql(query).split() == ["5008"]


def test_what_is_refused_waits_in_the_dlq_and_comes_back(running: Running) -> None:
    """A truncate, a lost column and a widened one are dead with a reason; replayed, they meet the same rules."""
    database, (a, b) = running.database(), ids(2)
    tenant = database.tenant
    lost = bill(a, tenant)
    del lost["category"]
    truncate = Record(BILLS_CHANGES.name, None, orjson.dumps(written(BILLS, "t", None, None, 10)), [])
    bad = [
        written(BILLS, "c", None, lost, 20), written(BILLS, "c", None, bill(a, tenant, amount="1.005"), 30),
        written(OCCURRENCES, "u", None, occurrence(a, tenant), 40),
    ]  # fmt: skip
    database.insert(BILLS, b)
    running.channel.send([truncate, *map(produced, bad), produced(database.changes[0])])
    running.settle()
    assert running.mirrored.differences(database) == []
    bootstrap, mine = running.stack.settings.kafka_url, Selection(pipeline="bills.mirror")
    entries = dead_letters.select(bootstrap, mine, lambda *_: None).entries
    assert sorted(entry.reason for entry in entries) == ["bad_column", "missing_column", "missing_row", "truncated"]
    assert {(entry.schema, entry.tenant_id) for entry in entries} == {("debezium", tenant), ("debezium", "")}
    assert f"bills/{tenant},{a}/20/c" in {entry.event_id for entry in entries}
    for chunk in dead_letters.originals(bootstrap, entries):
        assert all([name for name, _ in sent.headers] == [dlq.REPLAY_OF] for _, sent in chunk)
        running.channel.send([sent for _, sent in chunk])
    running.settle()
    again = dead_letters.select(bootstrap, mine, lambda *_: None).entries
    assert sorted(entry.reason for entry in again) == sorted(2 * [entry.reason for entry in entries])


def test_lost_state_is_rebuilt_from_the_changes(running: Running) -> None:
    """Without its disk a worker reads the changes anew, and a change that comes again is still a duplicate."""
    database, (a,) = running.database(), ids(1)
    database.insert(BILLS, a)
    send(running.channel, database.changes)
    running.settle()
    running.fleet.kill_all()
    shutil.rmtree(running.fleet.home / "worker")
    running.fleet.start()
    database.delete(BILLS, a)
    send(running.channel, [*database.changes, *database.changes])
    running.settle()
    assert running.mirrored.differences(database) == []
    told = [event_type for _, event_type, _ in running.mirrored.events(database.tenant)]
    assert told == [BILL_CREATED, BILL_DELETED]


def test_an_operators_replay_brings_back_what_was_lost(running: Running) -> None:
    """Rows deleted in ClickHouse come back from the topic, tombstones too, and a second replay finds nothing."""
    database = running.database()
    database.wander(40, 3)
    send(running.channel, database.changes)
    running.settle()
    for table in (BILLS, OCCURRENCES):
        where = f"tenant_id = '{database.tenant}' AND NOT is_deleted SETTINGS mutations_sync = 2"
        running.mirrored.sql(f"ALTER TABLE afluente.{table} DELETE WHERE {where}")
    assert running.mirrored.differences(database)
    assert _replayed(running)["restored"] > 0
    assert running.mirrored.differences(database) == []
    assert _replayed(running)["missing"] == 0


def test_installments_over_forty_years_are_one_batch(running: Running) -> None:
    """Each month is a partition, and one bill may reach into more of them than ClickHouse takes by default."""
    database = running.database()
    for number, row_id in enumerate(ids(MONTHS), 1):
        due = NOVEMBER + DAYS_A_MONTH * number
        database.insert(OCCURRENCES, row_id, number=number, installments=MONTHS, due_date=due)
    send(running.channel, database.changes)
    running.settle()
    assert running.mirrored.differences(database) == []


def _replayed(running: Running) -> dict[str, Any]:
    asked = ["replay", "--pipeline", "bills.mirror", "--from", "1h", "--yes", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "infra.local.cli", *asked],
        cwd=ROOT, env=running.stack.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
