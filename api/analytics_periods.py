"""Months and days as analytics takes them from a query string: read strictly, refused with what is allowed."""

import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, NoReturn

from api.bills_rules import FIRST_DAY, LAST_DAY
from api.errors import Fault, Refusal

MONTHS_MAX: Final = 24  # of one question: what the largest tenant measured reads in 0.2 s
AHEAD_MAX: Final = 36  # months of a projection; it reads what is unpaid only
LAST_MONTH: Final = date(2149, 5, 1)  # the last whole month of LAST_DAY

_MONTH: Final = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])", re.ASCII)
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_MONTH_ALLOWED: Final = f"must be a month as YYYY-MM, from {FIRST_DAY:%Y-%m} to {LAST_MONTH:%Y-%m}"
_DAY_ALLOWED: Final = f"must be a day that exists, as YYYY-MM-DD, from {FIRST_DAY} to {LAST_DAY}"


@dataclass(frozen=True, slots=True)
class Span:
    """From the first day to the last one, both included."""

    first: date
    last: date

    @property
    def months(self) -> list[str]:
        """Every month it touches, in order."""
        count = (self.last.year - self.first.year) * 12 + self.last.month - self.first.month
        return [f"{shifted(self.first.replace(day=1), index):%Y-%m}" for index in range(count + 1)]


def shifted(month: date, count: int) -> date:
    """The first day of the month that lies `count` months on."""
    years, index = divmod(month.month - 1 + count, 12)
    return date(month.year + years, index + 1, 1)


def months_of(first: date, count: int) -> Span:
    """`count` whole months from a first day of a month on."""
    return Span(first, shifted(first, count) - timedelta(days=1))


def read_month(text: str, name: str) -> date:
    """The first day of a month given as YYYY-MM."""
    found = _MONTH.fullmatch(text)
    month = date(int(found[1]), int(found[2]), 1) if found and found[1] != "0000" else date.min
    if not FIRST_DAY <= month <= LAST_MONTH:
        _refuse(name, "invalid_month", _MONTH_ALLOWED)
    return month


def read_days(since: str | None, until: str | None, today: date) -> Span:
    """The days from `from` to `to`; what is not given ends or begins its month, and nothing at all is this month."""
    first = _read_day(since, "from") if since else None
    last = _read_day(until, "to") if until else None
    if first is None:
        first = (last or today).replace(day=1)
    if last is None:
        last = min(shifted(first.replace(day=1), 1) - timedelta(days=1), LAST_DAY)
    return _ordered(Span(first, last))


def read_months(since: str | None, until: str | None, today: date, behind: int, count: int) -> Span:
    """The months from `from` to `to`, both included; by default `count` months, `behind` of them before this one."""
    first = read_month(since, "from") if since else None
    last = read_month(until, "to") if until else None
    if first is None:
        first = shifted(last, 1 - count) if last else shifted(today.replace(day=1), -behind)
        first = max(first, FIRST_DAY)
    end = min(last or shifted(first, count - 1), LAST_MONTH)
    return _ordered(Span(first, shifted(end, 1) - timedelta(days=1)))


def _read_day(text: str, name: str) -> date:
    try:
        day = date.fromisoformat(text) if _DAY.fullmatch(text) else date.min
    except ValueError:
        day = date.min
    if not FIRST_DAY <= day <= LAST_DAY:
        _refuse(name, "invalid_day", _DAY_ALLOWED)
    return day


def _ordered(span: Span) -> Span:
    if span.last < span.first:
        _refuse("to", "before_from", "must not lie before from")
    if len(span.months) > MONTHS_MAX:
        _refuse("to", "range_too_long", f"from and to may touch at most {MONTHS_MAX} months; ask in pieces")
    return span


def _refuse(name: str, code: str, text: str) -> NoReturn:
    fault: Fault = {"pointer": f"/query/{name}", "code": code, "detail": text}
    raise Refusal(422, "invalid_parameters", f"{name} {text}", errors=[fault])
