"""POST /webhooks/{gateway}: where a sale enters. Key, raw body, signature, Avro, Kafka; 200 once it is confirmed.

Nothing is understood here: the agent normalises, so a better normaliser can be run over the same bytes again.
"""

from datetime import UTC, datetime
from typing import Any, Final

import orjson
from fastapi import APIRouter
from opentelemetry.trace import SpanKind
from starlette.requests import Request
from starlette.responses import Response

from api import body, contract
from api.delivery_id import delivery_id
from api.deps import edge_of, writer
from api.errors import Refusal
from api.events import EPOCH, MILLISECOND
from api.signatures import BadSignature, Delivery, verify
from app import failpoints
from app.partition_key import partition_key
from app.producer import NotProduced, Record
from app.telemetry import metrics, traces
from schemas import envelope, tracking
from schemas.topics import GATEWAY_RECEIVED

router: Final = APIRouter(prefix="/webhooks", tags=["webhooks"])
CONTENT_TYPE_CHARACTERS_MAX: Final = 200  # kept beside the body for whoever parses it


@router.post("/{gateway}", **contract.WEBHOOK)
async def receive(request: Request, gateway: str) -> Response:
    """One delivery of a payment gateway. Not rate limited: gateways switch a webhook off that answers with errors."""
    if gateway not in tracking.GATEWAYS:
        raise Refusal(404, "unknown_gateway", f"the gateways are {', '.join(tracking.GATEWAYS)}")
    edge = edge_of(request)
    with (
        traces.span("edge.webhook", request.headers.get("traceparent"), SpanKind.PRODUCER, gateway=gateway),
        edge.in_flight.hold() as hold,
    ):
        credential = await writer(request, "key")
        secrets = await edge.credentials.webhook_secrets(credential.tenant_id, gateway)
        raw = await body.read(request, hold)
        delivery = Delivery(raw, request.headers, request.query_params)
        try:
            verify(gateway, delivery, secrets)
        except BadSignature as refused:
            metrics.WEBHOOKS.labels(gateway, refused.code).inc()
            raise Refusal(401, refused.code, refused.text) from None
        if not raw:
            raise Refusal(400, "empty_body", "the body is empty")
        event_id = delivery_id(gateway, delivery)
        schema = edge.codec.schema(tracking.GATEWAY_WEBHOOK)
        value: dict[str, Any] = {
            "tenant_id": credential.tenant_id,
            "event_id": event_id,
            "gateway": gateway,
            "received_at": (datetime.now(UTC) - EPOCH) // MILLISECOND,
            "content_type": request.headers.get("content-type", "")[:CONTENT_TYPE_CHARACTERS_MAX],
            "body": raw,
        }
        headers = envelope.headers(event_id, credential.tenant_id, tracking.WEBHOOK, schema.name)
        key = partition_key(credential.tenant_id, event_id, credential.shards)
        record = Record(GATEWAY_RECEIVED.name, key, schema.encode(value), [*headers, *traces.current_header()])
        try:
            await edge.producer.send_many([record])
            if failpoints.armed:
                failpoints.hit("edge_confirmed")
        except NotProduced as failure:
            metrics.WEBHOOKS.labels(gateway, failure.reason).inc()
            raise
    metrics.WEBHOOKS.labels(gateway, "accepted").inc()
    answer = orjson.dumps({"accepted": 1, "event_id": event_id})
    return Response(answer, 200, {"Cache-Control": "no-store"}, "application/json")
