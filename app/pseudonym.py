"""People become keyed hashes here, at the edge and in the normaliser, before anything is stored.

The same person gives the same hash within a tenant, so a sale finds its click; across tenants the hashes differ,
and without the master key nobody can test a guess against them.
"""

import hashlib
import hmac
from functools import lru_cache
from typing import Final

import phonenumbers

from app.sealing import derive

DEFAULT_REGION: Final = "BR"  # a number without a country code is read as Brazilian: who uses Afluente sells there
EMAIL_CHARACTERS_MAX: Final = 320  # 64 + @ + 255
PHONE_CHARACTERS_MAX: Final = 64  # with every separator a form lets through
DOCUMENT_CHARACTERS_MAX: Final = 64
TENANT_KEYS_MAX: Final = 10_000  # derived keys kept in memory, 32 bytes each


class Pseudonymiser:
    """Keyed hashes of e-mail, phone and document: 64 hex digits, or "" for what is none. Holds no text it saw."""

    __slots__ = ("_key_of",)

    def __init__(self, master_key: bytes) -> None:
        self._key_of = lru_cache(maxsize=TENANT_KEYS_MAX)(
            lambda tenant_id: derive(master_key, "pseudonym", tenant_id.encode())
        )

    def email(self, tenant_id: str, text: str) -> str:
        """Hash of the address, stripped and in lower case; "" when it cannot be one."""
        address = text.strip().lower()
        local, _, domain = address.rpartition("@")
        if not local or not domain or len(address) > EMAIL_CHARACTERS_MAX or any(c.isspace() for c in address):
            return ""
        return self._hash(tenant_id, "email", address)

    def phone(self, tenant_id: str, text: str) -> str:
        """Hash of the number in E.164; "" when it is no possible number."""
        if len(text) > PHONE_CHARACTERS_MAX:
            return ""
        number = _e164(text)
        return self._hash(tenant_id, "phone", number) if number else ""

    def document(self, tenant_id: str, text: str) -> str:
        """Hash of a CPF, CNPJ or foreign document: letters and digits only, upper case; "" when nothing is left."""
        if len(text) > DOCUMENT_CHARACTERS_MAX:
            return ""
        document = "".join(c for c in text.upper() if c.isalnum())
        return self._hash(tenant_id, "document", document) if document else ""

    def _hash(self, tenant_id: str, kind: str, normalised: str) -> str:
        # The kind goes in, so that a phone never equals a document of the same digits.
        return hmac.new(self._key_of(tenant_id), f"{kind}:{normalised}".encode(), hashlib.sha256).hexdigest()

    def __repr__(self) -> str:
        return "Pseudonymiser(...)"


def _e164(text: str) -> str:
    try:
        number = phonenumbers.parse(text, DEFAULT_REGION)
    except phonenumbers.NumberParseException:
        return ""
    if not phonenumbers.is_possible_number(number):
        return ""
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
