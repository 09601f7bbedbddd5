"""Connect and Debezium killed, robbed of their position, fed what they cannot carry: no change of bills is missing."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from infra.local import cdc_actions
from infra.local.cdc_source import connected, signal_snapshot
from infra.local.cdc_state import definition, report
from infra.local.connectors import Connectors
from tests.fault.bills.case import TABLES, BillsCase
from tests.support.bills_stack import BillsStack
from tests.support.cdc_parts import Changes, quiet
from tests.support.children import poll

ASK_S = 30.0
BILLS = 60  # each with 4 occurrences, for each of the tenants
CHUNK_ROWS = 20  # of an incremental snapshot, instead of 4096: many chunks, so that a kill is among them
FIRST_ROWS = 2_000  # bills, with as many occurrences times 4: some seconds of a first snapshot
RECORD_BYTES = 4_000  # that the topic takes for a while
WIDE = "\U00020000"  # four bytes
TRANSACTION_ROWS = 50_000


def test_killed_while_streaming(bills_case: BillsCase) -> None:
    """SIGKILL of Connect under writes: it goes on where Kafka has its position, and what comes twice counts once."""
    bills_case.worker()
    with bills_case.load.flowing() as load:
        kill(bills_case, "connect")
        bills_case.lifted()
        load.await_more(10)
    bills_case.settle()


def test_killed_in_an_incremental_snapshot(bills_case: BillsCase) -> None:
    """SIGKILL between two chunks: the snapshot goes on, every row is read, and no stale read beats a change."""
    bills_case.worker()
    for tenant in bills_case.tenants:
        bills_case.bills.fill(tenant, BILLS)
    bills_case.bills.converge(*bills_case.tenants)
    with chunks_of(bills_case.bills, CHUNK_ROWS):
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
def chunks_of(bills: BillsStack, rows: int) -> Iterator[None]:
    """Other chunks of incremental snapshots while the body runs."""
    configure(bills, {"incremental.snapshot.chunk.size": str(rows)})
    try:
        yield
    finally:
        configure(bills, {})


def configure(bills: BillsStack, changed: dict[str, str]) -> None:
    """Give the connector its settings, some of them changed, and wait until it runs with them."""

    async def put() -> None:
        async with Connectors(bills.settings.connect_url) as connectors:
            await connectors.put(definition().name, {**definition().config, **changed})

    asyncio.run(put())
    await_verdict(bills, "running")


def await_verdict(bills: BillsStack, *verdicts: str) -> None:
    """Until `cdc status` says one of these."""

    def said() -> bool:
        return asyncio.run(report(bills.settings)).verdict in verdicts

    poll(said, f"the verdict is {verdicts}", ASK_S, 0.2)
