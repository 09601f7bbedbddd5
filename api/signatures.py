"""Is this delivery the gateway's? Over the raw bytes, in constant time, before anything is parsed.

A gateway without a secret refuses: some sign with an empty key when none is set, which proves nothing.
"""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from app.credentials import WebhookSecrets

STANDARD_TOLERANCE_S: Final = 300  # of the Standard Webhooks specification
STANDARD_SIGNATURES_MAX: Final = 16  # in one header; a rotation needs two
STANDARD_PREFIX: Final = b"whsec_"
GENERIC_PREFIX: Final = "sha256="
SIGNATURE_HEADER: Final = "x-afluente-signature"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery as it arrived. Header names in lower case."""

    raw: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    query: Mapping[str, str] = field(repr=False)


class BadSignature(Exception):  # noqa: N818 - what it is
    """Not proved to be the gateway's. `code` and text say what is missing, never what would have been right."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code)
        self.code = code
        self.text = text


def verify(gateway: str, delivery: Delivery, secrets: WebhookSecrets | None) -> None:
    """Raises BadSignature unless the delivery is proved by the current or the next secret."""
    candidates = [secret for secret in secrets.candidates if secret] if secrets is not None else []
    if not candidates:
        text = f"no secret is set for {gateway}; set it with `afluente webhook set-secret TENANT {gateway}`"
        raise BadSignature("secret_not_set", text)
    SCHEMES[gateway](delivery, candidates)


def _hotmart(delivery: Delivery, candidates: list[bytes]) -> None:
    """A static token of the seller's account, in a header. It signs nothing: the transport must be TLS."""
    token = _given(delivery.headers.get("x-hotmart-hottok"), "the header X-HOTMART-HOTTOK")
    _require(any(_equal(token, secret) for secret in candidates))


def _kiwify(delivery: Delivery, candidates: list[bytes]) -> None:
    """HMAC-SHA1 of the body in 40 hex digits, in the query."""
    signature = _given(delivery.query.get("signature"), "the query parameter signature")
    _require(any(_equal(signature, _hex(secret, delivery.raw, "sha1")) for secret in candidates))


def _generic(delivery: Delivery, candidates: list[bytes]) -> None:
    """HMAC-SHA256 of the body: `X-Afluente-Signature: sha256=<64 hex digits>`."""
    value = _given(delivery.headers.get(SIGNATURE_HEADER), "the header X-Afluente-Signature: sha256=<hex>")
    signature = value.removeprefix(GENERIC_PREFIX)
    _require(any(_equal(signature, _hex(secret, delivery.raw, "sha256")) for secret in candidates))


def _standard(delivery: Delivery, candidates: list[bytes]) -> None:
    """Standard Webhooks: HMAC-SHA256 of `id.timestamp.body`, base64, one or more `v1,` signatures in one header."""
    delivery_id = _given(delivery.headers.get("webhook-id"), "the header webhook-id")
    timestamp = _given(delivery.headers.get("webhook-timestamp"), "the header webhook-timestamp")
    header = _given(delivery.headers.get("webhook-signature"), "the header webhook-signature")
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= 12):
        raise BadSignature("bad_timestamp", "webhook-timestamp is a whole number of seconds")
    if abs(time.time() - int(timestamp)) > STANDARD_TOLERANCE_S:
        raise BadSignature("bad_timestamp", f"webhook-timestamp is off by more than {STANDARD_TOLERANCE_S} s")
    # Header text is latin-1, whatever the sender meant by it: so the very bytes come back.
    signed = b".".join((delivery_id.encode("latin-1"), timestamp.encode(), delivery.raw))
    # Versions other than v1 (v1a is Ed25519) are for other keys: passed over, as the specification says.
    given = [part[3:] for part in header.split(" ")[:STANDARD_SIGNATURES_MAX] if part.startswith("v1,")]
    _require(any(_equal(signature, right) for right in _standard_rights(candidates, signed) for signature in given))


def _standard_rights(candidates: list[bytes], signed: bytes) -> list[bytes]:
    rights = []
    for secret in candidates:
        key = standard_key(secret)
        if key:
            rights.append(base64.b64encode(hmac.digest(key, signed, "sha256")))
    return rights


def standard_key(secret: bytes) -> bytes:
    """The key inside `whsec_<base64>`; empty when it is not one, and an empty key never verifies."""
    text = secret.removeprefix(STANDARD_PREFIX)
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return b""


def _hex(secret: bytes, raw: bytes, algorithm: str) -> bytes:
    return hmac.digest(secret, raw, algorithm).hex().encode()


def _equal(given: str, right: bytes) -> bool:
    # Hashed first: the time then tells not even the length of the right one.
    given_bytes = given.encode(errors="surrogateescape")
    return hmac.compare_digest(hashlib.sha256(given_bytes).digest(), hashlib.sha256(right).digest())


def _given(value: str | None, where: str) -> str:
    if not value:
        raise BadSignature("signature_missing", f"the gateway's proof is missing: {where}")
    return value


def _require(proved: bool) -> None:
    if not proved:
        raise BadSignature("bad_signature", "the proof does not fit this body and this tenant's secret")


SCHEMES: Final[dict[str, Callable[[Delivery, list[bytes]], None]]] = {
    "hotmart": _hotmart,
    "kiwify": _kiwify,
    "generic": _generic,
    "standard": _standard,
}
