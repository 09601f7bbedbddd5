"""Laws of events and outputs: a record that does not decode is set aside, alone, and each row keeps its record."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from app.errors import Poison
from app.outputs import Events, Outputs
from schemas.envelope import HEADER_ID, HEADER_TENANT, HEADER_TYPE
from schemas.rows import TRACKING_EVENTS
from tests.support.records import OTHER_TENANT, TENANT, TRACKING, PlainRecord, tracking_record, wire

BAD_VALUES = st.one_of(st.none(), st.just(b""), st.binary(max_size=40).map(lambda datum: wire(TRACKING.id, datum)))
TEXTS = st.one_of(st.none(), st.binary(max_size=8), st.just(b"\xff\xfe"))
NAMES = st.sampled_from([HEADER_ID, HEADER_TENANT, HEADER_TYPE])


@given(st.lists(st.one_of(st.none(), BAD_VALUES), max_size=8))
def test_what_does_not_decode_is_rejected_alone(values: list[bytes | None]) -> None:
    """Its neighbours are processed, in order, and nothing is lost between the two."""
    records = [
        tracking_record(offset, f"e-{offset}") if offset % 2 else replace(tracking_record(offset), value=value)
        for offset, value in enumerate(values)
    ]
    outputs = Outputs()
    events = list(Events(records, TRACKING).decoded(outputs))
    fates = [event.record.offset for event in events], [record.offset for record, _ in outputs.rejected]
    assert fates[0] == sorted(fates[0])
    assert sorted([*fates[0], *fates[1]]) == list(range(len(records)))
    assert {offset for offset in range(len(records)) if offset % 2} <= set(fates[0])
    assert {poison.reason for _, poison in outputs.rejected} <= {"bad_wire_format", "unknown_schema"}


@given(st.lists(st.tuples(NAMES, TEXTS), max_size=4))
def test_headers_of_any_bytes_never_stop_a_pipeline(headers: list[tuple[str, bytes | None]]) -> None:
    """A header that is no text is one record's poison, not the end of the process."""
    outputs = Outputs()
    record = replace(tracking_record(0), headers=headers)
    events = list(Events([record], TRACKING).decoded(outputs))
    assert len(events) + len(outputs.rejected) == 1
    assert {poison.reason for _, poison in outputs.rejected} <= {"bad_header"}


def test_an_event_is_its_envelope_and_its_value() -> None:
    """A process reads id, tenant and type from the envelope, and the rest from the value."""
    (event,) = Events([tracking_record(7, "e-7", OTHER_TENANT)], TRACKING).decoded(Outputs())
    assert (event.id, event.tenant_id, event.type) == ("e-7", OTHER_TENANT, "click")
    assert str(event.value["tenant_id"]) == OTHER_TENANT != TENANT


def test_each_row_keeps_the_record_it_came_from() -> None:
    """The row's offset, and its way to the DLQ should ClickHouse refuse it, are the record's."""
    outputs = Outputs()
    for event in Events([tracking_record(1, "a"), tracking_record(4, "b")], TRACKING).decoded(outputs):
        outputs.insert(TRACKING_EVENTS, event, event.value)
    assert [record.offset for record, _ in outputs.rows[TRACKING_EVENTS]] == [1, 4]


def test_outputs_are_not_shared_between_batches() -> None:
    """What one batch rejected must not reach the next one's DLQ."""
    one, two = Outputs(), Outputs()
    one.reject(PlainRecord(0), Poison("bad"))
    one.pass_through(TRACKING_EVENTS)
    assert (two.rows, two.passed, two.rejected) == ({}, [], [])
