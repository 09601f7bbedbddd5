"""From rows of ClickHouse to the answers of analytics: by currency, never two of them added, money as exact text."""

from collections.abc import Sequence
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

Row = dict[str, Any]
ZERO: Final = "0.00"
_FLOW: Final = ("due", "paid", "unpaid")


def by_category(rows: Sequence[Row]) -> list[Row]:
    """Categories under their currency, the largest first, with what they add up to."""
    found = []
    for currency, of_currency in groupby(rows, key=itemgetter("currency")):
        categories = [_without(row, "currency") for row in of_currency]
        found.append({"currency": currency, **_sums(categories, _FLOW), "categories": categories})
    return found


def by_month(rows: Sequence[Row], months: Sequence[str]) -> list[Row]:
    """Every month asked for, also the empty ones, each with its currencies and their categories."""
    of_month: dict[str, list[Row]] = {month: [] for month in months}
    for (month, currency), group in groupby(rows, key=lambda row: (row["month"][:7], row["currency"])):
        categories = [_without(row, "currency", "month") for row in group]
        sums = _sums(categories, ("open", "recurring"))
        of_month[month].append({"currency": currency, **sums, "categories": categories})
    return [{"month": month, "currencies": currencies} for month, currencies in of_month.items()]


def flows(rows: Sequence[Row], months: Sequence[str]) -> list[Row]:
    """For each currency every month: due, paid, unpaid, and the running sum of what stayed unpaid."""
    found = []
    for currency, of_currency in groupby(sorted(rows, key=itemgetter("currency")), key=itemgetter("currency")):
        known = {row["month"][:7]: row for row in of_currency}
        balance = Decimal(0)
        lines = []
        for month in months:
            figures = {name: known.get(month, {}).get(name, ZERO) for name in _FLOW}
            balance += Decimal(figures["unpaid"])
            lines.append({"month": month, **figures, "balance": f"{balance:.2f}"})
        found.append({"currency": currency, **_sums(lines, _FLOW), "months": lines})
    return found


def _sums(rows: Sequence[Row], names: Sequence[str]) -> dict[str, str]:
    return {name: f"{sum((Decimal(row[name]) for row in rows), Decimal(0)):.2f}" for name in names}


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}
