"""GET /tracking/..., /sales: what was stored, read back with a read key. The tenant is the key's, always."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, Query
from pydantic import AwareDatetime
from starlette.requests import Request
from starlette.responses import Response

from api import contract
from api.cursor import CHARACTERS_MAX, Place
from api.deps import edge_of, reader
from api.errors import Fault, Refusal
from api.events import EPOCH, MILLISECOND

router: Final = APIRouter(tags=["reading"])
PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 1_000
BUCKETS_MAX: Final = 1_500  # of one summary: a day of minutes, two months of hours, four years of days
FIRST: Final = EPOCH
LAST: Final = datetime(2200, 1, 1, tzinfo=UTC)  # beyond what DateTime64 columns hold from the edge

_EVENT_COLUMNS: Final = (
    "event_id, event_type, occurred_at, received_at, session_id, click_id, url, referrer, utm_source, utm_medium,"
    " utm_campaign, utm_term, utm_content, fbclid, gclid, fbp, fbc, user_id, email_hash, phone_hash, value, currency,"
    " consent_ads, properties"
)
_SALE_COLUMNS: Final = (
    "event_id, gateway, event_type, native_type, order_id, product_id, product_name, occurred_at, received_at,"
    " email_hash, phone_hash, document_hash, amount, currency, payment_method, installments, click_id, session_id,"
    " sck, src, utm_source, utm_medium, utm_campaign, utm_term, utm_content"
)
_STEPS: Final = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}
_SPANS: Final = {"minute": timedelta(hours=1), "hour": timedelta(days=1), "day": timedelta(days=30)}

From = Annotated[AwareDatetime | None, Query(alias="from", description="first moment, RFC 3339 with a zone")]
To = Annotated[AwareDatetime | None, Query(description="the moment after the last, RFC 3339 with a zone")]
Cursor = Annotated[str | None, Query(max_length=CHARACTERS_MAX, description="`next_cursor` of the page before")]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
EventType = Annotated[Literal["click", "pageview", "initiate_checkout"] | None, Query(alias="type")]
Word = Annotated[str | None, Query(min_length=1, max_length=128)]


@dataclass(frozen=True, slots=True)
class _List:
    """One list: its table, columns and the filters that are set."""

    table: str
    columns: str
    filters: dict[str, str]


@router.get("/tracking/events", **contract.READ)
async def events(  # noqa: PLR0917 - one parameter of the query each
    request: Request,
    type_: EventType = None,
    since: From = None,
    to: To = None,
    cursor: Cursor = None,
    limit: Limit = PAGE_DEFAULT,
) -> Response:
    """Events, newest first, page by page."""
    filters: dict[str, str] = {"event_type": type_} if type_ else {}
    wanted = _List("tracking_events", _EVENT_COLUMNS, filters)
    return await _page(request, wanted, (since, to), cursor, limit)


@router.get("/sales", **contract.READ)
async def sales(  # noqa: PLR0917 - one parameter of the query each
    request: Request,
    type_: Annotated[Word, Query(alias="type", description="canonical type, e.g. order_approved")] = None,
    gateway: Word = None,
    order_id: Word = None,
    since: From = None,
    to: To = None,
    cursor: Cursor = None,
    limit: Limit = PAGE_DEFAULT,
) -> Response:
    """Sale events, newest first: each status of an order is one of them, and they share `order_id`."""
    given = {"event_type": type_, "gateway": gateway, "order_id": order_id}
    wanted = _List("gateway_events", _SALE_COLUMNS, {name: value for name, value in given.items() if value})
    return await _page(request, wanted, (since, to), cursor, limit)


@router.get("/tracking/summary", **contract.READ)
async def summary(
    request: Request,
    by: Annotated[Literal["minute", "hour", "day"], Query(description="width of a bucket, in UTC")] = "hour",
    type_: EventType = None,
    since: From = None,
    to: To = None,
) -> Response:
    """Events and sessions a bucket and type. Default range: the last hour, day or 30 days, by the bucket's width."""
    credential = await reader(request)
    end = to or datetime.now(UTC)
    start = since or end - _SPANS[by]
    if (end - start) / _STEPS[by] > BUCKETS_MAX:
        text = f"from and to are at most {BUCKETS_MAX} buckets of one {by} apart"
        fault: Fault = {"pointer": "/query/from", "code": "range_too_long", "detail": text}
        raise Refusal(422, "range_too_long", text, errors=[fault])
    edge = edge_of(request)
    query = (
        # `by` is one of three words, checked above; everything else is bound.
        f"SELECT toStartOfInterval(occurred_at, INTERVAL 1 {by}, 'UTC') AS start, event_type,"  # noqa: S608
        " count() AS events, uniqExactIf(session_id, session_id != '') AS sessions"  # nosec B608
        f" FROM {edge.store.database}.tracking_events WHERE tenant_id = {{tenant:UUID}}"
        " AND occurred_at >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')"
        " AND occurred_at < fromUnixTimestamp64Milli({until:Int64}, 'UTC')"
        f"{_and('event_type') if type_ else ''}"
        " GROUP BY start, event_type ORDER BY start, event_type"
    )
    parameters = {"tenant": credential.tenant_id, "since": _ms(start), "until": _ms(end), "event_type": type_ or ""}
    rows = await edge.store.rows(query, parameters)
    return _json({"from": start.isoformat(), "to": end.isoformat(), "by": by, "buckets": rows})


async def _page(
    request: Request,
    wanted: _List,
    span: tuple[datetime | None, datetime | None],
    cursor: str | None,
    limit: int,
) -> Response:
    credential = await reader(request)
    edge = edge_of(request)
    since, until = _ms(span[0] or FIRST), _ms(span[1] or LAST)
    scope = orjson.dumps([credential.tenant_id, wanted.table, wanted.filters, since, until]).decode()
    parameters: dict[str, Any] = {"tenant": credential.tenant_id, "since": since, "until": until, **wanted.filters}
    below = ""
    if cursor is not None:
        place = edge.cursors.read(scope, cursor)
        parameters |= {"place_ms": place.occurred_ms, "place_id": place.event_id}
        below = (
            " AND occurred_at <= fromUnixTimestamp64Milli({place_ms:Int64}, 'UTC')"
            " AND (occurred_at, event_id) < (fromUnixTimestamp64Milli({place_ms:Int64}, 'UTC'), {place_id:String})"
        )
    query = (
        # Table, columns and filter names are constants of this module; every value is bound.
        f"SELECT {wanted.columns}, toUnixTimestamp64Milli(occurred_at) AS _ms"  # nosec B608 # noqa: S608
        f" FROM {edge.store.database}.{wanted.table} WHERE tenant_id = {{tenant:UUID}}"
        " AND occurred_at >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')"
        " AND occurred_at < fromUnixTimestamp64Milli({until:Int64}, 'UTC')"
        f"{''.join(_and(name) for name in wanted.filters)}{below}"
        f" ORDER BY occurred_at DESC, event_id DESC LIMIT {limit + 1}"
    )
    rows = await edge.store.rows(query, parameters)
    places = [Place(row.pop("_ms"), row["event_id"]) for row in rows]
    # One row more than asked for tells whether there is a next page, without counting.
    following = edge.cursors.write(scope, places[limit - 1]) if len(rows) > limit else None
    for row in rows:
        if "properties" in row:
            row["properties"] = orjson.loads(row["properties"] or "{}")
    return _json({"items": rows[:limit], "next_cursor": following})


def _and(name: str) -> str:
    return f" AND {name} = {{{name}:String}}"


def _ms(moment: datetime) -> int:
    return (max(FIRST, min(LAST, moment)) - EPOCH) // MILLISECOND


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), 200, {"Cache-Control": "no-store"}, "application/json")
