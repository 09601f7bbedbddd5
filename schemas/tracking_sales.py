"""The words of a sale: gateways, canonical event types, currencies, and the sale a gateway's webhook states.

Every gateway's reader (agents/tracking/<gateway>.py) turns its own names into these; gateway_events holds nothing else.
"""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

AMOUNT_DIGITS_MAX = 14  # before the point: Decimal(18, 4) in Avro and ClickHouse
AMOUNT_SCALE = 4  # after the point
ID_CHARS_MAX = 256  # an order, product or session id; the longest seen is a UUID with a prefix
TEXT_CHARS_MAX = 2_048  # a name or a tracking parameter; what is longer is not one
UTM = ("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content")
CLICK_ID_PREFIX = "afl_"  # a click id says so itself, so that it can travel in a gateway's free parameters


class Gateway(StrEnum):
    """Whose webhook it is: the last part of its URL."""

    HOTMART = "hotmart"
    KIWIFY = "kiwify"
    GENERIC = "generic"
    STANDARD = "standard"


class EventType(StrEnum):
    """The canonical event types, past tense. docs/webhooks.md says which native event becomes which."""

    CHECKOUT_STARTED = "checkout_started"
    CART_ABANDONED = "cart_abandoned"
    PAYMENT_PENDING = "payment_pending"  # a boleto or pix was issued and is not paid yet
    PAYMENT_REFUSED = "payment_refused"
    ORDER_APPROVED = "order_approved"  # the sale: once per order
    ORDER_COMPLETED = "order_completed"  # the guarantee is over; not a second sale
    ORDER_REFUND_REQUESTED = "order_refund_requested"
    ORDER_REFUNDED = "order_refunded"
    ORDER_PARTIALLY_REFUNDED = "order_partially_refunded"
    ORDER_CHARGEBACK = "order_chargeback"
    ORDER_CHARGEBACK_REVERSED = "order_chargeback_reversed"
    ORDER_CANCELLED = "order_cancelled"
    ORDER_EXPIRED = "order_expired"
    SUBSCRIPTION_RENEWED = "subscription_renewed"  # a later charge of a subscription was paid
    SUBSCRIPTION_LATE = "subscription_late"
    SUBSCRIPTION_CANCELLED = "subscription_cancelled"
    SUBSCRIPTION_PLAN_CHANGED = "subscription_plan_changed"
    SUBSCRIPTION_RESCHEDULED = "subscription_rescheduled"  # its charge day was moved
    MEMBER_ENTERED = "member_entered"  # first access to the members' area: no sale, no money
    MODULE_COMPLETED = "module_completed"  # the same


# Before there is an order there is no order id; a member's progress has none either.
WITHOUT_ORDER = frozenset(
    {EventType.CHECKOUT_STARTED, EventType.CART_ABANDONED, EventType.MEMBER_ENTERED, EventType.MODULE_COMPLETED}
)
# Money that moved: an event of these types without an amount is not a sale anybody can add up.
WITH_AMOUNT = frozenset({EventType.ORDER_APPROVED, EventType.SUBSCRIPTION_RENEWED, EventType.ORDER_REFUNDED})


@dataclass(frozen=True, slots=True)
class Money:
    """An amount as the gateway states it, never below zero: the event type says which way it went."""

    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Buyer:
    """Who bought, in clear: lives only between reading and hashing, and never in a repr."""

    email: str = field(default="", repr=False)
    phone: str = field(default="", repr=False)
    document: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Tracking:
    """Where the buyer came from, as the gateway carried it through its checkout."""

    click_id: str = ""
    session_id: str = ""
    sck: str = ""
    src: str = ""
    utm_source: str = ""
    utm_medium: str = ""
    utm_campaign: str = ""
    utm_term: str = ""
    utm_content: str = ""


@dataclass(frozen=True, slots=True)
class Sale:
    """What one webhook says, in our words, before the buyer becomes hashes."""

    event_type: EventType
    native_type: str
    order_id: str
    occurred_at: datetime
    product_id: str = ""
    product_name: str = ""
    money: Money | None = None
    buyer: Buyer = field(default_factory=Buyer)
    payment_method: str = ""
    installments: int | None = None
    tracking: Tracking = field(default_factory=Tracking)
