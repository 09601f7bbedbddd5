"""The questions of analytics as one would ask them of Postgres: to compare figures in tests, and speed in benchmarks.

Each gives the columns of its counterpart in api/analytics_queries.py, so both become an answer the same way.
"""

from typing import Any, Final

MONTH: Final = """\
SELECT currency,
       count(*) FILTER (WHERE status <> 'cancelled') AS occurrences,
       coalesce(sum(amount) FILTER (WHERE status <> 'cancelled'), 0) AS due,
       coalesce(sum(amount) FILTER (WHERE status = 'paid'), 0) AS paid,
       coalesce(sum(amount) FILTER (WHERE status IN ('open', 'overdue')), 0) AS unpaid,
       coalesce(sum(amount) FILTER (WHERE status IN ('open', 'overdue') AND due_date < $4), 0) AS overdue,
       coalesce(sum(amount) FILTER (WHERE status = 'cancelled'), 0) AS cancelled
FROM bill_occurrences
WHERE tenant_id = $1 AND due_date BETWEEN $2 AND $3
GROUP BY currency ORDER BY currency COLLATE "C"
"""
CATEGORIES: Final = """\
SELECT currency, category, count(*) AS occurrences, sum(amount) AS due,
       coalesce(sum(amount) FILTER (WHERE status = 'paid'), 0) AS paid,
       coalesce(sum(amount) FILTER (WHERE status <> 'paid'), 0) AS unpaid
FROM bill_occurrences
WHERE tenant_id = $1 AND due_date BETWEEN $2 AND $3 AND status <> 'cancelled'
GROUP BY currency, category ORDER BY currency COLLATE "C", due DESC, category COLLATE "C"
"""
PROJECTIONS: Final = """\
SELECT date_trunc('month', due_date)::date AS month, currency, category, count(*) AS occurrences,
       sum(amount) AS open, coalesce(sum(amount) FILTER (WHERE recurrence <> 'none'), 0) AS recurring
FROM bill_occurrences
WHERE tenant_id = $1 AND due_date BETWEEN $2 AND $3 AND status IN ('open', 'overdue')
GROUP BY 1, currency, category ORDER BY 1, currency COLLATE "C", open DESC, category COLLATE "C"
"""
CASHFLOW: Final = """\
SELECT date_trunc('month', due_date)::date AS month, currency, sum(amount) AS due,
       coalesce(sum(amount) FILTER (WHERE status = 'paid'), 0) AS paid,
       coalesce(sum(amount) FILTER (WHERE status <> 'paid'), 0) AS unpaid
FROM bill_occurrences
WHERE tenant_id = $1 AND due_date BETWEEN $2 AND $3 AND status <> 'cancelled'
GROUP BY 1, currency ORDER BY 1, currency COLLATE "C"
"""
OF_NAME: Final[dict[str, str]] = {
    "month": MONTH,
    "categories": CATEGORIES,
    "projections": PROJECTIONS,
    "cashflow": CASHFLOW,
}
# What one would add to the schema to make these fast: with it, each is an index-only scan of the tenant's months.
INDEX: Final = """\
CREATE INDEX IF NOT EXISTS bill_occurrences_figures ON bill_occurrences (tenant_id, due_date)
INCLUDE (status, currency, category, recurrence, amount)
"""
_MONEY: Final = ("due", "paid", "unpaid", "overdue", "cancelled", "open", "recurring")


def as_clickhouse_says(row: Any) -> dict[str, Any]:
    """A row of Postgres in the words of ClickHouse's JSON: money as text with two decimals, months as days."""
    found = dict(row)
    for name in _MONEY:
        if name in found:
            found[name] = f"{found[name]:.2f}"
    if "month" in found:
        found["month"] = found["month"].isoformat()
    return found
