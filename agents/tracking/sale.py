"""The canonical sale event: one verified gateway webhook in, one row of gateway_events out. Pure, so that a replay of
the same bytes gives the same row.

The reader of its gateway says what happened (hotmart, kiwify, generic); here the buyer becomes keyed hashes and the
rest is checked against what the tables can hold. What cannot be read is Poison, with the place and what is allowed.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from agents.tracking import generic, hotmart, kiwify
from agents.tracking.body import Part, parse
from app.errors import Poison
from app.pseudonym import Pseudonymiser
from schemas.tracking_sales import WITH_AMOUNT, Buyer, Gateway, Sale

READERS: dict[str, Callable[[Part, datetime], Sale]] = {
    Gateway.HOTMART: hotmart.read,
    Gateway.KIWIFY: kiwify.read,
    Gateway.GENERIC: generic.read,
    Gateway.STANDARD: generic.read_standard,
}
# One word for one thing in every row, whatever each gateway calls it.
PAYMENT_METHODS = {"billet": "boleto", "bank_slip": "boleto"}


def sale_event(webhook: Mapping[str, Any], pseudonymiser: Pseudonymiser) -> dict[str, Any]:
    """The gateway-event record of a decoded gateway-webhook record, or Poison."""
    gateway = webhook["gateway"]
    reader = READERS.get(gateway)
    if reader is None:
        raise Poison("unknown_gateway", f"gateway must be one of {', '.join(READERS)}")
    received_at = webhook["received_at"]
    sale = reader(parse(webhook["body"]), received_at)
    if sale.money is None and sale.event_type in WITH_AMOUNT:
        raise Poison("missing_field", f"an event of type {sale.event_type} must say its amount and currency")
    tenant_id = str(webhook["tenant_id"])  # fastavro decodes a UUID
    return {
        "tenant_id": tenant_id,
        "event_id": webhook["event_id"],
        "gateway": str(gateway),
        "event_type": sale.event_type.value,
        "native_type": sale.native_type,
        "order_id": sale.order_id,
        "product_id": sale.product_id,
        "product_name": sale.product_name,
        "occurred_at": sale.occurred_at,
        "received_at": received_at,
        **_hashes(sale.buyer, tenant_id, pseudonymiser),
        "amount": sale.money.amount if sale.money else None,
        "currency": sale.money.currency if sale.money else "",
        "payment_method": _payment_method(sale.payment_method),
        # Gateways write 0 for a payment that has no instalments.
        "installments": sale.installments or None,
        **asdict(sale.tracking),
    }


def _hashes(buyer: Buyer, tenant_id: str, pseudonymiser: Pseudonymiser) -> dict[str, str]:
    return {
        "email_hash": pseudonymiser.email(tenant_id, buyer.email),
        "phone_hash": pseudonymiser.phone(tenant_id, buyer.phone),
        "document_hash": pseudonymiser.document(tenant_id, buyer.document),
    }


def _payment_method(native: str) -> str:
    method = native.lower().replace(" ", "_")
    return PAYMENT_METHODS.get(method, method)
