"""The version token of a write's answer: which rows, at which version, a reader of ClickHouse has to see for it.

Postgres numbers the versions of each row. A write names the last row that it wrote in each table; all changes of a
tenant travel through one partition in order, so whoever sees these rows sees the whole write. The token is a name, not
a right: a forged one makes its sender wait, and shows nothing.
"""

import base64
import binascii
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from api.errors import Fault, Refusal

HEADER: Final = "Afluente-Version-Token"
ROWS_MAX: Final = 8  # of one token; a write names one row a table
CHARACTERS_MAX: Final = 512

_FORMAT: Final = b"\x01"  # the first byte, so that a later shape can be told from this one
_ROW: Final = struct.Struct(">cB16sQ")
_VERSION_MAX: Final = (1 << 63) - 1  # a bigint

Table = Literal["bills", "bill_occurrences"]
_LETTERS: Final[dict[Table, bytes]] = {"bills": b"b", "bill_occurrences": b"o"}
_TABLES: Final[dict[bytes, Table]] = {letter: table for table, letter in _LETTERS.items()}


@dataclass(frozen=True, slots=True)
class Written:
    """One row: visible once ClickHouse has it at this version or a later one; deleted, once it has its tombstone."""

    table: Table
    id: UUID
    version: int
    deleted: bool = False


def write(rows: Sequence[Written]) -> str:
    """The token of the rows."""
    packed = b"".join(_ROW.pack(_LETTERS[r.table], r.deleted, r.id.bytes, r.version) for r in rows[:ROWS_MAX])
    return base64.urlsafe_b64encode(_FORMAT + packed).decode().rstrip("=")


def read(token: str, pointer: str = "/query/at_least") -> tuple[Written, ...]:
    """The rows a token names, or 422 at `pointer`."""
    try:
        packed = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise _bad(pointer) from None
    rows, rest = divmod(len(packed) - 1, _ROW.size)
    if rest or not 0 < rows <= ROWS_MAX or packed[:1] != _FORMAT:
        raise _bad(pointer)
    return tuple(_row(found, pointer) for found in _ROW.iter_unpack(packed[1:]))


def _row(found: tuple[bytes, int, bytes, int], pointer: str) -> Written:
    letter, deleted, row_id, version = found
    if letter not in _TABLES or deleted > 1 or not 0 < version <= _VERSION_MAX:
        raise _bad(pointer)
    return Written(_TABLES[letter], UUID(bytes=row_id), version, bool(deleted))


def _bad(pointer: str) -> Refusal:
    text = "not a version token; send the version_token of a write's answer as it was"
    fault: Fault = {"pointer": pointer, "code": "invalid_version_token", "detail": text}
    return Refusal(422, "invalid_version_token", text, errors=[fault])
