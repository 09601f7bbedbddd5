"""An Avro object container whose rows are spliced, not encoded: what the ClickHouse sink sends as `FORMAT Avro`.

A value is copied whole and gets its topic, partition and offset appended, which is valid since an Avro record is the
concatenation of its fields (Avro 1.11 specification, "Complex Types" and "Object Container Files"). The prefix of the
wire format goes along as a first field that no table has: cutting it off would copy every value once more.
"""

import io
from collections.abc import Sequence
from typing import Final, NamedTuple

import fastavro

from app.batch import Record
from app.codec import PREFIX_BYTES, Version, read_datum
from app.errors import Poison

OFFSET_BITS: Final = 6  # what the first byte of a varint holds of an offset: seven bits, one of them the sign
OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1
SYNC: Final = bytes(range(16))  # any 16 bytes: a block of known size needs no random marker to find its end

PREFIX_FIELD: Final = {"name": "_wire_prefix", "type": {"type": "fixed", "name": "WirePrefix", "size": PREFIX_BYTES}}
SOURCE_FIELDS: Final = (
    {"name": "_topic", "type": "string"},
    {"name": "_partition", "type": "int"},
    {"name": "_offset", "type": "long"},
)


class Row(NamedTuple):
    """One row: the offset of its record and the value of its table's subject, in the wire format."""

    offset: int
    value: bytes


def rows_of(records: Sequence[Record]) -> list[Row]:
    """Each record's value as a row of its own subject."""
    # A named tuple's own constructor is a Python function, three times as slow.
    return [tuple.__new__(Row, (record.offset, record.value or b"")) for record in records]


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
    """The head of a container whose records are that schema's, between the wire prefix and the added columns."""
    fields = [PREFIX_FIELD, *version.parsed["fields"], *added]
    out = io.BytesIO()
    fastavro.writer(out, {**version.parsed, "fields": fields}, [], sync_marker=SYNC)
    return out.getvalue()


def container(header: bytes, topic: str, partition: int, rows: Sequence[Row]) -> bytes:
    """An object container with one block of `rows`."""
    name = topic.encode()
    source = varint(len(name)) + name + varint(partition)
    parts: list[bytes] = []
    # Neighbours differ in the first byte of their offset's varint alone: it is looked up, the rest made once a page.
    shorts = [source + varint(low) for low in range(OFFSET_MASK + 1)]
    longs = [source + bytes([low << 1 | 0x80]) for low in range(OFFSET_MASK + 1)]
    page, high, lows = -1, b"", shorts
    for offset, value in rows:
        if offset >> OFFSET_BITS != page:
            page = offset >> OFFSET_BITS
            high, lows = varint(page << OFFSET_BITS)[1:], longs if page else shorts
        parts += (value, lows[offset & OFFSET_MASK], high)
    size = varint(sum(map(len, parts)))
    return b"".join((header, varint(len(rows)), size, *parts, SYNC))


def broken_rows(version: Version, rows: Sequence[Row]) -> dict[int, Poison]:
    """Which rows are not exactly one datum of the schema, by offset."""
    broken: dict[int, Poison] = {}
    for row in rows:
        try:
            read_datum(version, row.value[PREFIX_BYTES:])
        except Poison as poison:
            broken[row.offset] = poison
    return broken
