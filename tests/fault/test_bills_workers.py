"""Several workers carry bills at once, are killed and joined by others: both databases are equal to the cent."""

import asyncio
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.bills_stack import BillsStack
from tests.support.workers import Fleet

BILLS = 80
TENANTS = 3
PARTS = ("kafka", "postgres", "clickhouse", "connect")
STATE_S = 1.5  # of load in each state of the group


@pytest.fixture(scope="module")
def bills(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BillsStack]:
    with BillsStack.running(tmp_path_factory.mktemp("bills") / "home", PARTS) as running:
        yield running


@pytest.fixture
def workers(bills: BillsStack) -> Iterator[Fleet]:
    fleet = Fleet(bills.stack.environ, Path(bills.stack.home.root))
    yield fleet
    fleet.kill_all()


def test_workers_killed_and_joined_during_a_load_leave_both_databases_equal(bills: BillsStack, workers: Fleet) -> None:
    """Two workers; one killed, a third joins, the second killed and back: equal to the cent, and no row differs."""
    tenants = [bills.tenant() for _ in range(TENANTS)]
    first, second = workers.start("w0"), workers.start("w1")
    for tenant in tenants:
        bills.fill(tenant, BILLS)
    done = threading.Event()
    load = threading.Thread(target=lambda: asyncio.run(_load(bills, tenants, done)))
    load.start()
    try:
        second.run_for(STATE_S)
        first.kill()
        second.run_for(STATE_S)
        third = workers.start("w2")
        third.run_for(STATE_S)
        second.kill()
        third.run_for(STATE_S)
        workers.start("w1").run_for(STATE_S)
    finally:
        done.set()
        load.join()
    bills.converge(*tenants)
    verdict = bills.afluente("reconcile", "bills", "--json")
    assert (verdict["equal"], verdict["differences"]) == (True, 0)


async def _load(bills: BillsStack, tenants: list[str], done: threading.Event) -> None:
    """Payments, edits, moved due dates and deletes, in transactions of several rows."""
    connection = await bills.connect()
    chance = random.Random(11)
    ids = {
        tenant: [
            row[0]
            for row in await connection.fetch("SELECT id FROM bill_occurrences WHERE tenant_id = $1", UUID(tenant))
        ]
        for tenant in tenants
    }
    while not done.is_set():
        tenant = chance.choice(tenants)
        some = chance.sample(ids[tenant], 8)
        async with connection.transaction():
            await connection.execute(
                "UPDATE bill_occurrences SET status = 'paid', paid_at = now(), amount = amount + 0.01"
                " WHERE tenant_id = $1 AND id = ANY($2)", UUID(tenant), some[:4],
            )  # fmt: skip
            await connection.execute(
                "UPDATE bill_occurrences SET due_date = due_date + $3::int WHERE tenant_id = $1 AND id = ANY($2)",
                UUID(tenant), some[4:7], chance.randint(-60, 60),
            )  # fmt: skip
            await connection.execute(
                "DELETE FROM bill_occurrences WHERE tenant_id = $1 AND id = $2 AND number > 1", UUID(tenant), some[7]
            )
    await connection.close()
