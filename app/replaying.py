"""An operator's replay: source records once more through inspect, process and write, for rows that ClickHouse lost.

Beside the loop, with the steps of the loop. Its inserts carry tokens of their own namespace, and it never touches what
the worker will write: it reads up to the committed offset alone. Rows stay unique because every event that the table
has is left out, and so is every record in the DLQ (`dlq replay` brings those back).
"""

import asyncio
import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import fastavro
from confluent_kafka import Message
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from app import codec, progress, source
from app.batch import TP, RecordBatch
from app.codec import Version
from app.dedup import Gap, dead_offsets, first_carriers
from app.errors import Backpressure, Poison
from app.ownership import describe
from app.pipeline import Loop, Pipeline, Work
from app.ranges import Range, token
from app.settings import Settings
from app.sinks.clickhouse import ClickHouseSink
from app.sinks.container import Row
from app.stored import Counts, Stored, Unique
from schemas.rows import Rows

# Timestamps are the producers' and so not in order: this far behind a later one an earlier one is still looked for.
DISORDER_MS: Final = 10 * 60 * 1000
RETRY_FIRST_S: Final = 0.25
RETRY_MAX_S: Final = 5.0
RETRY_STOP_S: Final = 60.0  # an operator waits: then the command ends, and may be run again
BAD_DATUM: Final = (EOFError, ValueError, IndexError, KeyError, TypeError, OverflowError, StopIteration)

Report = Callable[[int, int], None]  # records read, records there are


class Window(NamedTuple):
    """Kafka timestamps in milliseconds, `until` not included."""

    since_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be read: offsets `first..last` of each partition. `waiting` records are the worker's to write."""

    pipeline: Pipeline
    window: Window
    topic_id: str
    spans: Mapping[TP, tuple[int, int]]
    waiting: int

    @property
    def records(self) -> int:
        return sum(last - first + 1 for first, last in self.spans.values())


@dataclass(slots=True)
class Outcome:
    """What a replay found: the first five count records, each once; the next three count rows."""

    outside: int = 0  # of the window
    dead: int = 0  # in the DLQ
    poison: int = 0  # cannot be processed, and is not in the DLQ
    duplicates: int = 0  # of a record of the same chunk
    processed: int = 0
    present: int = 0  # rows that ClickHouse has
    missing: int = 0  # rows that it lacked: restored, unless it was a dry run
    refused: int = 0  # of these, rows that it does not take
    before: dict[str, Counts] = field(default_factory=dict)
    after: dict[str, Counts] = field(default_factory=dict)

    @property
    def doubled(self) -> int:
        """Duplicates that were not there before."""
        return sum(max(0, now.duplicates - self.before[table].duplicates) for table, now in self.after.items())


def span_of(first: int, end: int, committed: int) -> tuple[int, int] | None:
    """The offsets to read, both ends included: from `first` to before `end`, never at or past the commit."""
    last = min(end, committed) - 1
    return (first, last) if first <= last else None


async def plan(settings: Settings, pipeline: Pipeline, window: Window, partition: int | None = None) -> Plan:
    """Bound a replay by time and by the group's commits. Raises LookupError for what does not exist."""
    bootstrap, topic = settings.kafka_url, pipeline.reads.name
    topic_id = (await asyncio.to_thread(describe, bootstrap, {topic}))[topic]
    places = await asyncio.to_thread(source.partitions, bootstrap, topic)
    if partition is not None:
        if TP(topic, partition) not in places:
            raise LookupError(f"{topic} has no partition {partition}: there are 0 to {len(places) - 1}")
        places = [TP(topic, partition)]
    # A pending range begins at the committed offset, so it stays out too.
    positions = await progress.read(bootstrap, settings.group_id, set(places))
    committed = {tp: offset for tp, (offset, _) in positions.items()}
    firsts = await asyncio.to_thread(source.offsets_at, bootstrap, places, window.since_ms)
    ends = await asyncio.to_thread(source.offsets_at, bootstrap, places, window.until_ms + DISORDER_MS)
    spans = {tp: span_of(firsts[tp], ends[tp], committed[tp]) for tp in places}
    waiting = sum(max(0, ends[tp] - max(firsts[tp], committed[tp], 0)) for tp in places)
    return Plan(pipeline, window, topic_id, {tp: span for tp, span in spans.items() if span is not None}, waiting)


class Replay:
    """One replay. `replay_id` is the namespace of its tokens: no other insert ever had it."""

    def __init__(self, chosen: Plan, sink: ClickHouseSink, stored: Stored, replay_id: str) -> None:
        self.plan = chosen
        self.outcome = Outcome()
        self._sink = sink
        self._stored = stored
        self._replay_id = replay_id

    async def run(self, bootstrap: str, report: Report, *, dry_run: bool) -> Outcome:
        """Read, compare, restore. A dry run restores nothing."""
        tables = self.plan.pipeline.writes
        self.outcome.before = {table.table: await self._stored.counts(table) for table in tables}
        done = 0
        for tp, (first, last) in self.plan.spans.items():
            gap = Gap(tp, self.plan.topic_id, first, last, self.plan.pipeline.dead.name)
            dead = await asyncio.to_thread(dead_offsets, bootstrap, gap, threading.Event())
            chunks = iter(source.read(bootstrap, tp, (first, last)))
            while (found := await asyncio.to_thread(_next, chunks)) is not None:
                await self.carry(tp, [source.as_record(record) for record in found], dead, dry_run=dry_run)
                done += len(found)
                report(done, self.plan.records)
        self.outcome.after = {table.table: await self._stored.counts(table) for table in tables}
        return self.outcome

    async def carry(self, tp: TP, records: Sequence[source.SourceRecord], dead: set[int], *, dry_run: bool) -> None:
        """One chunk through the steps of the loop, the ones that touch Kafka left out."""
        outcome, window = self.outcome, self.plan.window
        inside = [one for one in records if window.since_ms <= one.timestamp < window.until_ms]
        alive = [one for one in inside if one.offset not in dead]
        outcome.outside += len(records) - len(inside)
        outcome.dead += len(inside) - len(alive)
        if not alive:
            return
        first, last = alive[0].offset, alive[-1].offset
        span = Range(self.plan.topic_id, *tp, first, last, self.plan.pipeline.version)
        work = Work(span, RecordBatch(tp, first, last, alive, replayed=True))
        form = self.plan.pipeline.form
        work.good, work.dead = form.inspect(alive)
        kept, _ = first_carriers([one.key for one in work.good], [one.record.offset for one in work.good], {})
        work.kept = [work.good[index] for index in kept]
        outputs = self.plan.pipeline.process(form.events(work.kept))
        outcome.poison += len(work.dead) + len(outputs.rejected)
        outcome.duplicates += len(work.good) - len(work.kept)
        outcome.processed += len(work.kept) - len(outputs.rejected)
        chunk: dict[Rows, set[Unique]] = {}
        for table, version, rows in Loop.blocks(work, outputs):
            missing = await self._missing(table, version, rows, chunk.setdefault(table, set()))
            outcome.missing += len(missing)
            if missing and not dry_run:
                await self._insert(table, version, span, missing)

    async def _missing(self, table: Rows, version: Version, rows: Sequence[Row], chunk: set[Unique]) -> list[Row]:
        """The rows that the table lacks; `chunk` holds the keys of this chunk so far.

        Of events each once. Of versions those that are newer than what is there, in their order: the last one counts.
        """
        keyed = [(row, unique_of(row, version, table)) for row in rows]
        existing = await self._stored.existing(table, [key for _, (key, _) in keyed if key])
        missing: list[Row] = []
        for row, (key, number) in keyed:
            if not key:
                self.outcome.poison += 1
            elif number <= existing.get(key, -1) or (key in chunk and not table.version):
                self.outcome.present += 1
            else:
                chunk.add(key)
                missing.append(row)
        return missing

    async def _insert(self, table: Rows, version: Version, span: Range, rows: Sequence[Row]) -> None:
        name = token(self.plan.pipeline.name, table.table, version.id, span, self._replay_id)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Backpressure),
            wait=wait_random_exponential(multiplier=RETRY_FIRST_S, max=RETRY_MAX_S),
            stop=stop_after_delay(RETRY_STOP_S),
            reraise=True,
        )
        place = (span.topic, span.partition)
        refused: list[tuple[int, Poison]] = await retrying(self._sink.insert, table.table, version, place, rows, name)
        self.outcome.refused += len(refused)


def unique_of(row: Row, version: Version, table: Rows) -> tuple[Unique, int]:
    """The texts of a row's unique columns, read from the row itself, and its version; () when it is no datum."""
    try:
        fields: Any = fastavro.schemaless_reader(io.BytesIO(row.value[codec.PREFIX_BYTES :]), version.parsed, None)
    except BAD_DATUM:
        return (), 0
    return tuple(str(fields[column]) for column in table.unique), fields[table.version] if table.version else 0


def _next(chunks: Iterator[list[Message]]) -> list[Message] | None:
    return next(chunks, None)
