"""What the page shows, gathered: figures from ClickHouse, installments from Postgres, laid out for the template."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final

from starlette.requests import Request

from api.analytics_periods import Span, months_of, shifted
from api.analytics_store import cashflow_question, categories_question, month_question
from api.bills_rules import today
from api.deps import edge_of
from api.page_words import WORDS, day_name, money, month_name
from api.version_token import Written
from app.audit import Connection
from app.credentials import Credential

BEHIND: Final = 6  # months to the left of this one
MONTHS: Final = 12
AHEAD_DAYS: Final = 60
LATE_MAX: Final = 20
COMING_MAX: Final = 40
CATEGORIES_MAX: Final = 8  # then "more" is one line; the API has them all
BAR: Final = 100  # the height of a bar in its own units
# Late ones, the latest first, and what comes next. Paid ones of the last days stay, so that a slip can be taken back.
_INSTALLMENTS: Final = """\
WITH late AS (
    SELECT * FROM bill_occurrences WHERE tenant_id = current_tenant() AND currency = $1 AND due_date < $2
    AND (status IN ('open', 'overdue') OR (status = 'paid' AND paid_at > now() - interval '2 days'))
    ORDER BY due_date DESC, id DESC LIMIT $4
), coming AS (
    SELECT * FROM bill_occurrences WHERE tenant_id = current_tenant() AND currency = $1
    AND due_date BETWEEN $2 AND $3 AND status <> 'cancelled' ORDER BY due_date, id LIMIT $5
)
SELECT o.id, o.number, o.installments, o.recurrence, o.category, o.amount, o.due_date, o.status, b.description
FROM (SELECT * FROM late UNION ALL SELECT * FROM coming) AS o
JOIN bills AS b ON b.tenant_id = current_tenant() AND b.id = o.bill_id
ORDER BY o.due_date, o.id
"""


@dataclass(frozen=True, slots=True)
class View:
    """What of the figures is looked at."""

    month: date
    currency: str | None
    tongue: str


async def board(
    request: Request, credential: Credential, view: View, written: Sequence[Written] = ()
) -> dict[str, Any]:
    """Everything that the template needs."""
    analytics, tenant = edge_of(request).analytics, credential.tenant_id
    window = months_of(shifted(today().replace(day=1), -BEHIND), MONTHS)
    if not window.first <= view.month <= window.last:
        window = months_of(shifted(view.month, -BEHIND), MONTHS)
    flow = await analytics.ask(tenant, cashflow_question(window), written)
    currencies = [line["currency"] for line in flow["currencies"]]
    currency = view.currency or (currencies[0] if currencies else "BRL")
    summary, categories, installments = await asyncio.gather(
        analytics.ask(tenant, month_question(view.month)),
        analytics.ask(tenant, categories_question(months_of(view.month, 1))),
        _installments(request, credential, currency),
    )
    words = WORDS[view.tongue]
    return {
        "words": words,
        "tongue": view.tongue,
        "currency": currency,
        "currencies": sorted({*currencies, currency}) if currencies else [],
        "month": f"{view.month:%Y-%m}",
        "month_name": month_name(f"{view.month:%Y-%m}", view.tongue),
        "months": _months(_of(flow["currencies"], currency), window, currency, view.tongue),
        "totals": _totals(_of(summary["currencies"], currency), currency, view.tongue),
        "categories": _categories(_of(categories["currencies"], currency), currency, view.tongue),
        "installments": [_installment(row, currency, view.tongue) for row in installments],
        "as_of": flow["as_of"],
        "behind": flow.get("caught_up") is False,
        "is_empty": not currencies and not installments,
    }


async def _installments(request: Request, credential: Credential, currency: str) -> list[Mapping[str, Any]]:
    day = today()

    async def work(connection: Connection) -> list[Mapping[str, Any]]:
        last = day + timedelta(days=AHEAD_DAYS)
        rows: list[Mapping[str, Any]] = await connection.fetch(_INSTALLMENTS, currency, day, last, LATE_MAX, COMING_MAX)
        return rows

    return await edge_of(request).bills.look(credential, work)


def _of(lines: Sequence[Mapping[str, Any]], currency: str) -> Mapping[str, Any]:
    return next((line for line in lines if line["currency"] == currency), {})


def _months(line: Mapping[str, Any], window: Span, currency: str, tongue: str) -> list[dict[str, Any]]:
    known = {month["month"]: month for month in line.get("months", ())}
    highest = max((Decimal(month["due"]) for month in known.values()), default=Decimal(0))
    found = []
    for name in window.months:
        due = Decimal(known[name]["due"]) if name in known else Decimal(0)
        paid = Decimal(known[name]["paid"]) if name in known else Decimal(0)
        label = WORDS[tongue]["month_label"].format(
            month=month_name(name, tongue), due=money(due, currency, tongue), paid=money(paid, currency, tongue)
        )
        found.append(
            {
                "month": name,
                "short": WORDS[tongue]["months_short"][int(name[5:]) - 1],
                "label": label,
                "due": _share(due, highest),
                "paid": _share(paid, highest),
                "is_now": name == f"{today():%Y-%m}",
            }
        )
    return found


def _totals(line: Mapping[str, Any], currency: str, tongue: str) -> list[dict[str, str]]:
    names = ("due", "paid", "unpaid", "overdue")
    return [
        {"name": name, "label": WORDS[tongue][name], "amount": money(line.get(name, "0"), currency, tongue),
         "is_zero": "" if Decimal(line.get(name, "0")) else "zero"}
        for name in names
    ]  # fmt: skip


def _categories(line: Mapping[str, Any], currency: str, tongue: str) -> list[dict[str, Any]]:
    categories = line.get("categories", ())[:CATEGORIES_MAX]
    highest = max((Decimal(one["due"]) for one in categories), default=Decimal(0))
    return [
        {
            "name": one["category"] or WORDS[tongue]["no_category"],
            "due": money(one["due"], currency, tongue),
            "due_share": _share(Decimal(one["due"]), highest),
            "paid_share": _share(Decimal(one["paid"]), highest),
        }
        for one in categories
    ]


def _installment(row: Mapping[str, Any], currency: str, tongue: str) -> dict[str, Any]:
    words = WORDS[tongue]
    what = row["description"] or row["category"] or words["no_category"]
    part = words["of"].format(number=row["number"], count=row["installments"]) if row["installments"] > 1 else ""
    amount, day = money(row["amount"], currency, tongue), day_name(row["due_date"], tongue)
    is_paid = row["status"] == "paid"
    return {
        "id": str(row["id"]),
        "what": what,
        "more": " · ".join(
            one
            for one in (
                row["category"] if row["category"] != what else "",
                part or (words["recurring"] if row["recurrence"] != "none" else ""),
            )
            if one
        ),
        "amount": amount,
        "day": words["today"] if row["due_date"] == today() else day,
        "date": row["due_date"].isoformat(),
        "is_paid": is_paid,
        "is_late": not is_paid and row["due_date"] < today(),
        "label": words["pay"].format(what=what, amount=amount, day=day),
        "action": "unpay" if is_paid else "pay",
    }


def _share(part: Decimal, whole: Decimal) -> str:
    return f"{part / whole * BAR:.1f}" if whole else "0"
