"""Hotmart 2.0.0: what one of its webhooks says of a sale. Read by agents/tracking/sale.py."""

from datetime import datetime

import phonenumbers

from agents.tracking.amount import amount_of_number, currency, time_of_epoch_ms
from agents.tracking.body import Part, show
from agents.tracking.click import click_id_in
from app.errors import Poison
from schemas.tracking_sales import Buyer, EventType, Money, Sale, Tracking

VERSION = "2.0.0"
INSTALLMENTS_MAX = 999
RECURRENCE_MAX = 1_000_000
BRAZIL = "BR"

EVENTS = {
    "PURCHASE_OUT_OF_SHOPPING_CART": EventType.CART_ABANDONED,
    "PURCHASE_BILLET_PRINTED": EventType.PAYMENT_PENDING,
    "PURCHASE_APPROVED": EventType.ORDER_APPROVED,
    "PURCHASE_COMPLETE": EventType.ORDER_COMPLETED,
    "PURCHASE_CANCELED": EventType.ORDER_CANCELLED,
    "PURCHASE_PROTEST": EventType.ORDER_REFUND_REQUESTED,
    "PURCHASE_REFUNDED": EventType.ORDER_REFUNDED,
    "PURCHASE_CHARGEBACK": EventType.ORDER_CHARGEBACK,
    "PURCHASE_EXPIRED": EventType.ORDER_EXPIRED,
    "PURCHASE_DELAYED": EventType.SUBSCRIPTION_LATE,
    "SUBSCRIPTION_CANCELLATION": EventType.SUBSCRIPTION_CANCELLED,
    "SWITCH_PLAN": EventType.SUBSCRIPTION_PLAN_CHANGED,
    "UPDATE_SUBSCRIPTION_CHARGE_DATE": EventType.SUBSCRIPTION_RESCHEDULED,
    "CLUB_FIRST_ACCESS": EventType.MEMBER_ENTERED,
    "CLUB_MODULE_COMPLETED": EventType.MODULE_COMPLETED,
}
PRICES = ("price", "full_price", "original_offer_price")  # full_price holds the interest of instalments too


def read(body: Part, received_at: datetime) -> Sale:
    """The sale of one Hotmart webhook."""
    if body.text("version") != VERSION:
        body.refuse("unknown_version", "version", f'"{VERSION}"; set it in Hotmart\'s webhook settings')
    native_type = body.identifier("event")
    if native_type not in EVENTS:
        raise Poison("unknown_event", f"/event: {show(native_type)}; known are {', '.join(EVENTS)}")
    stated = body.part("data")
    purchase = stated.part("purchase") if native_type.startswith("PURCHASE_") else Part({}, "/data/purchase")
    subscription = Part({}, "/data/subscription")
    if not native_type.startswith(("PURCHASE_", "CLUB_")):
        subscription = stated.part("subscription")
    event_type = _event_type(EVENTS[native_type], purchase)
    product = stated.part("product") if stated.has("product") else subscription.part("product")
    payment = purchase.part("payment")
    return Sale(
        event_type=event_type,
        native_type=native_type,
        order_id=_order_id(event_type, stated, purchase, subscription),
        # The club's events spell it differently. It is the event's own time, so a re-sent event keeps it.
        occurred_at=time_of_epoch_ms(
            body, "creationDate" if body.has("creationDate") else "creation_date", received_at
        ),
        product_id=product.text("id"),
        product_name=product.text("name"),
        money=_money(event_type, purchase),
        buyer=_buyer(stated, purchase, subscription),
        payment_method=payment.text("type"),
        installments=payment.whole("installments_number", INSTALLMENTS_MAX),
        tracking=_tracking(purchase.part("origin")),
    )


def _event_type(event_type: EventType, purchase: Part) -> EventType:
    """Three names of Hotmart mean two things each; the purchase says which."""
    if event_type is EventType.ORDER_APPROVED and (purchase.whole("recurrence_number", RECURRENCE_MAX) or 1) > 1:
        return EventType.SUBSCRIPTION_RENEWED
    if event_type is EventType.ORDER_CANCELLED and purchase.part("payment").text("refusal_reason"):
        return EventType.PAYMENT_REFUSED
    if event_type is EventType.ORDER_REFUNDED and purchase.text("status") == "PARTIALLY_REFUNDED":
        return EventType.ORDER_PARTIALLY_REFUNDED
    return event_type


def _order_id(event_type: EventType, stated: Part, purchase: Part, subscription: Part) -> str:
    """The transaction; of events about a subscription as a whole, the subscriber's code; of carts and clubs, none."""
    if event_type in (EventType.SUBSCRIPTION_CANCELLED, EventType.SUBSCRIPTION_RESCHEDULED):
        return stated.part("subscriber").identifier("code")
    if event_type is EventType.SUBSCRIPTION_PLAN_CHANGED:
        if subscription.has("subscriber"):
            return subscription.part("subscriber").identifier("code")
        return subscription.identifier("subscriber_code")
    if event_type in (EventType.CART_ABANDONED, EventType.MEMBER_ENTERED, EventType.MODULE_COMPLETED):
        return ""
    return purchase.identifier("transaction")


def _money(event_type: EventType, purchase: Part) -> Money | None:
    """The offer's price that was paid. Of a partial refund Hotmart does not say how much, so neither do we."""
    if event_type is EventType.ORDER_PARTIALLY_REFUNDED:
        return None
    for name in PRICES:
        price = purchase.part(name)
        if price.has("value"):
            return Money(amount_of_number(price, "value"), currency(price, "currency_value"))
    return None


def _buyer(stated: Part, purchase: Part, subscription: Part) -> Buyer:
    for person in (stated.part("buyer"), stated.part("subscriber"), subscription.part("user"), stated.part("user")):
        if person.fields:
            country = (purchase if purchase.has("checkout_country") else stated).part("checkout_country").text("iso")
            return Buyer(
                email=person.text("email"),
                phone=_phone(person, country),
                document=person.text("document"),
            )
    return Buyer()


def _phone(person: Part, country: str) -> str:
    """The number in E.164. The code field holds a country's or an area's code, or nothing of use: all are seen."""
    if isinstance(person.fields.get("phone"), dict):
        phone = person.part("phone")
        number, code = phone.text("cell") or phone.text("phone"), phone.text("dddCell") or phone.text("dddPhone")
    else:
        number = person.text("checkout_phone") or person.text("phone")
        code = person.text("checkout_phone_code").lstrip("+")
    region = country if country in phonenumbers.SUPPORTED_REGIONS else BRAZIL
    for spelling in (number, f"{code}{number}", f"+{code}{number}"):
        try:
            found = phonenumbers.parse(spelling, region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(found):
            return phonenumbers.format_number(found, phonenumbers.PhoneNumberFormat.E164)
    return ""


def _tracking(origin: Part) -> Tracking:
    sck, src = origin.text("sck"), origin.text("src")
    return Tracking(click_id=click_id_in(sck, src), sck=sck, src=src)
