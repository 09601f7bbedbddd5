"""The canonical sale event: every gateway's events by table; what a row says of money, persons, times and clicks."""

import io
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fastavro import schemaless_reader, schemaless_writer
from fastavro.schema import load_schema

from agents.tracking import hotmart, kiwify
from agents.tracking.sale import sale_event
from app.errors import Poison
from app.pseudonym import Pseudonymiser
from schemas.tracking_sales import EventType
from tests.unit.agents.tracking.webhooks import NAMES, RECEIVED_AT, TENANT, changed, fixture, webhook

ROOT = Path(__file__).parents[4]
SCHEMA = load_schema(str(ROOT / "schemas/avro/gateway-event.1.avsc"))
WEBHOOK_SCHEMA = load_schema(str(ROOT / "schemas/avro/gateway-webhook.1.avsc"))
PSEUDONYMISER = Pseudonymiser(bytes(range(32)))

HOTMART: list[tuple[str, str, dict[str, Any], str, str, str | None]] = [
    # event, fixture, changes, canonical type, order id, amount
    ("PURCHASE_APPROVED", "purchase", {}, "order_approved", "HP0000000001", "197.9000"),
    (
        "PURCHASE_APPROVED",
        "purchase",
        {"data/purchase/recurrence_number": 2},
        "subscription_renewed",
        "HP0000000001",
        "197.9000",
    ),
    ("PURCHASE_COMPLETE", "purchase", {}, "order_completed", "HP0000000001", "197.9000"),
    ("PURCHASE_CANCELED", "purchase", {}, "order_cancelled", "HP0000000001", "197.9000"),
    (
        "PURCHASE_CANCELED",
        "purchase",
        {"data/purchase/payment/refusal_reason": "Exemplo"},
        "payment_refused",
        "HP0000000001",
        "197.9000",
    ),
    ("PURCHASE_BILLET_PRINTED", "purchase", {}, "payment_pending", "HP0000000001", "197.9000"),
    ("PURCHASE_PROTEST", "purchase", {}, "order_refund_requested", "HP0000000001", "197.9000"),
    ("PURCHASE_REFUNDED", "purchase", {}, "order_refunded", "HP0000000001", "197.9000"),
    (
        "PURCHASE_REFUNDED",
        "purchase",
        {"data/purchase/status": "PARTIALLY_REFUNDED"},
        "order_partially_refunded",
        "HP0000000001",
        None,
    ),
    ("PURCHASE_CHARGEBACK", "purchase", {}, "order_chargeback", "HP0000000001", "197.9000"),
    ("PURCHASE_EXPIRED", "purchase", {}, "order_expired", "HP0000000001", "197.9000"),
    ("PURCHASE_DELAYED", "purchase", {}, "subscription_late", "HP0000000001", "197.9000"),
    ("PURCHASE_OUT_OF_SHOPPING_CART", "cart", {}, "cart_abandoned", "", None),
    ("SUBSCRIPTION_CANCELLATION", "subscription_cancellation", {}, "subscription_cancelled", "SUBEXEMPLO1", None),
    ("SWITCH_PLAN", "switch_plan", {}, "subscription_plan_changed", "SUBEXEMPLO1", None),
    ("UPDATE_SUBSCRIPTION_CHARGE_DATE", "charge_date", {}, "subscription_rescheduled", "SUBEXEMPLO1", None),
    ("CLUB_FIRST_ACCESS", "club", {}, "member_entered", "", None),
    ("CLUB_MODULE_COMPLETED", "club", {}, "module_completed", "", None),
]
KIWIFY = [
    ("billet_created", "payment_pending"),
    ("pix_created", "payment_pending"),
    ("order_rejected", "payment_refused"),
    ("order_approved", "order_approved"),
    ("order_refunded", "order_refunded"),
    ("chargeback", "order_chargeback"),
    ("subscription_renewed", "subscription_renewed"),
    ("subscription_late", "subscription_late"),
    ("subscription_canceled", "subscription_cancelled"),
]


def decoded(record: dict[str, Any]) -> dict[str, Any]:
    """A gateway-webhook record as the loop hands it over: through its Avro schema."""
    wire = io.BytesIO()
    schemaless_writer(wire, WEBHOOK_SCHEMA, record, strict=True)
    wire.seek(0)
    found: dict[str, Any] = schemaless_reader(wire, WEBHOOK_SCHEMA, WEBHOOK_SCHEMA)
    return found


def normalise(gateway: str, body: bytes | dict[str, Any]) -> dict[str, Any]:
    """The row of one webhook, taken through the Avro schemas on both sides."""
    event = sale_event(decoded(webhook(gateway, body)), PSEUDONYMISER)
    wire = io.BytesIO()
    schemaless_writer(wire, SCHEMA, event, strict=True)
    wire.seek(0)
    found = schemaless_reader(wire, SCHEMA, SCHEMA)
    assert {**found, "tenant_id": str(found["tenant_id"])} == event
    return event


def refusal(gateway: str, body: bytes | dict[str, Any]) -> Poison:
    """The Poison of one webhook."""
    with pytest.raises(Poison) as caught:
        sale_event(webhook(gateway, body), PSEUDONYMISER)
    return caught.value


@pytest.mark.parametrize(("native", "name", "changes", "canonical", "order_id", "amount"), HOTMART)
def test_every_hotmart_event_has_its_canonical_type(
    native: str, name: str, changes: dict[str, Any], canonical: str, order_id: str, amount: str | None
) -> None:
    """Each of Hotmart's events becomes one row of the right type, order and amount."""
    body = {**fixture(f"hotmart/{name}"), "event": native}
    for pointer, value in changes.items():
        body = changed(body, pointer, value)
    event = normalise("hotmart", body)
    assert (event["event_type"], event["native_type"], event["order_id"]) == (canonical, native, order_id)
    assert event["amount"] == (Decimal(amount) if amount else None)
    assert event["currency"] == ("BRL" if amount else "")
    assert event["occurred_at"] == datetime(2026, 3, 1, 12, 0, 5, 123_000, tzinfo=UTC)
    assert (event["product_id"], event["product_name"]) == ("990017", "Curso de Cerâmica em Casa")
    assert event["email_hash"] == PSEUDONYMISER.email(TENANT, "iara.teste@example.com")


def test_the_hotmart_table_is_complete() -> None:
    """An event added to the reader is added to the table above."""
    assert {row[0] for row in HOTMART} == set(hotmart.EVENTS)


@pytest.mark.parametrize(("native", "canonical"), KIWIFY)
def test_every_kiwify_event_has_its_canonical_type(native: str, canonical: str) -> None:
    """Each of Kiwify's events becomes one row of the right type, with cents read as cents."""
    event = normalise("kiwify", {**fixture("kiwify/order"), "webhook_event_type": native})
    assert (event["event_type"], event["native_type"]) == (canonical, native)
    assert event["order_id"] == "5f1d6f4c-1111-4111-8111-00000000cafe"
    assert (event["amount"], event["currency"]) == (Decimal("50.7300"), "BRL")
    assert event["installments"] == 3


def test_the_kiwify_table_is_complete() -> None:
    """An event added to the reader is added to the table above."""
    assert {native for native, _ in KIWIFY} == set(kiwify.EVENTS)


def test_a_kiwify_cart_is_known_by_its_status() -> None:
    """The abandoned cart has no event type: its status says what it is."""
    event = normalise("kiwify", fixture("kiwify/cart"))
    assert (event["event_type"], event["order_id"], event["amount"]) == ("cart_abandoned", "carrinhoexemplo1", None)
    assert event["phone_hash"] == PSEUDONYMISER.phone(TENANT, "+5511987650002")
    assert event["occurred_at"] == datetime(2026, 3, 1, 11, 59, 0, 411_000, tzinfo=UTC)


def test_a_kiwify_event_in_its_panel_wrapper_is_the_same_event() -> None:
    """What some deliveries wrap in `order` reads as the event inside."""
    assert normalise("kiwify", {"url": "x", "order": fixture("kiwify/order")}) == normalise(
        "kiwify", fixture("kiwify/order")
    )


@pytest.mark.parametrize("event_type", list(EventType))
def test_generic_and_standard_take_every_canonical_type(event_type: EventType) -> None:
    """Our own schema speaks our own words, with underscores or with dots, and both envelopes give the same row."""
    plain = normalise("generic", {**fixture("generic/order"), "event": event_type.value})
    dotted = event_type.value.replace("_", ".")
    enveloped = normalise("standard", {**fixture("standard/order"), "type": dotted})
    assert plain["event_type"] == enveloped["event_type"] == event_type.value
    assert enveloped["native_type"] == dotted
    same = ("order_id", "amount", "currency", "product_id", "email_hash", "phone_hash", "document_hash", "occurred_at")
    assert {name: plain[name] for name in same} == {name: enveloped[name] for name in same}


def test_a_hotmart_row_in_full() -> None:
    """Every column of a row comes from the field it is documented to come from."""
    event = normalise("hotmart", fixture("hotmart/purchase"))
    assert event == {
        "tenant_id": TENANT,
        "event_id": "hotmart:delivery-1",
        "gateway": "hotmart",
        "event_type": "order_approved",
        "native_type": "PURCHASE_APPROVED",
        "order_id": "HP0000000001",
        "product_id": "990017",
        "product_name": "Curso de Cerâmica em Casa",
        "occurred_at": datetime(2026, 3, 1, 12, 0, 5, 123_000, tzinfo=UTC),
        "received_at": RECEIVED_AT,
        "email_hash": PSEUDONYMISER.email(TENANT, "iara.teste@example.com"),
        "phone_hash": PSEUDONYMISER.phone(TENANT, "+55 11 98765-0001"),
        "document_hash": PSEUDONYMISER.document(TENANT, "12345678909"),
        "amount": Decimal("197.9000"),
        "currency": "BRL",
        "payment_method": "credit_card",
        "installments": 12,
        "click_id": "afl_0195exemplo",
        "session_id": "",
        "sck": "lancamento|stories|afl_0195exemplo",
        "src": "bio",
        "utm_source": "",
        "utm_medium": "",
        "utm_campaign": "",
        "utm_term": "",
        "utm_content": "",
    }


@pytest.mark.parametrize(
    ("code", "number", "country"),
    [
        ("55", "11987650001", "BR"),
        ("", "5511987650001", "BR"),
        ("11", "987650001", "BR"),
        ("+55", "(11) 98765-0001", "BR"),
        ("999999999", "11987650001", "BR"),
        ("", "+55 11 98765-0001", "US"),
        ("55", "11987650001", "PT"),
        ("", "11987650001", ""),
    ],
)
def test_a_hotmart_phone_is_one_number_however_it_is_split(code: str, number: str, country: str) -> None:
    """Code and number come in many splits; the person stays one person."""
    body = changed(fixture("hotmart/purchase"), "data/buyer/checkout_phone_code", code)
    body = changed(body, "data/buyer/checkout_phone", number)
    body = changed(body, "data/purchase/checkout_country/iso", country)
    assert normalise("hotmart", body)["phone_hash"] == PSEUDONYMISER.phone(TENANT, "+5511987650001")


@pytest.mark.parametrize(
    ("parameters", "click_id"),
    [
        ({"sck": "afl_a"}, "afl_a"),
        ({"sck": "camp|afl_a|x"}, "afl_a"),
        ({"sck": None, "src": "afl_b"}, "afl_b"),
        ({"sck": "afl_a", "src": "afl_b"}, "afl_a"),
        ({"sck": None, "s2": "afl_c"}, "afl_c"),
        ({"sck": "xafl_a"}, ""),
        ({"sck": "afl_"}, ""),
        ({"sck": "campaign"}, ""),
    ],
)
def test_a_click_id_travels_in_the_gateways_free_parameters(parameters: dict[str, Any], click_id: str) -> None:
    """`afl_...` in sck, src or s1 to s3 sets click_id; nothing else does."""
    body = fixture("kiwify/order")
    body["TrackingParameters"] |= parameters
    assert normalise("kiwify", body)["click_id"] == click_id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01 09:00", datetime(2026, 3, 1, 12, 0, tzinfo=UTC)),
        ("2026-03-01 09:00:04", datetime(2026, 3, 1, 12, 0, 4, tzinfo=UTC)),
        ("2026-03-01 12:00", datetime(2026, 3, 1, 12, 0, tzinfo=UTC)),  # Brasilia's noon is three hours ahead: UTC
        ("2026-03-01 09:04", datetime(2026, 3, 1, 12, 4, tzinfo=UTC)),  # within the clocks' skew
        ("2026-03-01T12:00:00Z", datetime(2026, 3, 1, 12, 0, tzinfo=UTC)),
        ("2026-03-01T09:00:00.5-03:00", datetime(2026, 3, 1, 12, 0, 0, 500_000, tzinfo=UTC)),
    ],
)
def test_a_kiwify_time_without_zone_is_brasilias_unless_that_is_the_future(text: str, expected: datetime) -> None:
    """A zoneless time never makes a sale happen in the future by three hours, nor in the past."""
    body = {**fixture("kiwify/order"), "approved_date": text}
    assert normalise("kiwify", body)["occurred_at"] == expected


REFUSED = [
    ("hotmart/purchase", "version", "1.0.0", "unknown_version"),
    ("hotmart/purchase", "event", "PURCHASE_DREAMT", "unknown_event"),
    ("hotmart/purchase", "event", None, "missing_field"),
    ("hotmart/purchase", "creation_date", None, "missing_field"),
    ("hotmart/purchase", "creation_date", "yesterday", "bad_number"),
    ("hotmart/purchase", "creation_date", 1, "bad_time"),
    ("hotmart/purchase", "data", [], "wrong_type"),
    ("hotmart/purchase", "data/purchase/transaction", None, "missing_field"),
    ("hotmart/purchase", "data/purchase/transaction", True, "wrong_type"),
    ("hotmart/purchase", "data/purchase/price/value", "197.90", "bad_amount"),
    ("hotmart/purchase", "data/purchase/price/value", -1, "bad_amount"),
    ("hotmart/purchase", "data/purchase/price/value", 0.00001, "bad_amount"),
    ("hotmart/purchase", "data/purchase/price/value", 10**14, "bad_amount"),
    ("hotmart/purchase", "data/purchase/price/currency_value", "XYZ", "bad_currency"),
    ("hotmart/purchase", "data/purchase/price/currency_value", None, "missing_field"),
    ("hotmart/purchase", "data/purchase/payment/installments_number", 1_000, "bad_number"),
    ("hotmart/purchase", "data/product/name", "x" * 2_049, "too_long"),
    ("hotmart/purchase", "data/buyer/email", "\ud800@example.com", "bad_text"),
    ("hotmart/subscription_cancellation", "data/subscriber/code", None, "missing_field"),
    ("kiwify/order", "webhook_event_type", "pedido_sonhado", "unknown_event"),
    ("kiwify/order", "webhook_event_type", None, "missing_field"),
    ("kiwify/order", "order_id", None, "missing_field"),
    ("kiwify/order", "approved_date", "01/03/2026 09:00", "bad_time"),
    ("kiwify/order", "approved_date", "2026-02-30 09:00", "bad_time"),
    ("kiwify/order", "approved_date", "2019-01-01 09:00", "bad_time"),
    ("kiwify/order", "approved_date", "2026-03-09 09:00", "bad_time"),
    ("kiwify/order", "Commissions/charge_amount", "97.00", "bad_amount"),
    ("kiwify/order", "Commissions/charge_amount", 97.5, "bad_amount"),
    ("kiwify/order", "Commissions/charge_amount", None, "missing_field"),
    ("kiwify/order", "Commissions/currency", "JPY", "bad_currency"),
    ("kiwify/cart", "id", None, "missing_field"),
    ("generic/order", "event", "order_dreamt", "unknown_event"),
    ("generic/order", "event_id", None, "missing_field"),
    ("generic/order", "order_id", None, "missing_field"),
    ("generic/order", "occurred_at", "2026-03-01T09:00:00", "bad_time"),
    ("generic/order", "occurred_at", None, "bad_time"),
    ("generic/order", "amount", 197.0, "bad_amount"),
    ("generic/order", "amount", "1e3", "bad_amount"),
    ("generic/order", "amount", "197,00", "bad_amount"),
    ("generic/order", "amount", "197.00001", "bad_amount"),
    ("generic/order", "amount", None, "missing_field"),
    ("generic/order", "currency", None, "missing_field"),
    ("generic/order", "currency", "brl", "bad_currency"),
    ("generic/order", "colour", "blue", "unknown_field"),
    ("generic/order", "buyer/name", "Nina", "unknown_field"),
    ("generic/order", "tracking/click_id", "x" * 257, "too_long"),
    ("generic/order", "payment/installments", -1, "bad_number"),
    ("standard/order", "data", None, "missing_field"),
    ("standard/order", "timestamp", 1772366405, "bad_time"),
    ("standard/order", "data/event", "order_approved", "unknown_field"),
]


@pytest.mark.parametrize(("name", "pointer", "value", "reason"), REFUSED)
def test_a_wrong_field_is_poison_that_says_where(name: str, pointer: str, value: Any, reason: str) -> None:
    """One wrong field gives one precise reason and its JSON pointer."""
    poison = refusal(name.split("/", maxsplit=1)[0], changed(fixture(name), pointer, value))
    assert poison.reason == reason
    if reason not in {"unknown_event", "bad_text", "unknown_version"}:
        assert "/" + pointer in poison.detail or poison.detail.startswith("an event of type")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_json"),
        (b"hottok=x&event=y", "not_json"),
        (b'{"a":1}{"b":2}', "not_json"),
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b"\xff\xfe{}", "not_utf8"),
        (b'{"a":NaN}', "bad_number"),
        (b'{"a":-Infinity}', "bad_number"),
        (b'{"a":' + b"9" * 5_000 + b"}", "bad_number"),
        (b'{"a":1e' + b"9" * 30 + b"}", "bad_number"),
        (b'{"a":1,"a":2}', "duplicate_key"),
        (b'{"a":{"b":1,"b":1}}', "duplicate_key"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too_deep"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "too_deep"),
        (b'{"a":"' + b"x" * (1 << 20) + b'"}', "too_large"),
        (b'{"a":"\\ud800"}', "bad_text"),
        (b'{"\\udfff":1}', "bad_text"),
    ],
)
@pytest.mark.parametrize("gateway", ["hotmart", "kiwify", "generic", "standard"])
def test_a_body_that_is_no_strict_json_is_poison(gateway: str, body: bytes, reason: str) -> None:
    """The reason names what is wrong with the body as a whole, before any gateway's rules."""
    assert refusal(gateway, body).reason == reason


def test_an_unknown_gateway_is_poison() -> None:
    """A webhook of a gateway without a reader waits in the DLQ for one."""
    assert refusal("stripe", {}).reason == "unknown_gateway"


def test_the_same_delivery_gives_the_same_row() -> None:
    """Normalising is a function of the record alone, so a replay writes what was written."""
    for name in NAMES:
        gateway = name.split("/")[0]
        assert normalise(gateway, fixture(name)) == normalise(gateway, fixture(name))


def test_a_later_status_is_another_row_of_the_same_order() -> None:
    """Two deliveries of one order share its order id and keep their own event ids."""
    first = webhook("hotmart", fixture("hotmart/purchase"))
    later = {
        **webhook("hotmart", {**fixture("hotmart/purchase"), "event": "PURCHASE_REFUNDED"}),
        "event_id": "hotmart:delivery-2",
        "received_at": RECEIVED_AT + timedelta(days=3),
    }
    rows = [sale_event(record, PSEUDONYMISER) for record in (first, later)]
    assert rows[0]["order_id"] == rows[1]["order_id"]
    assert [row["event_id"] for row in rows] == ["hotmart:delivery-1", "hotmart:delivery-2"]
    assert [row["event_type"] for row in rows] == ["order_approved", "order_refunded"]


def test_the_page_for_users_names_every_event() -> None:
    """docs/webhooks.md says of each native event what it becomes, and of each reason what it means."""
    page = (ROOT / "docs/webhooks.md").read_text()
    for native, canonical in [*hotmart.EVENTS.items(), *kiwify.EVENTS.items()]:
        line = next((row for row in page.splitlines() if row.startswith(f"| `{native}` |")), "")
        assert f"`{canonical.value}`" in line, native
    sources = [
        ROOT / f"agents/tracking/{name}.py" for name in ("amount", "body", "generic", "hotmart", "kiwify", "sale")
    ]
    written = "".join(path.read_text() for path in sources)
    reasons = re.findall(r'(?:Poison|refuse)\(\s*"([a-z0-9_]+)"', written)
    assert [reason for reason in reasons if f"`{reason}`" not in page] == []
    for example in re.findall(r"```json\n(.*?)```", page, re.DOTALL):
        body = json.loads(example)
        normalise("standard" if "type" in body else "generic", body)
