"""The Confluent wire format: what goes in comes out, old versions are read, and no bytes do worse than Poison."""

import json
import struct
import uuid
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.codec import AVRO_FOLDER, Codec
from app.errors import Poison

CODEC = Codec.load()
EVENT = CODEC.schema("tracking-event")
WEBHOOK = CODEC.schema("gateway-webhook")
RECORD = {
    "tenant_id": "9402ca49-1242-4ebb-93f1-25676eeb1628",
    "event_id": "e",
    "event_type": "click",
    "occurred_at": 1_780_000_000_000,
    "received_at": 1_780_000_000_001,
}


def test_every_schema_file_is_locked_and_has_a_schema() -> None:
    """Each file has one id in the lock, and its subject can be written."""
    ids = json.loads((AVRO_FOLDER / "ids.lock.json").read_text())
    assert {CODEC.schema(name.split("/")[0]).name for name in ids} == set(ids)


def test_the_prefix_is_confluents() -> None:
    """Magic byte 0, the id in four bytes big-endian, then the datum."""
    value = EVENT.encode(RECORD)
    assert value[:5] == struct.pack(">bI", 0, EVENT.id)


@given(st.binary(max_size=2_000), st.text(st.characters(codec="utf-8")))
def test_a_webhook_comes_back_byte_for_byte(raw: bytes, text: str) -> None:
    """The body that the signature covered is not changed on its way."""
    sent = {
        "tenant_id": uuid.UUID(int=1),
        "event_id": text,
        "gateway": "g",
        "received_at": 5,
        "content_type": "",
        "body": raw,
    }
    back = WEBHOOK.decode(WEBHOOK.encode(sent))
    assert (back["body"], back["event_id"], back["tenant_id"]) == (raw, text, uuid.UUID(int=1))


@given(st.decimals(-(10**14) + 1, 10**14 - 1, places=4))
def test_money_comes_back_exactly(amount: Decimal) -> None:
    """Decimals keep every digit."""
    assert EVENT.decode(EVENT.encode({**RECORD, "value": amount, "currency": "BRL"}))["value"] == amount


@given(st.binary(max_size=300))
def test_no_bytes_do_worse_than_poison(value: bytes) -> None:
    """Whatever stands in a topic is a record or Poison: nothing stops a partition."""
    for candidate in (value, struct.pack(">bI", 0, EVENT.id) + value):
        try:
            EVENT.decode(candidate)
        except Poison as poison:
            assert poison.reason in {"bad_wire_format", "unknown_schema"}


@given(st.integers(0, 100), st.binary(min_size=1, max_size=5))
def test_cut_off_and_prolonged_values_are_poison(cut: int, more: bytes) -> None:
    """A value is one datum, whole, and nothing after it."""
    value = EVENT.encode(RECORD)
    for wrong in (value[: min(cut, len(value) - 1)], value + more):
        with pytest.raises(Poison) as caught:
            EVENT.decode(wrong)
        assert caught.value.reason == "bad_wire_format"


def test_an_unknown_id_and_another_subjects_id_are_named() -> None:
    """The reason says which id came and which there are."""
    for schema_id in (999, WEBHOOK.id):
        with pytest.raises(Poison) as caught:
            EVENT.decode(struct.pack(">bI", 0, schema_id) + b"x")
        assert caught.value.reason == "unknown_schema"
        assert str(schema_id) in caught.value.detail


def test_a_record_that_does_not_fit_is_the_callers_fault() -> None:
    """ValueError, not Poison: our own code made it."""
    for wrong in ({}, {**RECORD, "occurred_at": "x"}, {**RECORD, "value": Decimal("1.00001")}):
        with pytest.raises(ValueError, match="does not fit tracking-event/1"):
            EVENT.encode(wrong)


def test_an_old_version_is_read_in_the_shape_of_the_new(tmp_path: Path) -> None:
    """After a version is added, records of the one before get the new field's default."""
    field = {"name": "a", "type": "string"}
    first = {"type": "record", "name": "T", "fields": [field]}
    second = {"type": "record", "name": "T", "fields": [field, {"name": "b", "type": "int", "default": 7}]}
    for number, schema in ((1, first), (2, second)):
        (tmp_path / f"thing.{number}.avsc").write_text(json.dumps(schema))
    (tmp_path / "ids.lock.json").write_text('{"thing/1": 11, "thing/2": 12}')
    new = Codec.load(folder=tmp_path).schema("thing")
    (tmp_path / "thing.2.avsc").unlink()
    (tmp_path / "ids.lock.json").write_text('{"thing/1": 11}')
    old = Codec.load(folder=tmp_path).schema("thing")
    assert new.decode(old.encode({"a": "x"})) == {"a": "x", "b": 7}
    assert new.name == "thing/2"
    with pytest.raises(Poison, match="unknown_schema"):
        old.decode(new.encode({"a": "x", "b": 1}))


def test_a_lock_that_does_not_fit_the_files_is_refused(tmp_path: Path) -> None:
    """A forgotten lock entry stops the start, not a record later."""
    (tmp_path / "thing.1.avsc").write_text('{"type":"record","name":"T","fields":[]}')
    (tmp_path / "ids.lock.json").write_text("{}")
    with pytest.raises(ValueError, match="thing/1"):
        Codec.load(folder=tmp_path)
