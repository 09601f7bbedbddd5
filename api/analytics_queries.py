"""The questions that analytics asks of ClickHouse: SQL alone, every value bound, every query under one tenant.

They read the mirror `bill_occurrences` with FINAL, which is right at any moment, merged or not: all versions of a row
lie in one partition, and partitions are merged apart. What else was measured is in docs/clickhouse-queries.md.
"""

from typing import Any, Final

ROWS_MAX: Final = 20_000  # of one answer: 36 months of some hundred categories; more is said with "more"
QUERY_S: Final = 5  # a window of two years of the largest tenant measured reads in 0.2 s
MEMORY_BYTES: Final = 256 << 20  # of one query; inserts go on beside sixteen of them on a small server
QUERY_SETTINGS: Final[dict[str, Any]] = {
    "do_not_merge_across_partitions_select_final": 1,
    "output_format_decimal_trailing_zeros": 1,
    "max_execution_time": QUERY_S,
    "max_memory_usage": MEMORY_BYTES,
}

MONTH: Final = """\
SELECT
    currency,
    countIf(status != 'cancelled') AS occurrences,
    sumIf(amount, status != 'cancelled') AS due,
    sumIf(amount, status = 'paid') AS paid,
    sumIf(amount, status IN ('open', 'overdue')) AS unpaid,
    sumIf(amount, status IN ('open', 'overdue') AND due_date < {today:Date}) AS overdue,
    sumIf(amount, status = 'cancelled') AS cancelled
FROM {database:Identifier}.bill_occurrences FINAL
WHERE tenant_id = {tenant:UUID} AND due_date BETWEEN {first:Date} AND {last:Date}
GROUP BY currency
ORDER BY currency
LIMIT {limit:UInt32}"""

CATEGORIES: Final = """\
SELECT
    currency,
    category,
    count() AS occurrences,
    sum(amount) AS due,
    sumIf(amount, status = 'paid') AS paid,
    sumIf(amount, status != 'paid') AS unpaid
FROM {database:Identifier}.bill_occurrences FINAL
WHERE tenant_id = {tenant:UUID} AND due_date BETWEEN {first:Date} AND {last:Date} AND status != 'cancelled'
GROUP BY currency, category
ORDER BY currency, due DESC, category
LIMIT {limit:UInt32}"""

PROJECTIONS: Final = """\
SELECT
    toStartOfMonth(due_date) AS month,
    currency,
    category,
    count() AS occurrences,
    sum(amount) AS open,
    sumIf(amount, recurrence != 'none') AS recurring
FROM {database:Identifier}.bill_occurrences FINAL
WHERE tenant_id = {tenant:UUID} AND due_date BETWEEN {first:Date} AND {last:Date} AND status IN ('open', 'overdue')
GROUP BY month, currency, category
ORDER BY month, currency, open DESC, category
LIMIT {limit:UInt32}"""

CASHFLOW: Final = """\
SELECT
    toStartOfMonth(due_date) AS month,
    currency,
    sum(amount) AS due,
    sumIf(amount, status = 'paid') AS paid,
    sumIf(amount, status != 'paid') AS unpaid
FROM {database:Identifier}.bill_occurrences FINAL
WHERE tenant_id = {tenant:UUID} AND due_date BETWEEN {first:Date} AND {last:Date} AND status != 'cancelled'
GROUP BY month, currency
ORDER BY month, currency
LIMIT {limit:UInt32}"""

PROGRESS: Final = """\
SELECT lsn, at
FROM {database:Identifier}.cdc_progress FINAL
WHERE _topic = {topic:String} AND _partition = {partition:UInt32}"""

SEEN: Final = """\
SELECT
    (SELECT count() FROM {database:Identifier}.bills
     WHERE tenant_id = {tenant:UUID} AND id = {bill:UUID} AND version >= {bill_version:UInt64}
       AND is_deleted >= {bill_deleted:UInt8}) AS bill,
    (SELECT count() FROM {database:Identifier}.bill_occurrences
     WHERE tenant_id = {tenant:UUID} AND id = {occurrence:UUID} AND version >= {occurrence_version:UInt64}
       AND is_deleted >= {occurrence_deleted:UInt8}) AS occurrence"""

CAME_IN: Final = """\
SELECT tenant_id, id, version, is_deleted
FROM {database:Identifier}.bill_occurrences
WHERE tenant_id IN {tenants:Array(UUID)} AND _ingested_at >= now64(3, 'UTC') - toIntervalMillisecond({since_ms:UInt32})
LIMIT {limit:UInt32}"""
