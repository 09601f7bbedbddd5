"""Our own webhook schema, for any shop without a reader of its own: plain (`generic`) or in a Standard Webhooks
envelope (`standard`). Read by agents/tracking/sale.py; described for its users in docs/webhooks.md.

Strict where a gateway's own format is read leniently: an unknown field or a number for money is a mistake of ours to
name, not a habit to put up with.
"""

from datetime import datetime

from agents.tracking.amount import amount_of_text, currency, time_of_rfc3339
from agents.tracking.body import Part, show
from agents.tracking.click import CLICK_ID_CHARS_MAX, click_id_in
from app.errors import Poison
from schemas.tracking_sales import ID_CHARS_MAX, UTM, WITHOUT_ORDER, Buyer, EventType, Money, Sale, Tracking

INSTALLMENTS_MAX = 999
DETAILS = ("order_id", "amount", "currency", "product", "buyer", "tracking", "payment")
EVENTS = {event_type.value: event_type for event_type in EventType}


def read(body: Part, received_at: datetime) -> Sale:
    """The sale of one `generic` webhook: the fields stand at the top."""
    body.only("event_id", "event", "occurred_at", *DETAILS)
    body.identifier("event_id")
    native_type = body.identifier("event")
    event_type = _event_type(native_type, body.at("event"))
    return _sale(body, event_type, native_type, time_of_rfc3339(body, "occurred_at", received_at))


def read_standard(body: Part, received_at: datetime) -> Sale:
    """The sale of one `standard` webhook: `{type, timestamp, data}`, the fields in `data`."""
    body.only("type", "timestamp", "data")
    native_type = body.identifier("type")
    event_type = _event_type(native_type, body.at("type"))
    if not body.has("data"):
        body.refuse("missing_field", "data", "an object")
    stated = body.part("data")
    stated.only("occurred_at", *DETAILS)
    # The envelope's timestamp is when the event happened, by the specification; the field may say it better.
    clock, name = (stated, "occurred_at") if stated.has("occurred_at") else (body, "timestamp")
    return _sale(stated, event_type, native_type, time_of_rfc3339(clock, name, received_at))


def _event_type(native_type: str, pointer: str) -> EventType:
    # Standard Webhooks writes types with dots: order.approved is order_approved.
    event_type = EVENTS.get(native_type.replace(".", "_"))
    if event_type is None:
        raise Poison("unknown_event", f"{pointer}: {show(native_type)}; known are {', '.join(EVENTS)}")
    return event_type


def _sale(stated: Part, event_type: EventType, native_type: str, occurred_at: datetime) -> Sale:
    product, buyer, payment = stated.part("product"), stated.part("buyer"), stated.part("payment")
    product.only("id", "name")
    buyer.only("email", "phone", "document")
    payment.only("method", "installments")
    without_order = event_type in WITHOUT_ORDER
    return Sale(
        event_type=event_type,
        native_type=native_type,
        order_id=stated.text("order_id", ID_CHARS_MAX) if without_order else stated.identifier("order_id"),
        occurred_at=occurred_at,
        product_id=product.text("id"),
        product_name=product.text("name"),
        money=_money(stated),
        buyer=Buyer(email=buyer.text("email"), phone=buyer.text("phone"), document=buyer.text("document")),
        payment_method=payment.text("method"),
        installments=payment.whole("installments", INSTALLMENTS_MAX),
        tracking=_tracking(stated.part("tracking")),
    )


def _money(stated: Part) -> Money | None:
    if stated.has("amount"):
        return Money(amount_of_text(stated, "amount"), currency(stated, "currency"))
    if stated.has("currency"):
        stated.refuse("missing_field", "amount", "given with its currency")
    return None


def _tracking(stated: Part) -> Tracking:
    stated.only("click_id", "session_id", "sck", "src", *UTM)
    sck, src = stated.text("sck"), stated.text("src")
    return Tracking(
        click_id=stated.text("click_id", CLICK_ID_CHARS_MAX) or click_id_in(sck, src),
        session_id=stated.text("session_id", ID_CHARS_MAX),
        sck=sck,
        src=src,
        **{name: stated.text(name) for name in UTM},
    )
