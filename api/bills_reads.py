"""Lists of bills and occurrences from Postgres: filtered, in one of two orders, page by page.

A page begins below the last row of the page before, not after so many rows: rows that come or go meanwhile neither
repeat another nor hide it. Each order has an index that begins with the tenant.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID

import orjson

from api.bills_writes import BILL_COLUMNS, OCCURRENCE_COLUMNS, Row
from api.cursor import Cursors, Place
from api.events import EPOCH
from app.audit import Connection

PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 500

Table = Literal["bills", "bill_occurrences"]
_COLUMNS: Final[Mapping[Table, str]] = {"bills": BILL_COLUMNS, "bill_occurrences": OCCURRENCE_COLUMNS}
_MICROSECOND: Final = timedelta(microseconds=1)
_FIRST_DAY: Final = EPOCH.date()


@dataclass(frozen=True, slots=True)
class Wanted:
    """One list: its table, its order, and the filters that are set, by condition with `{}` for the value's place."""

    table: Table
    sort: str
    filters: Mapping[str, Any] = field(default_factory=dict)

    def scope(self, tenant_id: str) -> str:
        """What a cursor of this list is good for."""
        filters = {condition: str(value) for condition, value in self.filters.items()}
        return orjson.dumps([tenant_id, self.table, self.sort, filters], option=orjson.OPT_SORT_KEYS).decode()


async def page(connection: Connection, wanted: Wanted, place: Place | None, limit: int) -> list[Row]:
    """A page's rows, and one more when there is another page."""
    column = wanted.sort.removeprefix("-")
    after, order = ("<", "DESC") if wanted.sort.startswith("-") else (">", "ASC")
    values = list(wanted.filters.values())
    conditions = [condition.format(f"${number}") for number, condition in enumerate(wanted.filters, 1)]
    if place is not None:
        values += [_from_place(column, place.occurred_ms), UUID(place.event_id)]
        conditions.append(f"({column}, id) {after} (${len(values) - 1}, ${len(values)})")
    rows: list[Row] = await connection.fetch(
        # Table, columns, order and conditions are constants of this edge; every value is bound.
        f"SELECT {_COLUMNS[wanted.table]} FROM {wanted.table}"  # nosec B608 # noqa: S608
        f" WHERE {' AND '.join(['tenant_id = current_tenant()', *conditions])}"
        f" ORDER BY {column} {order}, id {order} LIMIT {limit + 1}",
        *values,
    )
    return rows


def answer(rows: list[Row], wanted: Wanted, limit: int, tenant_id: str, cursors: Cursors) -> dict[str, Any]:
    """The page and where the next one begins."""
    following = None
    if len(rows) > limit:
        last = rows[limit - 1]
        place = Place(_to_place(last[wanted.sort.removeprefix("-")]), str(last["id"]))
        following = cursors.write(wanted.scope(tenant_id), place)
    return {"items": [shown(row) for row in rows[:limit]], "next_cursor": following}


def shown(row: Row) -> dict[str, Any]:
    """A row as JSON: money as text with two decimals."""
    return {name: _shown(value) for name, value in row.items()}


def uuid_of(text: str) -> UUID | None:
    """An id from a path, or None when it is none: nothing has that id then."""
    try:
        found = UUID(text)
    except ValueError:
        return None
    return found if str(found) == text.lower() else None


def _shown(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, ".2f")
    if isinstance(value, UUID):
        return str(value)  # asyncpg has a class of its own for it, which the encoder does not know
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def _to_place(value: Any) -> int:
    if isinstance(value, datetime):
        return (value - EPOCH) // _MICROSECOND
    return (value - _FIRST_DAY).days if isinstance(value, date) else int(value)


def _from_place(column: str, number: int) -> datetime | date | int:
    if column == "created_at":
        return EPOCH + number * _MICROSECOND
    return _FIRST_DAY + timedelta(days=number) if column == "due_date" else number
