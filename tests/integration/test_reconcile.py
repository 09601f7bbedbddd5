"""The comparison of Postgres and ClickHouse on real parts: what is planted is found, named and mended; lag is not."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.support.bills_stack import BillsStack

BILLS = 60
HOT_ROWS = 40  # rewritten all the time by the storm
CALM_S = 0.02  # between two transactions of it: faster than the mirror keeps up, the backlog would be the test
# The row in a subquery: a replaced column would stand for itself in WHERE.
ROW = """SELECT * REPLACE ({change}) FROM
    (SELECT * FROM afluente.bill_occurrences FINAL WHERE tenant_id = '{tenant}' AND id = '{id}')"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BillsStack]:
    with BillsStack.running(tmp_path_factory.mktemp("reconcile") / "home") as running:
        yield running


@pytest.fixture
def tenant(stack: BillsStack) -> str:
    made = stack.tenant()
    stack.fill(made, BILLS)
    stack.converge(made)
    return made


def plant(stack: BillsStack, tenant: str, row_id: str, change: str) -> None:
    """One more row in the mirror, made of one that is there."""
    select = ROW.format(change=change, tenant=tenant, id=row_id)
    stack.clickhouse(f"INSERT INTO afluente.bill_occurrences {select}")


def mutate(stack: BillsStack, tenant: str, row_id: str, change: str) -> None:
    """A row of the mirror changed behind everybody's back."""
    where = f"WHERE tenant_id = '{tenant}' AND id = '{row_id}' SETTINGS mutations_sync = 2"
    stack.clickhouse(f"ALTER TABLE afluente.bill_occurrences {change} {where}")


def events(stack: BillsStack) -> int:
    """How many records bills.events has."""
    reader = Consumer({"bootstrap.servers": stack.settings.kafka_url, "group.id": "test"})
    try:
        partitions = reader.list_topics("bills.events", timeout=20).topics["bills.events"].partitions
        ends = [reader.get_watermark_offsets(TopicPartition("bills.events", one), timeout=20) for one in partitions]
        return sum(high for _, high in ends)
    finally:
        reader.close()


def test_each_planted_difference_is_found_named_and_mended(stack: BillsStack, tenant: str) -> None:
    """Missing, extra, old, changed and ghost rows are named with kind and id, and are right after --repair."""
    missing, like, old, changed, ghost, near = stack.ids(tenant, 6)
    extra = "00000000-0000-4000-8000-0000000000aa"
    mutate(stack, tenant, missing, "DELETE")
    plant(stack, tenant, like, f"toUUID('{extra}') AS id")
    mutate(stack, tenant, old, "UPDATE version = 0, status = 'cancelled'")
    mutate(stack, tenant, changed, "UPDATE amount = amount + toDecimal64(0.01, 2)")
    plant(stack, tenant, ghost, "due_date - INTERVAL 3 MONTH AS due_date, 7 AS _version")
    plant(stack, tenant, near, "due_date + 1 AS due_date, 7 AS _version")
    wanted = {
        (missing, "missing"), (extra, "extra"), (old, "old_version"), (changed, "changed"), (ghost, "ghost"),
        (near, "ghost"),
    }  # fmt: skip

    found = stack.afluente("reconcile", "bills", "--tenant", tenant, "--json", status=1)
    assert {(one["id"], one["kind"]) for one in found["listed"]} == wanted
    assert [one["fields"] for one in found["listed"] if one["kind"] == "changed"] == [["amount"]]
    assert found["kinds"] == Counter(kind for _, kind in wanted)
    assert {one["tenant_id"] for one in found["listed"]} == {tenant}

    before = events(stack)
    mended = stack.afluente("reconcile", "bills", "--repair", "--json")
    assert (mended["repaired"]["rows"], mended["repaired"]["tombstones"]) == (3, 3)
    assert (mended["differences"], mended["after"]["differences"]) == (6, 0)
    theirs, ours = stack.figures(tenant, "bill_occurrences")
    assert theirs == ours
    # A repair changes no bill, so it tells nobody that one changed.
    assert events(stack) == before
    # A second repair finds nothing to do.
    assert stack.afluente("reconcile", "bills", "--repair", "--json")["repaired"] is None
    trail = stack.postgres(
        "SELECT target FROM audit WHERE action = 'reconcile.repair' AND tenant_id = $1", UUID(tenant)
    )
    assert [row[0] for row in trail] == ["bill_occurrences"]


def test_a_repaired_row_takes_the_next_change(stack: BillsStack, tenant: str) -> None:
    """What a repair writes loses against every later change of the row, deletes included."""
    first, second = stack.ids(tenant, 2)
    for one in (first, second):
        mutate(stack, tenant, one, "DELETE")
    assert stack.afluente("reconcile", "bills", "--repair", "--json")["repaired"]["rows"] == 2
    stack.postgres("UPDATE bill_occurrences SET amount = amount + 5 WHERE id = $1", UUID(first))
    stack.postgres("DELETE FROM bill_occurrences WHERE id = $1", UUID(second))
    stack.converge(tenant)
    assert stack.afluente("reconcile", "bills", "--json")["equal"]


def test_lag_is_not_a_difference(stack: BillsStack, tenant: str) -> None:
    """While the worker stands there is no verdict, and a sentence that says why; once it runs, both are equal."""
    stack.stack.stop("worker")
    try:
        stack.postgres("UPDATE bill_occurrences SET amount = amount + 1 WHERE tenant_id = $1", UUID(tenant))
        said = stack.afluente("reconcile", "bills", "--wait", "3", status=3)
        assert "this is lag, not a difference" in said
    finally:
        stack.stack.start("worker")
    assert stack.afluente("reconcile", "bills", "--tenant", tenant, "--json")["equal"]


def test_rows_that_change_meanwhile_are_not_differences(stack: BillsStack, tenant: str) -> None:
    """Under a storm of updates, moved due dates, deletes and inserts, not one difference is reported."""
    done = threading.Event()
    storm = threading.Thread(target=lambda: asyncio.run(_storm(stack, tenant, done)))
    storm.start()
    try:
        found = [stack.afluente("reconcile", "bills", "--tenant", tenant, "--json", status=None) for _ in range(2)]
    finally:
        done.set()
        storm.join()
    # A row that changed between all passes is unsettled: that is no verdict on it, and no difference. One that moved
    # meanwhile is so in two months.
    assert [one["differences"] for one in found] == [0, 0]
    assert all(one["unsettled"] <= 2 * HOT_ROWS for one in found)
    stack.converge(tenant)
    assert stack.afluente("reconcile", "bills", "--tenant", tenant, "--json")["equal"]


async def _storm(stack: BillsStack, tenant: str, done: threading.Event) -> None:
    connection = await stack.connect()
    hot = "SELECT id FROM bill_occurrences WHERE tenant_id = $1 LIMIT $2"
    ids = [row[0] for row in await connection.fetch(hot, UUID(tenant), HOT_ROWS)]
    chance = random.Random(5)
    while not done.is_set():
        async with connection.transaction():
            for one in chance.sample(ids, 5):
                days = chance.randint(-40, 40)
                await connection.execute(
                    "UPDATE bill_occurrences SET amount = amount + 0.01, due_date = due_date + $2::int WHERE id = $1",
                    one, days,
                )  # fmt: skip
        await asyncio.sleep(CALM_S)
        gone = chance.choice(ids)
        async with connection.transaction():
            row = await connection.fetchrow("DELETE FROM bill_occurrences WHERE id = $1 RETURNING *", gone)
        if row is not None:
            columns = ", ".join(row.keys())
            places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
            await connection.execute(f"INSERT INTO bill_occurrences ({columns}) VALUES ({places})", *row.values())
    await connection.close()


def test_a_row_that_a_transaction_holds_is_left_for_the_next_repair(stack: BillsStack, tenant: str) -> None:
    """A repair waits for no lock: the row stays a difference until the transaction has ended."""
    (held,) = stack.ids(tenant, 1)
    mutate(stack, tenant, held, "DELETE")

    async def hold() -> None:
        connection = await stack.connect()
        async with connection.transaction():
            await connection.execute("UPDATE bill_occurrences SET amount = amount + 2 WHERE id = $1", UUID(held))
            arguments = ("reconcile", "bills", "--repair", "--json")
            first = await asyncio.to_thread(stack.afluente, *arguments, status=1)
            assert (first["repaired"]["held"], first["repaired"]["rows"]) == (1, 0)
        await connection.close()

    asyncio.run(hold())
    stack.converge(tenant)
    assert stack.afluente("reconcile", "bills", "--repair", "--json")["equal"]


def test_an_lsn_from_the_future_is_said_and_not_fought(stack: BillsStack, tenant: str) -> None:
    """A mirror that is ahead of Postgres is a difference that no repair can win over, and the command says so."""
    (ahead,) = stack.ids(tenant, 1)
    plant(stack, tenant, ahead, "amount + 1 AS amount, version + 1 AS version, bitShiftLeft(1::UInt64, 62) AS _version")
    found = stack.afluente("reconcile", "bills", "--repair", "--json", status=1)
    assert (found["kinds"], found["repaired"]["ahead"]) == ({"newer_version": 1}, 1)
    assert "rebuild" in stack.afluente("reconcile", "bills", "--repair", status=1)
    mutate(stack, tenant, ahead, "DELETE")
    assert stack.afluente("reconcile", "bills", "--repair", "--json")["equal"]


def test_the_metrics_of_a_run_can_be_collected(stack: BillsStack, tenant: str, tmp_path: Path) -> None:
    """A textfile collector gets the differences by kind and the time of the last verdict."""
    (row_id,) = stack.ids(tenant, 1)
    mutate(stack, tenant, row_id, "DELETE")
    path = tmp_path / "reconcile.prom"
    stack.afluente("reconcile", "bills", "--metrics-file", str(path), status=1)
    text = path.read_text()
    assert 'afluente_reconcile_differences{kind="missing",pipeline="bills.mirror"} 1.0' in text
    assert 'afluente_reconcile_differences{kind="ghost",pipeline="bills.mirror"} 0.0' in text
    assert 'afluente_reconcile_last_success_timestamp_seconds{pipeline="bills.mirror"}' in text
    stack.afluente("reconcile", "bills", "--repair")
