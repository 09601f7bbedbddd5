"""Laws of the codec: what the edge encodes is what the worker reads, in every version, and garbage is poison alone."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.codec import AVRO_FOLDER, LOCK_FILE, PREFIX_BYTES, Codec, Schema
from app.errors import Poison
from tests.support.records import TENANT, datums, tracking_value, wire

CODEC = Codec.load()
SUBJECTS = sorted({path.name.split(".")[0] for path in AVRO_FOLDER.glob("*.avsc")})
RECORDS = st.sampled_from(SUBJECTS).flatmap(
    lambda subject: st.tuples(st.just(CODEC.schema(subject)), datums(CODEC.schema(subject)))
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What a field reads back as when it was written as another Python type.
READ_AS: dict[str, Callable[[Any], Any]] = {
    "timestamp-millis": lambda at: (at - EPOCH) // timedelta(milliseconds=1),
    "timestamp-micros": lambda at: (at - EPOCH) // timedelta(microseconds=1),
    "date": lambda day: (day - EPOCH.date()).days,
}


def as_written(kind: Any, value: Any) -> Any:
    """A decoded value with its times as the numbers that were encoded."""
    if isinstance(kind, list):
        branch = next(one for one in kind if one != "null")
        return None if value is None else as_written(branch, value)
    if isinstance(kind, str):
        return value
    if kind["type"] == "record":
        return {field["name"]: as_written(field["type"], value[field["name"]]) for field in kind["fields"]}
    return READ_AS.get(kind.get("logicalType", ""), lambda same: same)(value)


@settings(max_examples=60)
@given(RECORDS)
def test_what_is_encoded_is_what_is_read(pair: tuple[Schema, dict[str, Any]]) -> None:
    """Every record of every subject survives the wire, decimals and nulls included."""
    schema, record = pair
    found = as_written(schema.latest.parsed, schema.decode(schema.encode(record)))
    assert found == record


@settings(max_examples=60)
@given(RECORDS)
def test_a_value_names_its_schema(pair: tuple[Schema, dict[str, Any]]) -> None:
    """Five bytes of prefix, the Confluent wire format: any Confluent client reads our topics."""
    schema, record = pair
    value = schema.encode(record)
    assert value[:PREFIX_BYTES] == wire(schema.id, b"")
    assert schema.written_by(value) is schema.latest


def poison_or_record(schema: Schema, value: bytes) -> None:
    """Decode, and accept nothing but a record or Poison with one of the codec's reasons."""
    reason = ""
    try:
        schema.decode(value)
    except Poison as poison:
        reason = poison.reason
    assert reason in {"", "bad_wire_format", "unknown_schema"}


ANY_SCHEMA = st.sampled_from([CODEC.schema(subject) for subject in SUBJECTS])


@given(ANY_SCHEMA, st.binary(max_size=120))
def test_garbage_is_poison(schema: Schema, value: bytes) -> None:
    """Whatever bytes a topic holds, one record goes to the DLQ and the worker goes on."""
    poison_or_record(schema, value)


@settings(max_examples=300)
@given(ANY_SCHEMA, st.binary(max_size=200))
def test_garbage_behind_a_good_prefix_is_poison(schema: Schema, datum: bytes) -> None:
    """The prefix only says which schema; the datum may still be anything."""
    poison_or_record(schema, wire(schema.id, datum))


@settings(max_examples=200)
@given(RECORDS, st.data())
def test_a_damaged_value_is_poison_or_another_record(pair: tuple[Schema, dict[str, Any]], draw: st.DataObject) -> None:
    """One flipped byte, deep in a field, may not raise what stops the process."""
    schema, record = pair
    value = bytearray(schema.encode(record))
    at = draw.draw(st.integers(0, len(value) - 1))
    value[at] = draw.draw(st.integers(0, 255))
    poison_or_record(schema, bytes(value))


@settings(max_examples=40)
@given(RECORDS, st.data())
def test_a_value_cut_short_is_poison(pair: tuple[Schema, dict[str, Any]], draw: st.DataObject) -> None:
    """No prefix of a value is a value."""
    schema, record = pair
    value = schema.encode(record)
    with pytest.raises(Poison):
        schema.decode(value[: draw.draw(st.integers(0, len(value) - 1))])


@settings(max_examples=40)
@given(RECORDS, st.binary(min_size=1, max_size=9))
def test_bytes_behind_a_value_are_poison(pair: tuple[Schema, dict[str, Any]], rest: bytes) -> None:
    """A datum that is spliced into a container must end where it ends: what follows would shift its neighbours."""
    schema, record = pair
    with pytest.raises(Poison, match="bytes are left"):
        schema.decode(schema.encode(record) + rest)


@pytest.mark.parametrize(
    "change",
    [{"tenant_id": None}, {"event_id": 7}, {"occurred_at": "today"}, {"value": "1.00"}, {"consent_ads": "yes"}],
    ids=str,
)
def test_a_record_that_does_not_fit_is_the_callers_fault(change: dict[str, Any]) -> None:
    """ValueError, not Poison: nothing wrong may reach a topic in the first place."""
    schema = CODEC.schema("tracking-event")
    with pytest.raises(ValueError, match="does not fit tracking-event/1"):
        schema.encode({**schema.decode(tracking_value(TENANT)), **change})


def evolved(folder: Path) -> Codec:
    """Our schemas, and a second version of tracking-event with one optional field more."""
    for path in AVRO_FOLDER.iterdir():
        (folder / path.name).write_text(path.read_text())
    second = json.loads((folder / "tracking-event.1.avsc").read_text())
    second["fields"].append({"name": "device", "type": "string", "default": "unknown"})
    (folder / "tracking-event.2.avsc").write_text(json.dumps(second))
    ids = json.loads((folder / LOCK_FILE).read_text())
    (folder / LOCK_FILE).write_text(json.dumps({**ids, "tracking-event/2": 1000}))
    return Codec.load(folder=folder)


def test_a_new_version_reads_what_the_old_one_wrote(tmp_path: Path) -> None:
    """Records of before a deploy are still on the topic after it: a new optional field reads as its default."""
    old = CODEC.schema("tracking-event")
    new = evolved(tmp_path).schema("tracking-event")
    value = tracking_value(TENANT, "e-7", url="https://shop.example/")
    assert new.decode(value) == {**old.decode(value), "device": "unknown"}
    assert new.written_by(value).name == "tracking-event/1"


def test_a_new_version_writes_its_own_id_and_an_old_worker_calls_it_poison(tmp_path: Path) -> None:
    """Workers are deployed before the edge; one that is late sends the record to the DLQ instead of misreading it."""
    old, new = CODEC.schema("tracking-event"), evolved(tmp_path).schema("tracking-event")
    value = new.encode({**old.decode(tracking_value(TENANT)), "device": "phone"})
    assert (new.latest.number, new.id) == (2, 1000)
    assert new.decode(value)["device"] == "phone"
    with pytest.raises(Poison, match="unknown_schema"):
        old.decode(value)


def test_a_lock_file_that_differs_from_the_schemas_is_refused(tmp_path: Path) -> None:
    """A schema without an id, an id without a schema, one id for two: each stops the start."""
    evolved(tmp_path)
    for ids in ({"tracking-event/1": 1}, {"tracking-event/1": 1, "gone/1": 9}):
        (tmp_path / LOCK_FILE).write_text(json.dumps(ids))
        with pytest.raises(ValueError, match="differ"):
            Codec.load(folder=tmp_path)
    names = {f"{subject}/1": 1 for subject in SUBJECTS} | {"tracking-event/2": 1}
    (tmp_path / LOCK_FILE).write_text(json.dumps(names))
    with pytest.raises(ValueError, match="one id to two schemas"):
        Codec.load(folder=tmp_path)


def test_an_unknown_subject_says_what_there_is() -> None:
    """An error names what is allowed."""
    with pytest.raises(KeyError, match="tracking-event"):
        CODEC.schema("tracking-evnet")
