"""Laws of normalisation: whatever arrives becomes a row the schema encodes or Poison, money stays exact, a person stays
one person, and no error tells who that is.
"""

import copy
import io
import json
from decimal import Decimal
from typing import Any

import pytest
from fastavro import schemaless_writer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agents.tracking.sale import sale_event
from app.errors import Poison
from app.pseudonym import Pseudonymiser
from tests.unit.agents.tracking.test_sale import PSEUDONYMISER, SCHEMA, normalise
from tests.unit.agents.tracking.webhooks import NAMES, TENANT, changed, fixture, webhook

GATEWAYS = ("hotmart", "kiwify", "generic", "standard")
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=40),
    st.sampled_from(
        ["\ud800", "1e9999999", "-0", "NaN", "9" * 60, "2026-02-30 00:00", "0001-01-01 00:00", "\uff19\uff17"]
    ),
    st.sampled_from([1 << 63, -(1 << 63), 10**39, 253_402_300_800_000, 1e308, 1e-300, 5e-5]),
)
JSON_VALUES = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)


def row_or_poison(gateway: str, body: bytes, pseudonymiser: Pseudonymiser = PSEUDONYMISER) -> dict[str, Any] | Poison:
    """The outcome, with the row proved encodable; any other exception escapes and fails the test."""
    try:
        event = sale_event(webhook(gateway, body), pseudonymiser)
    except Poison as poison:
        return poison
    schemaless_writer(io.BytesIO(), SCHEMA, event, strict=True)
    assert not any(isinstance(value, float) for value in event.values())
    return event


def places(value: Any, way: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a JSON value, containers included."""
    found = [way] if way else []
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for step, inner in steps for place in places(inner, (*way, step))]


@st.composite
def mutants(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A valid fixture with one to three places replaced or removed."""
    name = draw(st.sampled_from(NAMES))
    body = copy.deepcopy(fixture(name))
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places(body) or [("x",)]))
        inner: Any = body
        for step in way:
            inner = inner[step]
        if draw(st.booleans()) or isinstance(inner, list):
            inner[last] = draw(JSON_VALUES)
        else:
            inner.pop(last, None)
    return name.split("/")[0], body


@given(gateway=st.sampled_from(GATEWAYS), body=st.one_of(st.binary(max_size=200), JSON_VALUES.map(json.dumps)))
@example(gateway="hotmart", body='{"version":"2.0.0","event":"PURCHASE_APPROVED"}')
@settings(max_examples=400, deadline=None)
def test_any_body_is_a_row_or_poison(gateway: str, body: str | bytes) -> None:
    """Nothing that arrives can stop the worker."""
    row_or_poison(gateway, body if isinstance(body, bytes) else body.encode())


@given(mutant=mutants())
@settings(max_examples=1_200, deadline=None)
def test_any_mutated_webhook_is_a_row_or_poison(mutant: tuple[str, dict[str, Any]]) -> None:
    """Nothing that almost is a webhook can stop the worker, and a webhook that passes always encodes."""
    gateway, body = mutant
    row_or_poison(gateway, json.dumps(body).encode())


AMOUNTS = st.decimals(min_value=0, max_value=Decimal("99999999999999.9999"), places=4, allow_nan=False)


@given(amount=AMOUNTS)
def test_money_in_is_money_out(amount: Decimal) -> None:
    """To the last digit the tables hold, as text or as a JSON number: no float is between."""
    generic = changed(fixture("generic/order"), "amount", str(amount))
    assert normalise("generic", generic)["amount"] == amount
    marked = changed(fixture("hotmart/purchase"), "data/purchase/price/value", "@").copy()
    raw = json.dumps(marked).replace('"@"', str(amount)).encode()
    assert normalise("hotmart", raw)["amount"] == amount


@given(cents=st.integers(0, 10**16 - 1), as_text=st.booleans())
def test_cents_in_are_cents_out(cents: int, as_text: bool) -> None:
    """Kiwify counts cents, sometimes as text: the row holds exactly as many."""
    body = changed(fixture("kiwify/order"), "Commissions/charge_amount", str(cents) if as_text else cents)
    assert normalise("kiwify", body)["amount"] * 100 == cents


SPACES = st.sampled_from(["", " ", "\t", "  "])


@given(
    upper=st.lists(st.booleans(), min_size=22, max_size=22),
    space=SPACES,
    phone=st.sampled_from(["+55 11 98765-0003", "11987650003", "(11) 98765-0003", "5511987650003", "+5511987650003"]),
    document=st.sampled_from(["111.222.333-96", "11122233396", " 111 222 333 96 "]),
)
def test_a_person_stays_one_person(upper: list[bool], space: str, phone: str, document: str) -> None:
    """Case, space and punctuation change no hash."""
    letters = zip("nina.teste@example.com", upper, strict=True)
    email = "".join(letter.upper() if up else letter for letter, up in letters)
    buyer = {"email": f"{space}{email}{space}", "phone": f"{space}{phone}", "document": document}
    event = normalise("generic", changed(fixture("generic/order"), "buyer", buyer))
    same = normalise("generic", fixture("generic/order"))
    hashes = ("email_hash", "phone_hash", "document_hash")
    assert [event[name] for name in hashes] == [same[name] for name in hashes]
    assert all(len(event[name]) == 64 for name in hashes)


def test_two_tenants_never_share_a_hash() -> None:
    """The same buyer of two tenants is two strangers."""
    record = webhook("generic", fixture("generic/order"))
    other = {**record, "tenant_id": TENANT.replace("3f0c", "4f0c")}
    rows = [sale_event(webhook_record, PSEUDONYMISER) for webhook_record in (record, other)]
    for name in ("email_hash", "phone_hash", "document_hash"):
        assert rows[0][name] != rows[1][name]


PERSONS = ("Iara", "iara", "98765", "123.456", "Caio", "caio", "9876543210", "Nina", "nina", "11122233396")


@given(mutant=mutants())
@settings(max_examples=600, deadline=None)
def test_no_error_names_a_person(mutant: tuple[str, dict[str, Any]]) -> None:
    """Reason and detail go into logs and the DLQ's index, so they hold no value of the body."""
    gateway, body = mutant
    outcome = row_or_poison(gateway, json.dumps(body).encode())
    if isinstance(outcome, Poison):
        assert not [word for word in PERSONS if word in str(outcome)]
        assert outcome.reason.isidentifier()
        assert outcome.detail


@pytest.mark.parametrize("name", NAMES)
def test_a_row_holds_no_person_in_clear(name: str) -> None:
    """What goes to ClickHouse has hashes where the webhook had persons."""
    event = normalise(name.split("/", maxsplit=1)[0], fixture(name))
    assert not [word for word in PERSONS for value in event.values() if word in str(value)]


@given(key=st.text(min_size=1, max_size=40), value=st.text(max_size=20))
def test_an_unknown_field_is_shown_only_when_it_looks_like_one(key: str, value: str) -> None:
    """A key is attacker's or person's text too: it is echoed when it is a plain name, and never its value."""
    body = {**fixture("generic/order"), f"maria@{key}": f"secret {value}"}
    outcome = row_or_poison("generic", json.dumps(body).encode())
    assert isinstance(outcome, Poison)
    assert "maria@" not in str(outcome)
    assert "secret" not in str(outcome)
