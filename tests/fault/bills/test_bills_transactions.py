"""Very large transactions in Postgres. After the other cases of one stack: what they leave, those would read anew."""

import uuid

import pytest

from tests.fault.bills.case import BillsCase

LARGE_S = 400.0
BATCH_ROWS = 5_000  # as in production; other cases have small batches
GROWTH_MIB_MAX = 200


@pytest.mark.full
@pytest.mark.timeout(2 * LARGE_S)
@pytest.mark.parametrize("rows", [50_000, 500_000])
def test_one_transaction(bills_case: BillsCase, rows: int) -> None:
    """A transaction of very many rows is carried whole, in bounded memory, while others write."""
    worker = bills_case.worker(batch_rows_max=BATCH_ROWS)
    tenant = uuid.UUID(bills_case.tenants[0])
    before = worker.rss_bytes
    with bills_case.load.flowing() as load:
        bills_case.bills.postgres(
            "INSERT INTO bills (tenant_id, user_id, amount, currency, due_date, category) SELECT $1, 'u', i + 0.01,"
            " 'BRL', date '2026-01-01' + i % 700, 'big' FROM generate_series(1, $2::int) i", tenant, rows,
        )  # fmt: skip
        bills_case.lifted()
        load.await_more(10)
    bills_case.settle(quiet_s=LARGE_S)
    grown = (worker.rss_bytes - before) >> 20
    bills_case.fired = f"worker RSS +{grown} MiB"
    bills_case.told_in_row()
    assert grown < GROWTH_MIB_MAX
