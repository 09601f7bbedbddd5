"""A guard on the cost of one event that no clock disturbs: how many Python instructions the loop runs for it.

The bytecode that steps 3 to 6 execute for a batch is counted, instruction by instruction, and divided by its events.
The figure is the same on every machine and under any load; what it leaves out is what C code does, which `make bench`
measures. When a change is worth more instructions, say why and commit the new figure.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from agents.tracking import collect
from app import inspection
from app.batch import Accumulator, Bounds, Record
from app.codec import Schema
from app.dedup import first_carriers
from app.outputs import Event
from app.pipeline import Loop, Work
from app.ranges import Range
from app.sinks.container import container, container_header
from schemas.envelope import HEADER_ID, HEADER_TENANT, header
from tests.support.records import SOURCE, TRACKING, tracking_record

EVENTS = 2_000
DUPLICATES_EVERY = 10
# Instructions of CPython 3.11 for one event; another version compiles to others, so the limit is kept for each.
COMMITTED = {(3, 11): 227.6}
GROWTH_MAX = 1.2


class Count:
    """Instructions since it began."""

    def __init__(self) -> None:
        self.instructions = 0

    def trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        frame.f_trace_opcodes = True
        self.instructions += event == "opcode"
        return self.trace


@contextmanager
def counting() -> Iterator[Count]:
    """Counts every instruction of this thread."""
    found, before = Count(), sys.gettrace()
    sys.settrace(found.trace)
    try:
        yield found
    finally:
        sys.settrace(before)


def carry(records: list[Record], inspect: Callable[..., Any] = inspection.inspect) -> bytes:
    """What the loop does with a batch between Kafka and ClickHouse, without either."""
    buffer = Accumulator(SOURCE, Bounds(len(records), 1 << 30, 0.0))
    buffer.add(records, 0.0)
    batch = buffer.cut(0.0)
    assert batch is not None
    work = Work(Range("t", *SOURCE, batch.first, batch.last, 1), batch)
    work.good, work.dead = inspect(batch.records, TRACKING)
    keys = [one.key for one in work.good]
    kept, work.fresh = first_carriers(keys, [one.record.offset for one in work.good], {})
    work.kept = [work.good[index] for index in kept]
    outputs = collect.process(None)  # type: ignore[arg-type]  # it looks at no event
    ((_, version, rows),) = Loop.blocks(work, outputs)
    return container(container_header(version), *SOURCE, rows)


def records() -> list[Record]:
    """A batch with some duplicates."""
    return [tracking_record(at, f"e-{at - (not at % DUPLICATES_EVERY)}") for at in range(1, EVENTS + 1)]


def cost(inspect: Callable[..., Any] = inspection.inspect) -> float:
    """Instructions for one event; what a batch costs whatever its size is divided among its events."""
    batch = records()
    carry(batch)
    with counting() as found:
        carry(batch, inspect)
    return found.instructions / EVENTS


def test_an_event_costs_no_more_instructions_than_committed() -> None:
    """Speed goes in small steps that no clock on a busy machine can see; this sees each of them."""
    committed = COMMITTED.get(sys.version_info[:2])
    found = cost()
    if committed is None:
        committed = max(COMMITTED.values()) * 2  # an unknown compiler: only the absurd is caught
    assert found <= committed * GROWTH_MAX, f"{found:.1f} instructions an event, {committed} are committed"


def test_the_guard_sees_one_more_object_an_event() -> None:
    """Planted: an object made for each event from its headers, as a careless change would."""

    def careless(batch: Sequence[Record], schema: Schema) -> Any:
        good, dead = inspection.inspect(batch, schema)
        made = []
        for one in good:
            id_, owner = (header(one.record.headers, name) or b"" for name in (HEADER_ID, HEADER_TENANT))
            made.append(Event(id_.decode(), owner.decode(), "", {}, one.record))
        assert len(made) == len(good)
        return good, dead

    assert cost(careless) > cost() * GROWTH_MAX
