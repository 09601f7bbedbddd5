"""Laws of formats and of what a pipeline may give: one dedupe key a record on every way, and nothing undeclared."""

import base64
from dataclasses import replace
from typing import Any

import pytest

from agents import topology
from app.formats import Enveloped, Format
from app.inspection import Inspected
from app.outputs import Emitted, Outputs
from app.pipeline import Loop, Parts, Pipeline, Work
from app.ranges import Range
from app.settings import Settings
from app.sinks.clickhouse import ClickHouseSink
from schemas.bills import BILLS
from schemas.emits import BILLS_EVENTS
from schemas.envelope import HEADER_ID, HEADER_SCHEMA, HEADER_TENANT, HEADER_TYPE
from tests.support.changes import Database, ids, record
from tests.support.records import TENANT, tracking_record

PIPELINES = {
    pipeline.name: pipeline
    for pipeline in topology.pipelines(Settings(master_key=base64.b64encode(bytes(range(32))).decode()))
}
MIRROR = PIPELINES["bills.mirror"]


def changes() -> list[Any]:
    """Records of a small history."""
    database = Database()
    for row_id in ids(3):
        database.insert(BILLS, row_id)
    return [record(offset, change) for offset, change in enumerate(database.changes)]


def work(pipeline: Pipeline, records: list[Any]) -> Work:
    """A batch that has been inspected and deduped."""
    good, _ = pipeline.form.inspect(records)
    found = Work(Range("id", records[0].topic, 0, 0, len(records) - 1, 1), batch=None)  # type: ignore[arg-type]
    found.good = found.kept = good
    return found


@pytest.mark.parametrize(
    ("form", "records"),
    [(Enveloped("tracking-event"), [tracking_record(n, f"e-{n}") for n in range(3)]), (MIRROR.form, changes())],
)
def test_a_rebuild_and_the_loop_name_a_record_alike(form: Format, records: list[Any]) -> None:
    """A key that the rebuild makes otherwise would let every duplicate in after a lost disk."""
    good: list[Inspected] = form.inspect(records)[0]
    assert [one.key for one in good] == [form.identify(one.key, one.value, one.headers) for one in records]
    assert {form.tenant(one) for one in records} == {TENANT}


def test_events_that_the_map_does_not_name_stop_the_process() -> None:
    """A topic that nobody declared is one that nobody made: loud, before anything is written."""
    parts = Parts(Settings(), *(None,) * 3, ClickHouseSink(Settings()))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="does not name"):
        Loop(replace(MIRROR, emits=()), parts, None).process(work(MIRROR, changes()))  # type: ignore[arg-type]
    assert Loop(MIRROR, parts, None).process(work(MIRROR, changes())).produced  # type: ignore[arg-type]


def test_an_event_leaves_under_the_envelope_and_the_key_of_its_tenant() -> None:
    """Whoever reads it routes and dedupes on headers, as with every topic of ours."""
    outputs = MIRROR.process(MIRROR.form.events(MIRROR.form.inspect(changes())[0]))
    records = outputs.events(set())
    assert {one.topic for one in records} == {BILLS_EVENTS.topic.name}
    good, dead = Enveloped(BILLS_EVENTS.subject).inspect(
        [
            replace(tracking_record(n), key=one.key, value=one.value, headers=one.headers)
            for n, one in enumerate(records)
        ]
    )
    assert (len(good), dead) == (3, [])
    assert [name for name, _ in records[0].headers] == [HEADER_ID, HEADER_TENANT, HEADER_TYPE, HEADER_SCHEMA]


def test_a_record_that_was_set_aside_tells_nothing() -> None:
    """Its events would speak of a row that is not there; a replay tells them."""
    outputs = MIRROR.process(MIRROR.form.events(MIRROR.form.inspect(changes())[0]))
    assert len(outputs.events({1})) == 2


def test_a_value_that_does_not_fit_its_subject_is_a_fault_of_ours() -> None:
    """It stops the process: an event that is left out would be missing for ever."""
    outputs = Outputs()
    (one,) = MIRROR.form.events(MIRROR.form.inspect(changes()[:1])[0])
    outputs.produce(BILLS_EVENTS, one, Emitted("id", TENANT, "bill_created", {"tenant_id": TENANT}))
    with pytest.raises(ValueError, match="bill-event/1"):
        outputs.events(set())
