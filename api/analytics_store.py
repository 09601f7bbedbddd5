"""The questions of analytics as they are asked: how far ClickHouse is, what is kept, then the figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import orjson

from api import analytics_answers
from api import analytics_queries as queries
from api.analytics_periods import Span, months_of
from api.answer_cache import Answers, answers_for, cache_key
from api.bills_rules import today
from api.freshness import Freshness
from api.reading_store import ReadingStore
from api.version_token import Written
from app.settings import Settings
from schemas.topics import BILLS_CHANGES

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: the query, its days, and how its rows become an answer."""

    name: str
    query: str
    span: Span
    shape: Callable[[Rows], dict[str, Any]]
    today: date | None = None


class Analytics:
    """Asks the questions of one process: progress, cache, figures, in this order."""

    def __init__(self, store: ReadingStore, settings: Settings) -> None:
        self._store = store
        self.freshness = Freshness(store, BILLS_CHANGES.partitions * settings.partition_factor)
        self.answers: Answers = answers_for(settings)

    async def ask(self, tenant_id: str, question: Question, written: Sequence[Written] = ()) -> Mapping[str, Any]:
        """The answer as it is sent. With `written` it is computed anew, after waiting for these rows."""
        waited = {"caught_up": await self.freshness.caught_up(tenant_id, written)} if written else {}
        as_of = await self.freshness.as_of(tenant_id)
        asked = {"first": question.span.first, "last": question.span.last, "today": question.today}
        key = cache_key(tenant_id, question.name, asked, as_of["lsn"] if as_of else "")
        # A kept answer may be older than the write that was waited for; without a heartbeat nothing names its state.
        kept = await self.answers.get(key) if as_of and not written else None
        if kept is not None:
            return dict(orjson.loads(kept))
        parameters = {
            **{name: value for name, value in asked.items() if value is not None},
            "database": self._store.database,
            "tenant": tenant_id,
            "limit": queries.ROWS_MAX + 1,
        }
        rows = await self._store.rows(question.query, parameters, queries.QUERY_SETTINGS)
        more = len(rows) > queries.ROWS_MAX
        answer = {**question.shape(rows[: queries.ROWS_MAX]), "more": more, "as_of": as_of, **waited}
        if as_of and not written:
            await self.answers.put(key, orjson.dumps(answer))
        return answer


def month_question(month: date) -> Question:
    """What is due in one month."""
    name = f"{month:%Y-%m}"
    return Question(
        "month", queries.MONTH, months_of(month, 1), lambda rows: {"month": name, "currencies": rows}, today()
    )


def categories_question(span: Span) -> Question:
    """What is due, by category."""
    days = {"from": span.first.isoformat(), "to": span.last.isoformat()}
    return Question(
        "categories", queries.CATEGORIES, span, lambda rows: {**days, "currencies": analytics_answers.by_category(rows)}
    )


def projections_question(months: int) -> Question:
    """What is unpaid in this month and the ones after it."""
    span = months_of(today().replace(day=1), months)
    return Question(
        "projections", queries.PROJECTIONS, span,
        lambda rows: {"months": analytics_answers.by_month(rows, span.months)},
    )  # fmt: skip


def cashflow_question(span: Span) -> Question:
    """Due and paid, month by month."""
    return Question(
        "cashflow", queries.CASHFLOW, span,
        lambda rows: {
            "from": span.months[0], "to": span.months[-1], "currencies": analytics_answers.flows(rows, span.months)
        },
    )  # fmt: skip
