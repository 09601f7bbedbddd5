"""Keyed hashes in place of persons: e-mail, phone and document leave the edge and the worker only as these.

One key a tenant, derived from the master key, so that equal persons of two tenants have unequal hashes.
"""

import hmac
import unicodedata
from functools import lru_cache
from hashlib import sha256

import phonenumbers
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
TENANT_KEYS_MAX = 10_000  # derived keys held; one is 32 bytes, deriving one costs about 20 us
TEXT_CHARS_MAX = 320  # the longest e-mail address there can be (64 + @ + 255)
PHONE_REGION = "BR"  # of numbers written without a country code
DOCUMENT_LENGTHS = (11, 14)  # CPF, CNPJ


class Pseudonymiser:
    """Turns personal text into 64 hex digits; empty or invalid text into an empty string."""

    def __init__(self, master_key: bytes) -> None:
        @lru_cache(maxsize=TENANT_KEYS_MAX)
        def tenant_key(tenant_id: str) -> bytes:
            info = f"afluente/pseudonym/{tenant_id}".encode()
            return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(master_key)

        self._tenant_key = tenant_key

    def email(self, tenant_id: str, text: str) -> str:
        """The hash of an e-mail address, whatever its case and the space around it."""
        address = unicodedata.normalize("NFKC", text[: TEXT_CHARS_MAX + 1]).strip().casefold()
        local, at, domain = address.rpartition("@")
        if not at or not local or not domain or len(address) > TEXT_CHARS_MAX or any(map(str.isspace, address)):
            return ""
        return self._hash(tenant_id, "email", address)

    def phone(self, tenant_id: str, text: str) -> str:
        """The hash of a phone number in E.164, however it was written."""
        try:
            number = phonenumbers.parse(text[: TEXT_CHARS_MAX + 1], PHONE_REGION)
        except phonenumbers.NumberParseException:
            return ""
        if not phonenumbers.is_valid_number(number):
            return ""
        return self._hash(
            tenant_id, "phone", phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        )

    def document(self, tenant_id: str, text: str) -> str:
        """The hash of a CPF or CNPJ without its punctuation."""
        plain = "".join(letter for letter in text[: TEXT_CHARS_MAX + 1] if letter.isalnum()).upper()
        if len(plain) not in DOCUMENT_LENGTHS or not plain.isascii():
            return ""
        return self._hash(tenant_id, "document", plain)

    def _hash(self, tenant_id: str, kind: str, text: str) -> str:
        # The kind is part of what is hashed: a document that looks like a phone number stays apart from it.
        try:
            plain = f"{kind}:{text}".encode()
        except UnicodeEncodeError:
            return ""
        return hmac.digest(self._tenant_key(tenant_id), plain, sha256).hex()
