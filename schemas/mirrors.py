"""What ClickHouse mirrors of Postgres: tables and columns, and what kind of value each is. For who compares both."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """How a column's values are written so that both databases write the same one alike."""

    UUID = "uuid"
    TEXT = "text"
    NUMBER = "number"
    MONEY = "money"  # numeric(14, 2): compared in hundredths
    DAY = "day"  # days since 1970-01-01
    MOMENT = "moment"  # microseconds since 1970-01-01, UTC


@dataclass(frozen=True, slots=True)
class Column:
    """One column, of the same name on both sides."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Mirror:
    """A table on both sides. Keyed by tenant_id and id, partitioned by the month of `due_date`, summed by currency."""

    table: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


_CHANGED = (
    Column("status", Kind.TEXT),
    Column("paid_at", Kind.MOMENT),
    Column("actor", Kind.TEXT),
    Column("version", Kind.NUMBER),
    Column("created_at", Kind.MOMENT),
    Column("updated_at", Kind.MOMENT),
)
BILLS = Mirror(
    "bills",
    (
        Column("tenant_id", Kind.UUID),
        Column("id", Kind.UUID),
        Column("user_id", Kind.TEXT),
        Column("description", Kind.TEXT),
        Column("category", Kind.TEXT),
        Column("amount", Kind.MONEY),
        Column("currency", Kind.TEXT),
        Column("due_date", Kind.DAY),
        Column("recurrence", Kind.TEXT),
        Column("installments", Kind.NUMBER),
        *_CHANGED,
    ),
)
BILL_OCCURRENCES = Mirror(
    "bill_occurrences",
    (
        Column("tenant_id", Kind.UUID),
        Column("id", Kind.UUID),
        Column("bill_id", Kind.UUID),
        Column("user_id", Kind.TEXT),
        Column("number", Kind.NUMBER),
        Column("installments", Kind.NUMBER),
        Column("recurrence", Kind.TEXT),
        Column("category", Kind.TEXT),
        Column("amount", Kind.MONEY),
        Column("currency", Kind.TEXT),
        Column("due_date", Kind.DAY),
        *_CHANGED,
    ),
)
# In this order they are repaired: a bill before its occurrences.
MIRRORS: tuple[Mirror, ...] = (BILLS, BILL_OCCURRENCES)
