"""The place in a list where the next page begins: sealed, so that a tenant can only go on with its own list."""

import base64
import binascii
import hmac
import struct
from typing import Final, NamedTuple

from api.errors import Fault, Refusal
from app.sealing import derive

_MAC_BYTES: Final = 16
_PLACE: Final = struct.Struct(">q")
CHARACTERS_MAX: Final = 512


class Place(NamedTuple):
    """The last row of a page; the next one begins below it."""

    occurred_ms: int
    event_id: str


class Cursors:
    """Writes and reads cursors. `scope` names the list and everything that filters it."""

    __slots__ = ("_key",)

    def __init__(self, master_key: bytes) -> None:
        self._key = derive(master_key, "cursor")

    def write(self, scope: str, place: Place) -> str:
        """The cursor as text."""
        packed = _PLACE.pack(place.occurred_ms) + place.event_id.encode()
        return base64.urlsafe_b64encode(self._mac(scope, packed) + packed).decode().rstrip("=")

    def read(self, scope: str, cursor: str) -> Place:
        """The place, or 422 when the cursor was made for another list or by somebody else."""
        try:
            packed = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raise _bad() from None
        mac, place = packed[:_MAC_BYTES], packed[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(scope, place)):
            raise _bad()
        return Place(_PLACE.unpack_from(place)[0], place[_PLACE.size :].decode())

    def _mac(self, scope: str, packed: bytes) -> bytes:
        return hmac.digest(self._key, scope.encode() + b"\0" + packed, "sha256")[:_MAC_BYTES]


def _bad() -> Refusal:
    fault: Fault = {"pointer": "/query/cursor", "code": "invalid_cursor", "detail": "not a cursor of this list"}
    text = "the cursor does not belong to this list; keep all other parameters as they were on the first page"
    return Refusal(422, "invalid_cursor", text, errors=[fault])
