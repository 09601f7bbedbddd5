"""Each gateway's proof against vectors made by other implementations, and every way to be wrong."""

import base64
import hashlib
import hmac
import json
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from api.delivery_id import delivery_id
from api.signatures import SCHEMES, BadSignature, Delivery, verify
from app.credentials import WebhookSecrets
from schemas.tracking import GATEWAYS

STANDARD = "whsec_" + base64.b64encode(bytes(range(32))).decode()


def secrets(*texts: str | bytes) -> WebhookSecrets:
    return WebhookSecrets(tuple(t.encode() if isinstance(t, str) else t for t in texts))


def proved(gateway: str, raw: bytes, secret: bytes) -> Delivery:
    if gateway == "hotmart":
        return Delivery(raw, {"x-hotmart-hottok": secret.decode()}, {})
    if gateway == "kiwify":
        return Delivery(raw, {}, {"signature": hmac.new(secret, raw, hashlib.sha1).hexdigest()})
    if gateway == "generic":
        return Delivery(
            raw, {"x-afluente-signature": "sha256=" + hmac.new(secret, raw, hashlib.sha256).hexdigest()}, {}
        )
    stamp = str(int(time.time()))
    key = base64.b64decode(secret.removeprefix(b"whsec_"))
    digest = hmac.new(key, b"m1." + stamp.encode() + b"." + raw, hashlib.sha256).digest()
    headers = {
        "webhook-id": "m1",
        "webhook-timestamp": stamp,
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }
    return Delivery(raw, headers, {})


def refused(gateway: str, delivery: Delivery, known: WebhookSecrets | None) -> str:
    with pytest.raises(BadSignature) as caught:
        verify(gateway, delivery, known)
    return caught.value.code


def test_every_gateway_has_a_scheme() -> None:
    """No gateway is routed that nobody verifies."""
    assert set(SCHEMES) == set(GATEWAYS)


@given(st.binary(max_size=300))
@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_right_proof_passes_with_the_current_and_the_next_secret(gateway: str, raw: bytes) -> None:
    """Any body, text or not, passes when it was signed with either secret."""
    first, second = (STANDARD, "whsec_" + base64.b64encode(b"n" * 24).decode()) if gateway == "standard" else ("a", "b")
    for secret in (first, second):
        verify(gateway, proved(gateway, raw, secret.encode()), secrets(first, second))


@pytest.mark.parametrize("gateway", GATEWAYS)
@pytest.mark.parametrize("known", [None, WebhookSecrets(()), WebhookSecrets((b"",))])
def test_no_secret_refuses_even_a_proof_with_an_empty_key(gateway: str, known: WebhookSecrets | None) -> None:
    """An empty or missing secret never passes: some gateways sign with an empty key when none is set."""
    assert refused(gateway, proved(gateway, b"{}", b""), known) == "secret_not_set"


def test_an_empty_key_inside_a_standard_secret_proves_nothing() -> None:
    """`whsec_` alone, or not base64, is no key."""
    for secret in ("whsec_", "whsec_!!!"):
        assert refused("standard", proved("standard", b"{}", b"whsec_"), secrets(secret)) == "bad_signature"


@pytest.mark.parametrize("gateway", ["kiwify", "generic", "standard"])
def test_one_changed_byte_of_the_body_is_refused(gateway: str) -> None:
    """The proof covers the very bytes."""
    secret = STANDARD if gateway == "standard" else "s"
    good = proved(gateway, b'{"a":1}', secret.encode())
    assert refused(gateway, Delivery(b'{"a":2}', good.headers, good.query), secrets(secret)) == "bad_signature"


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_missing_proof_says_where_it_belongs(gateway: str) -> None:
    """Without a proof the answer names the header or parameter."""
    assert refused(gateway, Delivery(b"{}", {}, {}), secrets("s")) == "signature_missing"


@given(st.text(max_size=80))
@pytest.mark.parametrize("gateway", GATEWAYS)
def test_no_text_in_the_place_of_a_proof_does_worse_than_a_refusal(gateway: str, text: str) -> None:
    """Whatever stands there, in any encoding, is refused, not crashed on."""
    text = text.encode().decode("latin-1")
    headers = dict.fromkeys(
        ("x-hotmart-hottok", "x-afluente-signature", "webhook-id", "webhook-timestamp", "webhook-signature"), text
    )
    with pytest.raises(BadSignature):
        verify(gateway, Delivery(b"{}", headers, {"signature": text}), secrets("not that"))


def test_the_standard_scheme_is_the_librarys() -> None:
    """What the reference library signs passes, among other signatures and versions in the same header."""
    now = datetime.now(UTC)
    signature = Webhook(STANDARD).sign("msg", now, '{"é":1}')
    headers = {
        "webhook-id": "msg",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": f"v1a,AAAA v1,AAAA {signature}",
    }
    verify("standard", Delivery('{"é":1}'.encode(), headers, {}), secrets(STANDARD))
    Webhook(STANDARD).verify('{"é":1}', {**headers, "webhook-signature": signature})


@pytest.mark.parametrize("offset", [-301, 301])
def test_a_standard_timestamp_outside_the_tolerance_is_a_replay(offset: int) -> None:
    """Five minutes either way; later is a replay, however right the signature."""
    stamp = int(time.time()) + offset + (1 if offset > 0 else -1)
    signature = Webhook(STANDARD).sign("m", datetime.fromtimestamp(stamp, UTC), "{}")
    headers = {"webhook-id": "m", "webhook-timestamp": str(stamp), "webhook-signature": signature}
    assert refused("standard", Delivery(b"{}", headers, {}), secrets(STANDARD)) == "bad_timestamp"


def test_repr_shows_no_secret() -> None:
    """Secrets and bodies stay out of logs and traces."""
    assert "abc" not in repr(secrets("abc"))
    assert "abc" not in repr(Delivery(b"abc", {"a": "abc"}, {"b": "abc"}))


@pytest.mark.parametrize(
    ("gateway", "raw", "expected"),
    [
        ("hotmart", b'{"id":"u-1","event":"PURCHASE_APPROVED"}', "hotmart:u-1"),
        ("kiwify", b'{"order_id":"o","webhook_event_type":"order_refunded","order_status":"refunded"}',
         "kiwify:o:order_refunded:refunded"),
        ("kiwify", b'{"id":"cart","status":"abandoned"}', "kiwify:cart::abandoned"),
        ("generic", b'{"event_id":17}', "generic:17"),
    ],
)  # fmt: skip
def test_native_ids_name_events(gateway: str, raw: bytes, expected: str) -> None:
    """The id the gateway gives is the event's; a later status of an order is another event."""
    assert delivery_id(gateway, Delivery(raw, {}, {})) == expected


OBJECTS = st.dictionaries(
    st.sampled_from(["id", "event_id", "order_id", "status"]), st.text() | st.booleans() | st.none() | st.integers()
)


@given(st.binary(max_size=400) | OBJECTS.map(lambda document: json.dumps(document).encode()))
@pytest.mark.parametrize("gateway", GATEWAYS)
def test_an_event_id_is_a_short_printable_function_of_the_delivery(gateway: str, raw: bytes) -> None:
    """The same delivery has the same id, of at most 128 printable bytes, whatever is in it."""
    delivery = Delivery(raw, {"webhook-id": "m" * 300}, {})
    found = delivery_id(gateway, delivery)
    assert found == delivery_id(gateway, Delivery(bytes(raw), dict(delivery.headers), {}))
    assert found.isprintable()
    assert len(found.encode()) <= 128
    assert found.startswith(f"{gateway}:")


def test_unsigned_headers_do_not_name_an_event() -> None:
    """Where only the body is signed, only the body decides: a header would let a replay pass as new."""
    body = b'{"no":"id"}'
    ids = {delivery_id("generic", Delivery(body, {"webhook-id": str(n), "x-delivery": str(n)}, {})) for n in range(3)}
    assert ids == {f"generic:sha256:{hashlib.sha256(body).hexdigest()}"}
