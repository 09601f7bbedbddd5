"""GET /analytics/...: what is due, paid and to come, from ClickHouse, for the tenant of the key.

Each answer says with `as_of` how far ClickHouse had seen Postgres, and with `?at_least=` it waits for a write of the
caller's own, two seconds at most. Figures are by currency and never add two of them.
"""

from typing import Annotated, Final

import orjson
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from api import analytics_contract, version_token
from api.analytics_periods import AHEAD_MAX, read_days, read_month, read_months
from api.analytics_store import Question, cashflow_question, categories_question, month_question, projections_question
from api.bills_rules import today
from api.deps import edge_of, member
from api.errors import Fault, Refusal

router: Final = APIRouter(prefix="/analytics", tags=["analytics"])
BEHIND: Final = 6  # months before this one in a cash flow without `from`
CASHFLOW_MONTHS: Final = 12

AtLeast = Annotated[
    str | None,
    Query(max_length=version_token.CHARACTERS_MAX, description="`version_token` of a write: wait until it is visible"),
]
Month = Annotated[str, Query(max_length=16, description="YYYY-MM", examples=["2026-11"])]
FromDay = Annotated[str | None, Query(alias="from", max_length=16, description="first day, YYYY-MM-DD")]
ToDay = Annotated[str | None, Query(max_length=16, description="last day, included, YYYY-MM-DD")]
FromMonth = Annotated[str | None, Query(alias="from", max_length=16, description="first month, YYYY-MM")]
ToMonth = Annotated[str | None, Query(max_length=16, description="last month, included, YYYY-MM")]
Ahead = Annotated[int, Query(ge=1, le=AHEAD_MAX, description="this month and the ones after it")]


@router.get("/month", **analytics_contract.MONTH)
async def month(request: Request, month: Month, at_least: AtLeast = None) -> Response:
    """One month: due, paid, unpaid, overdue and cancelled, for each currency."""
    tenant_id = await _asking(request)
    return await _answer(request, tenant_id, month_question(read_month(month, "month")), at_least)


@router.get("/categories", **analytics_contract.CATEGORIES)
async def categories(request: Request, since: FromDay = None, to: ToDay = None, at_least: AtLeast = None) -> Response:
    """What is due by category, the largest first. Default: this month."""
    tenant_id = await _asking(request)
    return await _answer(request, tenant_id, categories_question(read_days(since, to, today())), at_least)


@router.get("/projections", **analytics_contract.PROJECTIONS)
async def projections(request: Request, months: Ahead = 12, at_least: AtLeast = None) -> Response:
    """What is unpaid in the months to come, by category; `recurring` is the part that comes from recurring bills."""
    tenant_id = await _asking(request)
    return await _answer(request, tenant_id, projections_question(months), at_least)


@router.get("/cashflow", **analytics_contract.CASHFLOW)
async def cashflow(request: Request, since: FromMonth = None, to: ToMonth = None, at_least: AtLeast = None) -> Response:
    """What falls due in each month and how much of it is paid; `balance` is what stayed unpaid so far in the range."""
    tenant_id = await _asking(request)
    span = read_months(since, to, today(), BEHIND, CASHFLOW_MONTHS)
    return await _answer(request, tenant_id, cashflow_question(span), at_least)


async def _asking(request: Request) -> str:
    """The tenant that asks. A misspelt parameter is refused: it would answer another question than the one meant."""
    credential = await member(request)
    edge_of(request).rates.spend(credential, 1)
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        text = f"is not a parameter of this question; it takes {', '.join(sorted(known))}"
        faults: list[Fault] = [
            {"pointer": f"/query/{name[:64]}", "code": "unknown_parameter", "detail": text} for name in unknown
        ]
        raise Refusal(422, "unknown_parameter", "there are parameters that are not known here", errors=faults)
    return credential.tenant_id


async def _answer(request: Request, tenant_id: str, question: Question, at_least: str | None) -> Response:
    written = version_token.read(at_least) if at_least is not None else ()
    answer = await edge_of(request).analytics.ask(tenant_id, question, written)
    return Response(orjson.dumps(answer), 200, {"Cache-Control": "no-store"}, "application/json")
