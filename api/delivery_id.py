"""The event id of a webhook: a pure function of the delivery, so that the same delivery twice is one event.

`<gateway>:<native id>` where the gateway gives one within what it signed, else a hash of the body.
"""

import hashlib
from typing import Any, Final

import orjson

from api.signatures import Delivery
from schemas.envelope import EVENT_ID_BYTES_MAX

_NATIVE: Final = (str, int)


def delivery_id(gateway: str, delivery: Delivery) -> str:
    """The id; at most EVENT_ID_BYTES_MAX bytes, printable."""
    native = _standard(delivery) if gateway == "standard" else _from_body(gateway, delivery.raw)
    if native is None:
        return f"{gateway}:sha256:{hashlib.sha256(delivery.raw).hexdigest()}"
    event_id = f"{gateway}:{native}"
    if len(event_id.encode()) > EVENT_ID_BYTES_MAX or not event_id.isprintable():
        return f"{gateway}:id-sha256:{hashlib.sha256(native.encode()).hexdigest()}"
    return event_id


def _standard(delivery: Delivery) -> str | None:
    return delivery.headers.get("webhook-id") or None  # it is part of what was signed


def _from_body(gateway: str, raw: bytes) -> str | None:
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return None
    if gateway == "kiwify":
        return _kiwify(document)
    return _text(document.get("event_id" if gateway == "generic" else "id"))


def _kiwify(document: dict[str, Any]) -> str | None:
    """Kiwify numbers no deliveries: an order in one state is one event. An abandoned cart has an `id` alone."""
    order = _text(document.get("order_id")) or _text(document.get("id"))
    if order is None:
        return None
    kind = _text(document.get("webhook_event_type")) or ""
    status = _text(document.get("order_status")) or _text(document.get("status")) or ""
    return f"{order}:{kind}:{status}" if kind or status else None


def _text(value: object) -> str | None:
    # A bool is an int to Python and no id to anybody.
    if isinstance(value, bool) or not isinstance(value, _NATIVE):
        return None
    return str(value).strip() or None
