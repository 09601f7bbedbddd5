"""Secrets at rest: AES-256-GCM with a key derived from the master key, so that Postgres never holds one readable."""

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NONCE_BYTES: Final = 12  # what GCM wants; random, and far below 2^32 secrets under one key
KEY_BYTES: Final = 32


class Unsealable(Exception):  # noqa: N818 - says what the box is
    """The box was made with another master key, for another place, or was changed."""


def derive(master_key: bytes, purpose: str, salt: bytes = b"") -> bytes:
    """A key for one purpose. Keys of different purposes or salts tell nothing about each other or the master key."""
    return HKDF(SHA256(), KEY_BYTES, salt or None, f"afluente/{purpose}/1".encode()).derive(master_key)


class Sealer:
    """Seals and opens boxes of one purpose. `context` binds a box to its place: moved elsewhere it does not open."""

    __slots__ = ("_aead",)

    def __init__(self, master_key: bytes, purpose: str) -> None:
        self._aead = AESGCM(derive(master_key, purpose))

    def seal(self, secret: bytes, context: str) -> bytes:
        """Nonce, ciphertext and tag in one."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, secret, context.encode())

    def open(self, box: bytes, context: str) -> bytes:
        """The secret, or Unsealable."""
        try:
            return self._aead.decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], context.encode())
        except (InvalidTag, ValueError) as error:
            raise Unsealable("sealed with another AFLUENTE_MASTER_KEY, or changed since") from error

    def __repr__(self) -> str:
        return "Sealer(...)"
