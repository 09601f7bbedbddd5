"""Verdicts of change data capture, its heartbeats, its orders, and what is shown of a failure."""

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from infra.local.cdc_actions import CONDITION_CHARS_MAX, captured, condition
from infra.local.cdc_source import Slot, heartbeat_ids, lsn_text, tables_of
from infra.local.cdc_state import ADVICE, DELAY_MAX_S, Progress, Report, definition, progress_of
from infra.local.connectors import Connector, Task, without_secrets
from infra.local.faults import Fault
from infra.local.lag import STUCK_AFTER_S, PartitionLag, judged

RUNNING = Connector("RUNNING", (Task(0, "RUNNING"),))
SLOT = Slot(True, "reserved", "", confirmed=900, restart=800, now=1000, safe_bytes=10_000)
COLLECTIONS = json.dumps(
    [{"incremental_snapshot_collections_id": table} for table in ("public.bills", "public.bill_occurrences")]
)
# As Debezium 3.3.1 wrote it: two java.util.UUID in an Object[].
KEY = (
    "aced0005757200135b4c6a6176612e6c616e672e4f626a6563743b90ce589f1073296c0200007870000000027372000e6a61"
    "76612e7574696c2e55554944bc9903f7986d852f0200024a000c6c65617374536967426974734a000b6d6f73745369674269"
    "74737870bf74bef5f5971477c4b773dc5e495f7d7371007e0002a479e0397b98f8e28988471a40584a40"
)
KEY_IDS = ("c4b773dc-5e49-5f7d-bf74-bef5f5971477", "8988471a-4058-4a40-a479-e0397b98f8e2")
WELL = Report(RUNNING, True, SLOT, frozenset(), 0.5, 1.0, 900)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "running"),
        ({"slot": None}, "slot missing"),
        ({"slot": replace(SLOT, wal_status="lost")}, "slot lost"),
        ({"slot": replace(SLOT, reason="wal_removed"), "connect_answers": False}, "slot lost"),
        ({"slot": replace(SLOT, safe_bytes=-5)}, "slot in danger"),
        ({"slot": replace(SLOT, safe_bytes=50), "connect_answers": False}, "slot in danger"),
        ({"slot": replace(SLOT, safe_bytes=None)}, "running"),
        ({"connector": None, "connect_answers": False, "read_lsn": None}, "connect away"),
        ({"connector": None, "connect_answers": False, "read_lsn": None, "slot": None}, "slot missing"),
        ({"connector": None, "read_lsn": None}, "not applied"),
        ({"connector": Connector("RUNNING", (Task(0, "FAILED", "why"),))}, "task failed"),
        (
            {"connector": Connector("RUNNING", (Task(0, "FAILED", "no longer available on the server"),))},
            "slot missing",
        ),
        ({"connector": Connector("STOPPED", ())}, "paused"),
        ({"connector": Connector("RUNNING", ())}, "starting"),
        ({"delay_s": DELAY_MAX_S + 1}, "behind"),
    ],
)
def test_each_state_has_its_verdict(change: dict[str, Any], verdict: str):
    """Loss is named before all else, danger before what causes it, and every verdict says what to do."""
    assert replace(WELL, **change).verdict == verdict
    assert ADVICE[verdict]


@given(st.integers(1, 64))
def test_each_partition_has_one_heartbeat_key(partitions: int):
    """The ids are the same whoever makes them, and the n-th is put by Kafka into partition n."""
    ids = heartbeat_ids(partitions)
    assert [(murmur2(str(each).encode()) & 0x7FFFFFFF) % partitions for each in ids] == list(range(partitions))
    assert ids == heartbeat_ids(partitions)


def test_a_position_is_shown_as_postgres_shows_it():
    """An operator can compare what we print with what psql prints."""
    assert lsn_text(0x16B3748) == "0/16B3748"
    assert lsn_text((3 << 32) + 255) == "3/FF"
    assert lsn_text(None) == "-"


def test_only_captured_tables_can_be_asked_for():
    """A snapshot of a table that Debezium does not read would be ignored in silence: it is refused with the names."""
    assert captured(()) == ("public.bills", "public.bill_occurrences")
    assert captured(["bills", "public.bills"]) == ("public.bills",)
    for name in ("tenants", "cdc_heartbeats", "bills; DROP TABLE bills"):
        with pytest.raises(Fault, match="Not captured"):
            captured([name])


@pytest.mark.parametrize(
    ("order", "whole"),
    [
        ('{"type": "incremental", "data-collections": ["public.bills"]}', {"public.bills"}),
        ('{"data-collections": ["public.bills"], "additional-conditions": [{"filter": "true"}]}', set()),
        ('{"data-collections": ["public.bills"], "additional-condition": "true"}', set()),
        ('{"type": "incremental"}', set()),
        ('["public.bills"]', set()),
        ('{"data-collections": 1}', set()),
        ("by hand", set()),
        (None, set()),
    ],
)
def test_an_order_stands_for_the_tables_that_it_takes_whole(order: str | None, whole: set[str]):
    """A part of a table, or what nobody can read, never takes the place of a first snapshot."""
    assert tables_of(order) == whole


def test_a_snapshot_is_told_from_the_position():
    """Tables and the last key are as Debezium wrote them; without them there is no snapshot, and no key is no fault."""
    assert progress_of({"lsn": 1}) is None
    assert progress_of({"lsn": 1, "snapshot": "INITIAL"}) == Progress(())
    begun = progress_of({"incremental_snapshot_collections": COLLECTIONS})
    assert begun == Progress(("public.bills", "public.bill_occurrences"))
    for broken in ("", "no digits", "aced0005"):
        assert begun == progress_of(
            {"incremental_snapshot_collections": COLLECTIONS, "incremental_snapshot_primary_key": broken}
        )
    read = progress_of({"incremental_snapshot_collections": COLLECTIONS, "incremental_snapshot_primary_key": KEY})
    assert read == Progress(("public.bills", "public.bill_occurrences"), KEY_IDS)
    assert KEY_IDS[0] in read.text
    assert replace(WELL, snapshot=read).document["snapshot"]["key"] == list(KEY_IDS)
    assert replace(WELL, snapshot=read).verdict == "running"


def test_a_condition_is_one_condition():
    """The tenant is a UUID and nothing else, and an operator's condition stays one and bounded."""
    tenant = uuid.uuid4()
    assert condition(str(tenant), "amount > 1") == f"tenant_id = '{tenant}' AND (amount > 1)"
    assert condition("", "") == ""
    for bad in (("x' OR true --", ""), ("", "true; DROP TABLE bills"), ("", "x" * (CONDITION_CHARS_MAX + 1))):
        with pytest.raises(Fault):
            condition(*bad)


@pytest.mark.parametrize(
    "text",
    ["config={database.password=hunter2, x=1}", "password: hunter2", "DATABASE.PASSWORD=hunter2]", "api_token=hunter2"],
)
def test_a_trace_is_shown_without_its_secrets(text: str):
    """Debezium prints its password into some exceptions; we never do."""
    assert "hunter2" not in without_secrets(text)


def test_the_settings_file_keeps_what_readers_rest_on():
    """Envelope, types and key are as the mirror reads them; a change here breaks it."""
    found = definition().config
    assert found["decimal.handling.mode"] == "string"
    assert found["time.precision.mode"] == "adaptive"
    assert found["tombstones.on.delete"] == "false"
    assert found["key.converter"].endswith("StringConverter")
    assert found["transforms.tenant.field"] == "tenant_id"
    assert found["skipped.operations"] == "none"
    assert found["snapshot.mode"] == "no_data"  # a snapshot of Debezium's own would hide a lost slot and leave ghosts
    assert definition().topic == "bills.changes"


def test_a_partition_is_stuck_when_old_records_wait_and_nothing_moves():
    """Empty, moving and stuck are told apart by age and by two looks."""
    row = PartitionLag("bills.mirror", "bills.changes", 0, 5, 9, 4, None, STUCK_AFTER_S)
    assert judged(replace(row, lag=0), row).state == "empty"
    assert judged(row, None).state == "moving"
    assert judged(row, row).state == "stuck"
    assert judged(replace(row, committed=6), row).state == "moving"
    assert judged(replace(row, pending={"first": 5}), row).state == "moving"
    assert judged(replace(row, oldest_s=1.0), row).state == "moving"
