"""What each column of a change must be, and its value as the mirror's Avro schema takes it.

Rules of `bills.mirror`. A column that is missing or of another type is poison that names it: a mirror that guesses is
wrong without a word. One that nobody knows is left out and counted.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeVar

from app.errors import Poison
from schemas.bills import BILLS as BILLS_TABLE
from schemas.bills import DATE_DAYS_MAX, MONEY_DECIMALS, MONEY_DIGITS_MAX, SMALL_MAX, YEAR_MAX, YEAR_MIN
from schemas.bills import HEARTBEATS as HEARTBEATS_TABLE
from schemas.bills import OCCURRENCES as OCCURRENCES_TABLE

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
CACHED: Final = 4_096  # installments have equal amounts, rows of one transaction equal times
CACHED_CHARACTERS_MAX: Final = 40  # of such a text, with room
LONG_MAX: Final = (1 << 63) - 1
CENT: Final = Decimal(1).scaleb(-MONEY_DECIMALS)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


T = TypeVar("T")


class Kind(NamedTuple):
    """One type of column: what it is called in a refusal, and its reading, which raises ValueError or TypeError."""

    name: str
    read: Callable[[Any], Any]


def _uuid(value: Any) -> str:
    if _UUID.fullmatch(value) is None:
        raise ValueError
    return str(value)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def _whole(limit: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or not 0 <= value <= limit:
            raise ValueError
        return value

    return read


def _version(value: Any) -> int:
    # Of a row that a migration has not numbered yet.
    return 0 if value is None else _whole(LONG_MAX)(value)


def _remembered(read_text: Callable[[str], T]) -> Callable[[Any], T]:
    """A reading of text that keeps what it read last. Long texts are not kept: a column may be widened to megabytes."""
    kept = lru_cache(maxsize=CACHED)(read_text)

    def read_value(value: Any) -> T:
        text = _text(value)
        return kept(text) if len(text) <= CACHED_CHARACTERS_MAX else read_text(text)

    return read_value


@_remembered
def _money(text: str) -> Decimal:
    """Text alone: a float has lost the cents before it comes here. More decimals are refused, zeros excepted."""
    try:
        amount = Decimal(text)
        exact = amount.quantize(CENT)
    except InvalidOperation:
        raise ValueError from None
    if exact != amount or len(exact.as_tuple().digits) > MONEY_DIGITS_MAX:
        raise ValueError
    return exact


@_remembered
def _time(text: str) -> int:
    """Microseconds since 1970, from ISO 8601 text with its zone."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None or not YEAR_MIN <= found.year <= YEAR_MAX:
        raise ValueError
    return (found - EPOCH) // MICROSECOND


def _optional_time(value: Any) -> int | None:
    return None if value is None else _time(value)


UUID: Final = Kind("a UUID", _uuid)
TEXT: Final = Kind("text", _text)
MONEY: Final = Kind(f"text of a number of at most {MONEY_DIGITS_MAX} digits, {MONEY_DECIMALS} decimals", _money)
DATE: Final = Kind(f"days since 1970, at most {DATE_DAYS_MAX}", _whole(DATE_DAYS_MAX))
SMALL: Final = Kind(f"a whole number up to {SMALL_MAX}", _whole(SMALL_MAX))
VERSION: Final = Kind("a whole number", _version)
TIME: Final = Kind(f"a time with its zone, {YEAR_MIN} to {YEAR_MAX}", _time)
OPTIONAL_TIME: Final = Kind(f"null or a time with its zone, {YEAR_MIN} to {YEAR_MAX}", _optional_time)

Columns = Mapping[str, Kind]

_SHARED: Final[Columns] = {
    "tenant_id": UUID,
    "id": UUID,
    "user_id": TEXT,
    "category": TEXT,
    "amount": MONEY,
    "currency": TEXT,
    "due_date": DATE,
    "recurrence": TEXT,
    "installments": SMALL,
    "status": TEXT,
    "paid_at": OPTIONAL_TIME,
    "actor": TEXT,
    "version": VERSION,
    "created_at": TIME,
    "updated_at": TIME,
}
TABLES: Final[Mapping[str, Columns]] = {
    BILLS_TABLE: {**_SHARED, "description": TEXT},
    OCCURRENCES_TABLE: {**_SHARED, "bill_id": UUID, "number": SMALL},
    HEARTBEATS_TABLE: {"tenant_id": UUID, "at": TIME},
}


class _Plan(NamedTuple):
    """How all columns of a table are read at once, when nothing is wrong with any of them."""

    names: tuple[str, ...]
    pick: Callable[[Mapping[str, Any]], tuple[Any, ...]]
    texts: Callable[[Mapping[str, Any]], tuple[Any, ...]] | None  # only checked
    others: tuple[tuple[str, Callable[[Any], Any]], ...]


def _plan(table: Columns) -> _Plan:
    texts = [name for name, kind in table.items() if kind is TEXT]
    others = tuple((name, kind.read) for name, kind in table.items() if kind is not TEXT)
    # A pick of one name gives no tuple.
    return _Plan((*table,), itemgetter(*table), itemgetter(*texts) if len(texts) > 1 else None, others)


_PLANS: Final = {name: _plan(table) for name, table in TABLES.items()}
_ALL_TEXT: Final = {str}


def read(table: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The known columns of a row, each read. Raises Poison that names the column."""
    plan = _PLANS[table]
    try:
        found = dict(zip(plan.names, plan.pick(given), strict=True))
        if plan.texts is None or {*map(type, plan.texts(given))} == _ALL_TEXT:
            for name, read_one in plan.others:
                found[name] = read_one(found[name])
            return found
    except (KeyError, TypeError, ValueError, OverflowError):
        pass  # which one it is, the slow way says
    return _read_each(table, given)


def read_former(table: str, given: Mapping[str, Any], now: Mapping[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """The same of a row before an update, of which `now` is the row after it and `known` that row read."""
    names = _PLANS[table].names
    try:
        # True equals 1, and is none.
        changed = [name for name in names if given[name] != now[name] or type(given[name]) is not type(now[name])]
        return {**known, **{name: TABLES[table][name].read(given[name]) for name in changed}}
    except (KeyError, TypeError, ValueError, OverflowError):
        return _read_each(table, given)


def _read_each(table: str, given: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, kind in TABLES[table].items():
        try:
            found[name] = kind.read(given[name])
        except KeyError:
            raise Poison("missing_column", f"{table}.{name} is not in the row: dropped or renamed?") from None
        except (TypeError, ValueError, OverflowError):
            raise Poison("bad_column", f"{table}.{name} is not {kind.name}") from None
    return found


def unknown(table: str, given: Mapping[str, Any]) -> set[str]:
    """The columns of a row that the mirror does not have."""
    return given.keys() - TABLES[table].keys() if len(given) != len(TABLES[table]) else set()
