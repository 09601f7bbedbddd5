"""POST /track/...: where a click enters. Key, body, checks, Avro, Kafka; 202 once every accepted event is confirmed."""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from fastapi import APIRouter
from opentelemetry.trace import SpanKind
from starlette.requests import Request
from starlette.responses import Response

from api import body, contract
from api.deps import Edge, edge_of, writer
from api.errors import ERRORS_MAX, Fault, Refusal
from api.events import Reader, Rejected, sent_at_of
from api.head import header
from app import failpoints
from app.credentials import Credential
from app.partition_key import partition_key
from app.producer import Record
from app.telemetry import metrics, traces
from schemas import envelope, tracking
from schemas.topics import TRACKING_COLLECTED

router: Final = APIRouter(prefix="/track", tags=["tracking"])
EVENTS_IN_A_ROW: Final = 250  # then the loop serves others: about 5 ms of work

NOT_STORED: Final = {"Cache-Control": "no-store"}


@router.post("/click", **contract.TRACK_ONE_TYPE)
async def click(request: Request) -> Response:
    """A visitor followed a link: one event, or an array of them."""
    return await _collect(request, tracking.CLICK)


@router.post("/pageview", **contract.TRACK_ONE_TYPE)
async def pageview(request: Request) -> Response:
    """A visitor saw a page: one event, or an array of them."""
    return await _collect(request, tracking.PAGEVIEW)


@router.post("/initiate_checkout", **contract.TRACK_ONE_TYPE)
async def initiate_checkout(request: Request) -> Response:
    """A visitor began to buy: one event, or an array of them."""
    return await _collect(request, tracking.INITIATE_CHECKOUT)


@router.post("/batch", **contract.TRACK_BATCH)
async def batch(request: Request) -> Response:
    """Events of any type, each with its `event_type`: an array, or `{"events": [...], "sent_at": "..."}`."""
    return await _collect(request, None)


async def _collect(request: Request, event_type: str | None) -> Response:
    edge = edge_of(request)
    with (
        traces.span("edge.track", header(request.scope, b"traceparent"), SpanKind.PRODUCER),
        edge.in_flight.hold() as hold,
    ):
        credential = await writer(request, "k")
        raw = await body.read(request, hold)
        edge.admission.admit()
        document = body.parse(body.inflate(raw, request, hold))
        events, pointer, sent_at = _events(document)
        edge.rates.spend(credential, len(events))
        reader = Reader(credential.tenant_id, event_type, edge.people, datetime.now(UTC))
        accepted: list[dict[str, Any]] = []
        rejected: list[tuple[int, list[Fault]]] = []
        for index, event in enumerate(events):
            if index % EVENTS_IN_A_ROW == EVENTS_IN_A_ROW - 1:
                await asyncio.sleep(0)
            try:
                accepted.append(reader.record(event, pointer.format(index), sent_at))
            except Rejected as verdict:
                rejected.append((index, verdict.faults))
                metrics.EVENTS_REJECTED.labels(verdict.faults[0]["code"]).inc()
        if not accepted:
            faults = [fault for _, found in rejected for fault in found]
            raise Refusal(422, "no_valid_event", "no event of the request can be taken", errors=faults)
        await edge.producer.send_many(_records(edge, credential, accepted))
        if failpoints.armed:
            failpoints.hit("edge_confirmed")
    for name, count in Counter(event["event_type"] for event in accepted).items():
        metrics.EVENTS_ACCEPTED.labels(name).inc(count)
    return _answer(accepted, rejected, reader.warnings)


def _events(document: Any) -> tuple[list[Any], str, datetime | None]:
    """The events of the body, the pattern of their JSON pointers, and a `sent_at` that holds for all."""
    if isinstance(document, list):
        found, pointer, sent_at = document, "/{}", None
    elif isinstance(document, dict) and "events" in document:
        found, pointer = document["events"], "/events/{}"
        if not isinstance(found, list):
            raise Refusal(422, "not_an_array", "events is an array of JSON objects")
        try:
            sent_at = sent_at_of(document)
        except ValueError as error:
            fault: Fault = {"pointer": "/sent_at", "code": "value_error", "detail": str(error)}
            raise Refusal(422, "invalid_sent_at", f"sent_at {error}", errors=[fault]) from None
    else:
        found, pointer, sent_at = [document], "", None
    if not 0 < len(found) <= tracking.EVENTS_MAX:
        raise Refusal(422, "event_count", f"a request carries 1 to {tracking.EVENTS_MAX} events, not {len(found)}")
    return found, pointer, sent_at


def _records(edge: Edge, credential: Credential, accepted: list[dict[str, Any]]) -> list[Record]:
    schema = edge.codec.schema(tracking.TRACKING_EVENT)
    trace = traces.current_header()
    records = []
    for event in accepted:
        event_id = event["event_id"]
        key = partition_key(credential.tenant_id, event_id, credential.shards)
        headers = [*envelope.headers(event_id, credential.tenant_id, event["event_type"], schema.name), *trace]
        records.append(Record(TRACKING_COLLECTED.name, key, schema.encode(event), headers))
    return records


def _answer(accepted: list[dict[str, Any]], rejected: list[tuple[int, list[Fault]]], warnings: list[Fault]) -> Response:
    content: dict[str, Any] = {
        "accepted": len(accepted),
        "event_ids": [event["event_id"] for event in accepted],
        "rejected": [
            {"index": index, "code": faults[0]["code"], "detail": f"{faults[0]['pointer']}: {faults[0]['detail']}"}
            for index, faults in rejected
        ],
    }
    if warnings:
        content["warnings"] = warnings[:ERRORS_MAX]
    return Response(orjson.dumps(content), 202, NOT_STORED, "application/json")
