"""Mirrors built anew from their topic on real parts: equal to the byte, while the worker writes, never from a stump."""

import asyncio
import threading
from collections.abc import Iterator
from uuid import UUID

import pytest
from confluent_kafka import TopicPartition

from infra.local.topics import admin_client
from tests.support.bills_stack import BillsStack

BILLS = 60
TABLES = ("bills", "bill_occurrences")
COLUMNS = "* EXCEPT (_topic, _partition, _offset, _ingested_at)"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BillsStack]:
    with BillsStack.running(tmp_path_factory.mktemp("rebuild") / "home") as running:
        yield running


@pytest.fixture
def tenant(stack: BillsStack) -> str:
    made = stack.tenant()
    stack.fill(made, BILLS)
    stack.converge(made)
    return made


def fingerprint(stack: BillsStack, table: str) -> str:
    """Rows and a hash over every column of all of them, as a reader with FINAL sees them."""
    rows = f"SELECT {COLUMNS} FROM afluente.{table} FINAL"
    return stack.clickhouse(f"SELECT count(), sum(cityHash64(toString(tuple(*)))) FROM ({rows})")


def churn(stack: BillsStack, tenant: str) -> None:
    """Every kind of change: edits, moved due dates, deletes."""
    given = UUID(tenant)
    stack.postgres("UPDATE bill_occurrences SET amount = amount + 1 WHERE tenant_id = $1 AND number = 1", given)
    stack.postgres("UPDATE bill_occurrences SET due_date = due_date + 45 WHERE tenant_id = $1 AND number = 2", given)
    stack.postgres("DELETE FROM bills WHERE tenant_id = $1 AND category = '' AND amount < 10", given)
    stack.converge(tenant)


def test_rebuilt_tables_are_equal_to_the_byte_and_lead_back(stack: BillsStack, tenant: str) -> None:
    """After the swap every column of every row is as before; so it is after changes, and after a rollback."""
    churn(stack, tenant)
    before = [fingerprint(stack, table) for table in TABLES]
    tried = stack.afluente("rebuild", "bills", "--dry-run", "--json")
    assert (tried["right"], tried["unlike"], tried["swapped"]) == (True, 0, False)
    done = stack.afluente("rebuild", "bills", "--yes", "--json")
    assert (done["swapped"], done["unlike"], done["poison"], done["refused"]) == (True, 0, 0, 0)
    assert [fingerprint(stack, table) for table in TABLES] == before
    assert [fingerprint(stack, f"{table}_before") for table in TABLES] == before

    churn(stack, tenant)
    after = [fingerprint(stack, table) for table in TABLES]
    assert after != before
    assert stack.afluente("rebuild", "bills", "--rollback", "--yes", "--json")["swapped"]
    assert [fingerprint(stack, table) for table in TABLES] == after
    assert stack.afluente("reconcile", "bills", "--json")["equal"]


def test_the_worker_writes_on_while_the_tables_are_swapped(stack: BillsStack, tenant: str) -> None:
    """Under a stream of changes nothing is lost by a swap: afterwards both databases agree on every row."""
    done = threading.Event()
    writer = threading.Thread(target=lambda: asyncio.run(_write(stack, tenant, done)))
    writer.start()
    try:
        for _ in range(2):
            assert stack.afluente("rebuild", "bills", "--yes", "--json")["swapped"]
    finally:
        done.set()
        writer.join()
    stack.converge(tenant)
    assert stack.afluente("reconcile", "bills", "--json")["equal"]


async def _write(stack: BillsStack, tenant: str, done: threading.Event) -> None:
    connection = await stack.connect()
    ids = [
        row[0] for row in await connection.fetch("SELECT id FROM bill_occurrences WHERE tenant_id = $1", UUID(tenant))
    ]
    number = 0
    while not done.is_set():
        number += 1
        await connection.execute(
            "UPDATE bill_occurrences SET amount = amount + 0.01, due_date = due_date + ($2::int % 3 - 1) WHERE id = $1",
            ids[number % len(ids)],
            number,
        )
    await connection.close()


def test_a_damaged_mirror_is_replaced_because_the_new_one_equals_postgres(stack: BillsStack, tenant: str) -> None:
    """New tables that differ from the ones that are read are swapped in only when they are what Postgres has."""
    damaged = stack.ids(tenant, 3)
    listed = ", ".join(f"'{one}'" for one in damaged)
    stack.clickhouse(f"ALTER TABLE afluente.bill_occurrences DELETE WHERE id IN ({listed}) SETTINGS mutations_sync = 2")
    done = stack.afluente("rebuild", "bills", "--yes", "--json")
    assert (done["unlike"], done["against_postgres"], done["swapped"]) == (3, True, True)
    theirs, ours = stack.figures(tenant, "bill_occurrences")
    assert theirs == ours


def test_a_topic_without_its_beginning_is_refused_unless_a_snapshot_followed(stack: BillsStack, tenant: str) -> None:
    """Rows that retention has taken are never silently lost: refused, then unequal, then right after a snapshot."""
    before = [fingerprint(stack, table) for table in TABLES]
    admin = admin_client(stack.settings)
    partitions = admin.list_topics("bills.changes", timeout=20).topics["bills.changes"].partitions
    ends = [TopicPartition("bills.changes", one, -1) for one in partitions]  # -1: up to the end of each
    for future in admin.delete_records(ends).values():
        future.result(30)
    assert "does not reach back" in stack.afluente("rebuild", "bills", "--yes", status=1)
    assert not stack.afluente("rebuild", "bills", "--cut", "--yes", "--json", status=1)["swapped"]
    assert [fingerprint(stack, table) for table in TABLES] == before
    stack.afluente("cdc", "snapshot")
    done = stack.afluente("rebuild", "bills", "--cut", "--yes", "--json")
    assert (done["against_postgres"], done["swapped"]) == (True, True)
    assert stack.afluente("reconcile", "bills", "--json")["equal"]
