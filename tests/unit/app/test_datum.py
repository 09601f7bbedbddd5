"""Our writer of Avro datums writes what fastavro writes, byte for byte, or leaves the record to it."""

import io
from decimal import Decimal
from typing import Any
from uuid import UUID

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.codec import Codec
from app.datum import Unusual, varint, writer_of
from tests.support.records import datums

CODEC = Codec.load()
OURS = ("tracking-event", "gateway-webhook", "bill-row", "bill-occurrence-row", "bill-event", "cdc-progress-row")
TEXT = st.text(st.characters(codec="utf-8"))
ANYTHING = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals() | st.lists(TEXT)
)


def by_fastavro(parsed: Any, record: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, parsed, record)
    return out.getvalue()


def in_texts(value: Any) -> Any:
    """The same with UUIDs as their text, as the edge and the mirror have them; of the others, ours knows nothing."""
    if isinstance(value, dict):
        return {name: in_texts(one) for name, one in value.items()}
    return str(value) if isinstance(value, UUID) else value


@given(st.sampled_from(OURS).flatmap(lambda name: st.tuples(st.just(name), datums(CODEC.schema(name)))))
def test_a_record_is_written_as_fastavro_writes_it(pair: tuple[str, dict[str, Any]]) -> None:
    """The same bytes for every record that fits its schema, whichever of the two wrote them."""
    name, record = pair[0], in_texts(pair[1])
    parsed = CODEC.schema(name).latest.parsed
    write = writer_of(parsed)
    assert write is not None
    expected = by_fastavro(parsed, record)
    assert CODEC.schema(name).encode(record)[5:] == expected
    assert write(record) == expected


@given(datums(CODEC.schema("bill-row")).map(in_texts), st.decimals())
def test_an_amount_is_written_to_the_cent_or_left_to_fastavro(record: dict[str, Any], amount: Decimal) -> None:
    """A decimal of another scale, or of more digits, or none at all, is never rounded."""
    parsed = CODEC.schema("bill-row").latest.parsed
    write = writer_of(parsed)
    assert write is not None
    record["amount"] = amount
    try:
        written = write(record)
    except Unusual:
        return
    assert written == by_fastavro(parsed, record)


@given(
    datums(CODEC.schema("tracking-event")),
    st.sampled_from(["event_id", "occurred_at", "consent_ads", "value"]),
    ANYTHING,
)
def test_a_value_of_another_type_is_never_written_otherwise(record: dict[str, Any], name: str, value: object) -> None:
    """Whatever a field holds, ours gives fastavro's bytes or gives up; it accepts nothing that fastavro refuses."""
    parsed = CODEC.schema("tracking-event").latest.parsed
    write = writer_of(parsed)
    assert write is not None
    record["tenant_id"] = str(record["tenant_id"])
    record[name] = value
    try:
        written = write(record)
    except Unusual:
        return
    assert written == by_fastavro(parsed, record)


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_long_is_written_as_fastavro_writes_it(number: int) -> None:
    """Zigzag and seven bits a byte, over the whole range of a long."""
    assert varint(number) == by_fastavro("long", number)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_what_is_no_long_is_left_to_fastavro(number: int) -> None:
    """A number beyond 64 bits is refused, not cut."""
    schema = {"type": "record", "name": "r", "fields": [{"name": "n", "type": "long"}]}
    write = writer_of(fastavro.parse_schema(schema))
    assert write is not None
    with pytest.raises(Unusual):
        write({"n": number})


def test_schemas_beyond_it_are_left_to_fastavro() -> None:
    """Maps, enums and wider unions have no writer here; nor has anything that is no record."""
    for kind in ({"type": "map", "values": "string"}, ["null", "string", "long"], ["string", "null"], "double"):
        schema = {"type": "record", "name": "r", "fields": [{"name": "n", "type": kind}]}
        assert writer_of(fastavro.parse_schema(schema)) is None
    assert writer_of({"type": "string"}) is None
