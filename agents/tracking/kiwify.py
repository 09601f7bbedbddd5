"""Kiwify: what one of its webhooks says of a sale. Read by agents/tracking/sale.py."""

from datetime import datetime

from agents.tracking.amount import money_of_cents, time_of_brasilia
from agents.tracking.body import Part, show
from agents.tracking.click import click_id_in
from app.errors import Poison
from schemas.tracking_sales import UTM, Buyer, EventType, Sale, Tracking

INSTALLMENTS_MAX = 999
CURRENCY = "BRL"  # where it names none
ABANDONED = "abandoned"  # the cart event has no type, only this status
FREE_PARAMETERS = ("s1", "s2", "s3")  # the seller may put anything there
WRAPPERS = ("order", "cart")  # what the panel's log, and some deliveries, put around the event

EVENTS = {
    "billet_created": EventType.PAYMENT_PENDING,
    "pix_created": EventType.PAYMENT_PENDING,
    "order_rejected": EventType.PAYMENT_REFUSED,
    "order_approved": EventType.ORDER_APPROVED,
    "order_refunded": EventType.ORDER_REFUNDED,
    "chargeback": EventType.ORDER_CHARGEBACK,
    "subscription_renewed": EventType.SUBSCRIPTION_RENEWED,
    "subscription_late": EventType.SUBSCRIPTION_LATE,
    "subscription_canceled": EventType.SUBSCRIPTION_CANCELLED,
}
# When it happened: the field of the event itself, then the order's last change, then its creation.
TIMES = {
    EventType.ORDER_APPROVED: "approved_date",
    EventType.SUBSCRIPTION_RENEWED: "approved_date",
    EventType.ORDER_REFUNDED: "refunded_at",
}


def read(body: Part, received_at: datetime) -> Sale:
    """The sale of one Kiwify webhook."""
    for wrapper in WRAPPERS:
        if isinstance(body.fields.get(wrapper), dict):
            body = body.part(wrapper)
    native_type = body.text("webhook_event_type")
    if not native_type and body.text("status") == ABANDONED:
        return _cart(body, received_at)
    if not native_type:
        body.refuse("missing_field", "webhook_event_type", f"one of {', '.join(EVENTS)}")
    if native_type not in EVENTS:
        raise Poison(
            "unknown_event", f"{body.at('webhook_event_type')}: {show(native_type)}; known are {', '.join(EVENTS)}"
        )
    event_type = EVENTS[native_type]
    product, customer, commissions = body.part("Product"), body.part("Customer"), body.part("Commissions")
    money = None
    if commissions.has("charge_amount"):
        money = money_of_cents(commissions, "charge_amount", "currency", CURRENCY)
    times = (TIMES.get(event_type, "updated_at"), "updated_at", "created_at")
    return Sale(
        event_type=event_type,
        native_type=native_type,
        order_id=body.identifier("order_id"),
        occurred_at=time_of_brasilia(body, next((n for n in times if body.text(n)), "created_at"), received_at),
        product_id=product.text("product_id"),
        product_name=product.text("product_name"),
        money=money,
        buyer=Buyer(
            email=customer.text("email"),
            phone=customer.text("mobile"),
            document=customer.text("CPF") or customer.text("cnpj"),
        ),
        payment_method=body.text("payment_method"),
        installments=body.whole("installments", INSTALLMENTS_MAX),
        tracking=_tracking(body.part("TrackingParameters")),
    )


def _cart(body: Part, received_at: datetime) -> Sale:
    """An abandoned cart: flat, and its own id stands for the order that never was."""
    return Sale(
        event_type=EventType.CART_ABANDONED,
        native_type=ABANDONED,
        order_id=body.identifier("id"),
        occurred_at=time_of_brasilia(body, "created_at", received_at),
        product_id=body.text("product_id"),
        product_name=body.text("product_name"),
        buyer=Buyer(
            email=body.text("email"),
            phone=body.text("phone"),
            document=body.text("cpf") or body.text("cnpj"),
        ),
        tracking=_tracking(body.part("TrackingParameters")),
    )


def _tracking(parameters: Part) -> Tracking:
    sck, src = parameters.text("sck"), parameters.text("src")
    return Tracking(
        click_id=click_id_in(sck, src, *(parameters.text(name) for name in FREE_PARAMETERS)),
        sck=sck,
        src=src,
        **{name: parameters.text(name) for name in UTM},
    )
