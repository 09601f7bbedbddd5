"""Step 6 against the real engine: rows that a token hides from a retry are put back, and nothing is doubled."""

import datetime as dt
from collections.abc import AsyncIterator, Iterator

import pytest

from app import codec
from app.sinks.clickhouse import ClickHouseSink
from app.sinks.container import Row
from app.sinks.restoring import Beginnings, lacking, restore
from tests.support.edge_parts import Parts

TENANT = "018f0000-0000-7000-8000-000000000001"
SOURCE = ("tracking.collected", 3)
NOW = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    found = Parts(tmp_path_factory.mktemp("restoring"))
    found.start_clickhouse()
    yield found
    found.stop_all()


@pytest.fixture
async def sink(parts: Parts) -> AsyncIterator[ClickHouseSink]:
    made = ClickHouseSink(parts.settings)
    yield made
    await made.close()


def rows_at(*offsets: int) -> list[Row]:
    schema = codec.schema("tracking-event")
    event = {"tenant_id": TENANT, "event_type": "click", "occurred_at": NOW, "received_at": NOW}
    return [Row(at, schema.encode({**event, "event_id": f"e{at}"})) for at in offsets]


async def test_rows_behind_a_used_token_are_put_back_once(parts: Parts, sink: ClickHouseSink) -> None:
    """A retry whose token is taken by a block without its rows ends with every row there, each once."""
    version = codec.schema("tracking-event").latest
    rows = rows_at(*range(10, 20))
    # What a node killed between token and part leaves, or a range whose poison was mended before its replay:
    # the token is known, and part of the rows is not there.
    await sink.insert("tracking_events", version, SOURCE, rows[:4], "the range")
    await sink.insert("tracking_events", version, SOURCE, rows, "the range")
    query = "SELECT count(), uniqExact(_offset) FROM afluente.tracking_events WHERE _partition = 3"
    assert parts.clickhouse(query).split() == ["4", "4"]
    for _ in range(2):
        await restore(sink, "tracking_events", version, SOURCE, rows, token="the range")
        assert parts.clickhouse(query).split() == ["10", "10"]


async def test_rows_that_are_there_are_left_alone(parts: Parts, sink: ClickHouseSink) -> None:
    """A retry that was a mere repetition adds nothing, holes between the offsets included."""
    version = codec.schema("tracking-event").latest
    rows = rows_at(100, 105, 2**40)
    for _ in range(2):
        await sink.insert("tracking_events", version, ("tracking.collected", 5), rows, "holes")
        await restore(sink, "tracking_events", version, ("tracking.collected", 5), rows, token="holes")
    query = "SELECT count(), uniqExact(_offset) FROM afluente.tracking_events WHERE _partition = 5"
    assert parts.clickhouse(query).split() == ["3", "3"]


async def test_rows_that_are_there_are_left_out_before(parts: Parts, sink: ClickHouseSink) -> None:
    """Without any token to go by, the rows that the table has are told from those that it lacks."""
    version = codec.schema("tracking-event").latest
    rows = rows_at(*range(200, 210))
    source = ("tracking.collected", 6)
    await sink.insert("tracking_events", version, source, rows[:4], "some")
    assert await lacking(sink, "tracking_events", version, source, rows) == rows[4:]


async def test_a_topic_made_again_has_other_rows_at_the_same_offsets(parts: Parts, sink: ClickHouseSink) -> None:
    """Rows of a former topic of that name do not stand in for the new ones."""
    version = codec.schema("tracking-event").latest
    source = ("tracking.collected", 7)
    await sink.insert("tracking_events", version, source, rows_at(*range(10)), "former topic")
    again = [Row(row.offset - 300, row.value) for row in rows_at(*range(300, 310))]
    assert await lacking(sink, "tracking_events", version, source, again) == again
    beginnings = Beginnings(["tracking_events"])
    beginnings.add(source)
    assert await beginnings.comes_again(sink, source, 9)
    assert not await beginnings.comes_again(sink, source, 10)
    assert not await beginnings.comes_again(sink, source, 0), "asked once, until it begins anew"
