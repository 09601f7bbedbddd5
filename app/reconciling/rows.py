"""What both sides are compared by: groups by tenant, month and currency, buckets of ids, rows."""

from datetime import date, timedelta
from typing import Any, Final, NamedTuple

from schemas.mirrors import Mirror

EPOCH: Final = date(1970, 1, 1)
MONTHS_A_YEAR: Final = 12


class Group(NamedTuple):
    """Rows of one tenant and month."""

    tenant_id: str
    month: int  # yyyymm


class Figures(NamedTuple):
    """What a group or bucket comes to: rows, hundredths by currency, sum of the rows' fingerprints modulo 2^64."""

    rows: int
    cents: tuple[tuple[str, int], ...]
    checksum: int


class Key(NamedTuple):
    """One row of a mirror, wherever it is."""

    table: str
    tenant_id: str
    id: str


class MirrorRow(NamedTuple):
    """One row as either side gave it: its values by name, as texts and whole numbers."""

    values: dict[str, Any]
    month: int


def month_of(days: int) -> int:
    """The month, as yyyymm, of a day counted from 1970-01-01."""
    day = EPOCH + timedelta(days=days)
    return day.year * 100 + day.month


def next_month(month: int) -> int:
    """The month after, as yyyymm."""
    return month + 1 if month % 100 < MONTHS_A_YEAR else month + 101 - MONTHS_A_YEAR


def as_row(mirror: Mirror, values: tuple[Any, ...]) -> MirrorRow:
    """A row of the columns of `dialect.postgres_values` or `clickhouse_values`."""
    named = dict(zip(mirror.names, values, strict=True))
    return MirrorRow(named, month_of(named["due_date"]))
