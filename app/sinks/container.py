"""An Avro object container whose rows are spliced, not encoded: what the ClickHouse sink sends as `FORMAT Avro`.

A datum is copied and gets its topic, partition and offset appended, which is valid since an Avro record is the
concatenation of its fields (Avro 1.11 specification, "Complex Types" and "Object Container Files").
"""

import io
from collections.abc import Sequence
from typing import Final, NamedTuple

import fastavro

from app.codec import Version, read_datum
from app.errors import Poison

SYNC: Final = bytes(range(16))  # any 16 bytes: a block of known size needs no random marker to find its end

SOURCE_FIELDS: Final = (
    {"name": "_topic", "type": "string"},
    {"name": "_partition", "type": "int"},
    {"name": "_offset", "type": "long"},
)


class Row(NamedTuple):
    """One row: the offset of its record and the Avro datum of its table's subject."""

    offset: int
    datum: bytes


def varint(number: int) -> bytes:
    """Avro's long: zigzag, then seven bits a byte, lowest first (Avro 1.11 specification, "Binary Encoding")."""
    rest = (number << 1) ^ (number >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append((rest & 0x7F) | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def container_header(version: Version, added: Sequence[dict[str, str]] = SOURCE_FIELDS) -> bytes:
    """The head of an object container whose records are that schema's, followed by the added columns."""
    fields = [*version.parsed["fields"], *added]
    out = io.BytesIO()
    fastavro.writer(out, {**version.parsed, "fields": fields}, [], sync_marker=SYNC)
    return out.getvalue()


def container(header: bytes, topic: str, partition: int, rows: Sequence[Row]) -> bytes:
    """An object container with one block of `rows`."""
    name = topic.encode()
    source = varint(len(name)) + name + varint(partition)
    parts: list[bytes] = []
    for row in rows:
        parts += (row.datum, source, varint(row.offset))
    body = b"".join(parts)
    return b"".join((header, varint(len(rows)), varint(len(body)), body, SYNC))


def broken_rows(version: Version, rows: Sequence[Row]) -> dict[int, Poison]:
    """Which rows are not exactly one datum of the schema, by offset."""
    broken: dict[int, Poison] = {}
    for row in rows:
        try:
            read_datum(version, row.datum)
        except Poison as poison:
            broken[row.offset] = poison
    return broken
