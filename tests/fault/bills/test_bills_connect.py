"""Connect and Debezium killed, robbed of their position, fed what they cannot carry: no change of bills is missing."""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from infra.local import cdc_actions
from infra.local.cdc_source import connected, drop_slot, read_slot, signal_snapshot
from infra.local.cdc_state import definition, report
from infra.local.connectors import Connectors
from tests.fault.bills.case import TABLES, BillsCase
from tests.support.bills_stack import BillsStack
from tests.support.cdc_parts import Change, Changes, quiet
from tests.support.children import poll

ASK_S = 30.0
BILLS = 50  # each with 4 occurrences, for each of the tenants
CHUNK_ROWS = 40  # of an incremental snapshot, instead of thousands: many chunks, so that a kill is among them
FIRST_BILLS = 200  # a tenant, each with 4 occurrences: 75 chunks of a first snapshot
RECORD_BYTES = 1_300  # what Connect may send for a while: less than a change of a long row, both its images


def test_killed_while_streaming(bills_case: BillsCase) -> None:
    """SIGKILL of Connect under writes: it goes on where Kafka has its position, and what comes twice counts once."""
    bills_case.worker()
    with bills_case.load.flowing() as load:
        kill(bills_case, "connect")
        bills_case.lifted()
        load.await_more(10)
    bills_case.settle()


@pytest.mark.full
def test_killed_in_an_incremental_snapshot(bills_case: BillsCase) -> None:
    """SIGKILL between two chunks: the snapshot goes on, every row is read, and no stale read beats a change."""
    bills_case.worker()
    for tenant in bills_case.tenants:
        bills_case.bills.fill(tenant, BILLS)
    bills_case.bills.converge(*bills_case.tenants)
    with changed(bills_case.bills, incremental_snapshot_chunk_size=str(CHUNK_ROWS)):
        changes = Changes(bills_case.bills.settings)
        lose_rows(bills_case)
        with bills_case.load.flowing() as load:
            asked = signal(bills_case.bills)
            changes.until(lambda seen: sum(one.op == "r" for one in seen) > CHUNK_ROWS, "the second chunk")
            kill(bills_case, "connect")
            bills_case.lifted()
            before = sum(one.op == "r" for one in changes.seen)
            load.await_more(10)
        asyncio.run(cdc_actions.await_snapshot(bills_case.bills.settings, asked, quiet))
        bills_case.fired += f", after {before} reads of some {BILLS * 5 * len(bills_case.tenants)}"
        bills_case.settle()
        changes.close()


@pytest.mark.full
def test_killed_in_the_first_snapshot(bills_case: BillsCase) -> None:
    """SIGKILL in the first snapshot: it goes on, and a row that was read and then moved or deleted leaves no ghost."""
    bills_case.worker()
    for tenant in bills_case.tenants:
        bills_case.bills.fill(tenant, FIRST_BILLS)
    bills_case.bills.converge(*bills_case.tenants)
    forget_everything(bills_case.bills)
    lose_rows(bills_case)
    changes = Changes(bills_case.bills.settings)
    bills_case.untold = True  # what is written between two slots is read by the snapshot
    with pytest.MonkeyPatch.context() as patch, bills_case.load.flowing() as load:
        patch.setitem(definition().config, "incremental.snapshot.chunk.size", str(CHUNK_ROWS))
        assert asyncio.run(cdc_actions.apply(bills_case.bills.settings, quiet)).snapshot_ordered
        read = changes.until(lambda seen: len(filled(bills_case, seen)) > CHUNK_ROWS, "the second chunk")
        bills_case.bills.stack.kill("connect")
        bills_case.bills.stack.stop("connect")  # it shall not come back before the rows have gone elsewhere
        displaced = displace(bills_case, filled(bills_case, read))
        before = load.ledger.transactions
        bills_case.bills.stack.start("connect")
        bills_case.lifted()
        gap = load.ledger.transactions - before
        load.await_more(10)
    reads = sum(one.op == "r" for one in changes.seen)
    changes.close()
    bills_case.fired = (
        f"killed after {reads} reads of some {FIRST_BILLS * 5 * len(bills_case.tenants)}, {displaced} of them moved or"
        f" deleted and {gap} transactions until it was back"
    )
    await_snapshot_end(bills_case.bills)
    bills_case.settle()
    assert not asyncio.run(cdc_actions.apply(bills_case.bills.settings, quiet)).snapshot_ordered


@pytest.mark.full
def test_offsets_lost(bills_case: BillsCase) -> None:
    """Connect has forgotten its position under writes: the slot has not, so it goes on there, without a gap."""
    bills_case.worker()
    with bills_case.load.flowing() as load:
        asyncio.run(rob(bills_case.bills))
        before = load.ledger.transactions
        load.await_more(20)
        gap = load.ledger.transactions - before
        asyncio.run(resume(bills_case.bills))
        bills_case.lifted()
        load.await_more(10)
    bills_case.fired = f"position deleted, {gap} transactions until it was resumed"
    bills_case.settle()


@pytest.mark.full
def test_task_failed_by_a_row(bills_case: BillsCase) -> None:
    """A row too large for its topic fails the task: named with its cause, and nothing is missing after the repair."""
    bills_case.worker()
    bills = bills_case.bills
    with bills_case.load.flowing() as load:
        with changed(bills, producer_override_max_request_size=str(RECORD_BYTES)):
            bills.postgres(
                "UPDATE bills SET description = repeat('x', 500), category = repeat('y', 100) WHERE tenant_id = $1",
                uuid.UUID(bills_case.tenants[0]),
            )
            await_verdict(bills, "task failed")
            status = bills.afluente("cdc", "status", "--json", status=1)
            before = load.ledger.transactions
            load.await_more(10)
            gap = load.ledger.transactions - before
        bills.afluente("cdc", "restart")
        bills_case.lifted()
        load.await_more(10)
    cause = status["connector"]["last_error"]
    bills_case.fired = f"task failed by RecordTooLargeException, {gap} transactions until it was restarted"
    bills_case.settle()
    assert "RecordTooLarge" in cause
    assert "cdc restart" in status["advice"]


@pytest.mark.full
def test_schema_changed_under_load(bills_case: BillsCase) -> None:
    """Added and widened columns are followed; renamed and dropped ones are refused by name, and can be mended."""
    worker = bills_case.worker()
    owner = bills_case.bills.postgres
    with bills_case.load.flowing() as load:
        owner("ALTER TABLE bills ADD COLUMN note varchar(10) NOT NULL DEFAULT 'new'")
        load.await_more(10)
        owner("ALTER TABLE bills ALTER COLUMN note TYPE text")
        load.await_more(10)
        owner("ALTER TABLE bills DROP COLUMN note")
        load.await_more(10)
    bills_case.settle()
    followed = load.ledger.transactions
    assert not bills_case.dead()
    tenant = uuid.UUID(bills_case.tenants[0])
    refused: list[str] = []
    for change, back in (
        ("RENAME COLUMN category TO kind", "RENAME COLUMN kind TO category"),
        ("DROP COLUMN recurrence CASCADE", "ADD COLUMN recurrence text NOT NULL DEFAULT 'none'"),
    ):
        owner(f"ALTER TABLE bills {change}")
        owner("UPDATE bills SET amount = amount + 1 WHERE tenant_id = $1 AND user_id = 'u'", tenant)
        refused = await_refused(bills_case, len(refused))
        owner(f"ALTER TABLE bills {back}")
    bills_case.lifted()
    bills_case.bills.afluente("cdc", "snapshot", "bills")
    bills_case.fired = f"{followed} transactions followed, {len(refused)} changes refused by name"
    bills_case.settle()
    assert {"bills.category", "bills.recurrence"} <= {word for text in refused for word in text.split()}
    assert worker.alive


def await_refused(case: BillsCase, before: int) -> list[str]:
    """Until more changes are in the DLQ than before. Why they are."""
    poll(lambda: len(case.dead()) > before, "the change is refused")
    return list(case.dead().values())


async def rob(bills: BillsStack) -> None:
    """Stop the connector and delete its position."""
    name = definition().name
    async with Connectors(bills.settings.connect_url) as connectors:
        await connectors.stop(name)
    async with httpx.AsyncClient(base_url=bills.settings.connect_url, timeout=ASK_S, trust_env=False) as client:
        (await client.delete(f"/connectors/{name}/offsets")).raise_for_status()


async def resume(bills: BillsStack) -> None:
    """Let the connector go on with what it finds."""
    async with Connectors(bills.settings.connect_url) as connectors:
        await connectors.resume(definition().name)


def forget_everything(bills: BillsStack) -> None:
    """No connector, no position, no slot: as before the very first `apply`."""

    async def forget() -> None:
        await rob(bills)
        async with httpx.AsyncClient(base_url=bills.settings.connect_url, timeout=ASK_S, trust_env=False) as client:
            (await client.delete(f"/connectors/{definition().name}")).raise_for_status()
        async with connected(bills.settings) as connection:
            await drop_slot(connection, definition().slot)

    asyncio.run(forget())


def filled(case: BillsCase, seen: list[Change]) -> list[dict[str, Any]]:
    """The bills of the case that a snapshot has read, but for those of the load, whose writer knows where they are."""
    reads = [one.row for one in seen if one.op == "r" and one.table == "bills"]
    return [one for one in reads if one["tenant_id"] in case.tenants and one["user_id"] != "u"]


def displace(case: BillsCase, read: list[dict[str, Any]]) -> int:
    """Move every other one of these bills to another day, and delete the rest with their occurrences."""
    ids = [uuid.UUID(one["id"]) for one in read]
    case.bills.postgres("UPDATE bills SET due_date = due_date + 40 WHERE id = ANY($1)", ids[::2])
    case.bills.postgres("DELETE FROM bills WHERE id = ANY($1)", ids[1::2])
    return len(ids)


def await_snapshot_end(bills: BillsStack) -> None:
    """Until Debezium has carried out every order."""
    found = asyncio.run(position(bills))
    asyncio.run(cdc_actions.await_snapshot(bills.settings, found, quiet))


async def position(bills: BillsStack) -> int:
    """Where Postgres' log ends now."""
    async with connected(bills.settings) as connection:
        slot = await read_slot(connection, definition().slot)
    assert slot is not None
    return slot.now


def kill(case: BillsCase, part: str) -> None:
    """SIGKILL under writes, and wait until its supervisor has it again. What was written meanwhile is the proof."""
    stack, before = case.bills.stack, case.load.ledger.transactions
    restarts = stack.records()[part].restarts
    stack.kill(part)
    stack.wait(part, restarts + 1)
    case.fired = f"killed, {case.load.ledger.transactions - before} transactions until it was back"


def lose_rows(case: BillsCase) -> None:
    """Take every row of the case from ClickHouse: only a snapshot that misses none can bring them back."""
    for table in TABLES:
        names = ", ".join(f"'{tenant}'" for tenant in case.tenants)
        case.bills.clickhouse(
            f"ALTER TABLE afluente.{table} DELETE WHERE tenant_id IN ({names}) SETTINGS mutations_sync = 2"
        )


def signal(bills: BillsStack) -> int:
    """Ask for a snapshot of everything; the LSN behind the order."""

    async def ask() -> int:
        async with connected(bills.settings) as connection:
            return (await signal_snapshot(connection, cdc_actions.captured(())))[1]

    return asyncio.run(ask())


@contextmanager
def changed(bills: BillsStack, **settings: str) -> Iterator[None]:
    """Other settings of the connector while the body runs."""
    former = asyncio.run(settings_of(bills))
    asyncio.run(configure(bills, {**former, **{name.replace("_", "."): value for name, value in settings.items()}}))
    await_verdict(bills, "running")
    try:
        yield
    finally:
        asyncio.run(configure(bills, former))


async def settings_of(bills: BillsStack) -> dict[str, str]:
    """What the connector runs with."""
    async with Connectors(bills.settings.connect_url) as connectors:
        return await connectors.config(definition().name)


async def configure(bills: BillsStack, settings: dict[str, str]) -> None:
    """Let the connector run with these."""
    async with Connectors(bills.settings.connect_url) as connectors:
        await connectors.put(definition().name, settings)


def await_verdict(bills: BillsStack, *verdicts: str) -> None:
    """Until `cdc status` says one of these."""

    def said() -> bool:
        return asyncio.run(report(bills.settings)).verdict in verdicts

    poll(said, f"the verdict is {verdicts}", ASK_S, 0.2)
