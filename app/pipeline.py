"""THE LOOP: the only consumer loop of the project. Every record of every pipeline takes these eight steps.

1. take     the next record batch of the partition; one in flight per partition, partitions side by side
2. open     its range: durable as *pending* in the offset commit before anything leaves the process
3. inspect  envelope and wire format; what is wrong goes to the DLQ
4. dedupe   by event id against the offset that first carried it: equal is a redelivery, lower a duplicate
5. process  the domain's pure function: batch in, rows and events out
6. write    rows into ClickHouse under the range's token, events and poison into topics, all confirmed
7. remember the new ids together with the applied offset, in one RocksDB batch
8. commit   last + 1

Killed anywhere, the next owner finds the pending range and replays it with the same bounds, so ClickHouse drops what
it has and takes what it lacks. Two named failures exist, Backpressure and Poison; Fenced means that the partition has
another owner. Anything else stops the process, with a non-zero status and without commit.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import structlog

from app import backpressure, codec, dlq, failpoints, inspection, quarantine
from app.batch import TP, RecordBatch
from app.codec import Version
from app.dedup import Applied, Seen, SeenTable, first_carriers
from app.errors import Fenced, Poison
from app.formats import Format
from app.lifecycle import stop_loudly
from app.outputs import Outputs
from app.producer import Producer
from app.progress import Progress
from app.ranges import Range, token
from app.settings import Settings
from app.sinks.clickhouse import ClickHouseSink
from app.sinks.container import Row, rows_of
from app.sinks.restoring import Beginnings, lacking, restore
from app.telemetry import metrics
from app.transport import Consumer
from schemas.emits import Emits
from schemas.rows import Rows
from schemas.topics import Topic

log = structlog.get_logger(__name__)

Process = Callable[[Any], Outputs]  # of what the pipeline's format makes of a batch: Events, or Changes
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One row of the topology. `version` counts its transform: raise it when the same input gives other rows."""

    name: str
    version: int
    reads: Topic
    dead: Topic
    form: Format
    process: Process
    seen: SeenTable
    writes: tuple[Rows, ...]
    emits: tuple[Emits, ...] = ()


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop works with, shared by all pipelines of a worker."""

    settings: Settings
    consumer: Consumer
    progress: Progress
    producer: Producer
    sink: ClickHouseSink
    examiner: Sequence[str] = ()  # the command that a range is shown to when it may have killed us


@dataclass(slots=True)
class Work:
    """One batch on its way: what the steps have found so far."""

    span: Range
    batch: RecordBatch
    good: list[inspection.Inspected] = field(default_factory=list)
    kept: list[inspection.Inspected] = field(default_factory=list)
    fresh: dict[bytes, int] = field(default_factory=dict)
    dead: list[dlq.Dead] = field(default_factory=list)
    pills: dict[int, Poison] = field(default_factory=dict)
    repeated: bool = False  # the insert at hand may have happened before


class Loop:
    """Carries the batches of one pipeline. `topic_id` is set before its first partition is admitted."""

    def __init__(self, pipeline: Pipeline, parts: Parts, seen: Seen) -> None:
        self.pipeline = pipeline
        self.parts = parts
        self.seen = seen
        self.topic_id = ""
        self.replays: dict[TP, Range] = {}
        self.carrying: dict[TP, asyncio.Task[None]] = {}
        self.durable: dict[TP, int] = {}
        self.form = pipeline.form
        self.beginnings = Beginnings([rows.table for rows in pipeline.writes if not rows.version])
        self._log = log.bind(pipeline=pipeline.name)

    async def run(self, stream: Any) -> None:
        """The body of the Faust agent. A task carries each batch; the transport allows one a partition."""
        async for event in stream.noack().events():
            # 1. take
            batch: RecordBatch = event.value
            if not self.parts.consumer.owns(batch):
                continue
            if failpoints.armed:
                failpoints.hit("1_take")
            self.carrying[batch.tp] = asyncio.create_task(self._carry_or_stop(batch))

    async def _carry_or_stop(self, batch: RecordBatch) -> None:
        try:
            await self.carry(batch)
        except Fenced:
            self._log.warning("fenced", partition=batch.tp.partition, first=batch.first, last=batch.last)
        except Exception as error:  # noqa: BLE001 - the one place where an unknown failure ends the process
            stop_loudly(self._log.bind(partition=batch.tp.partition, first=batch.first, last=batch.last), error)

    async def carry(self, batch: RecordBatch) -> None:
        """Steps 2 to 8 for one batch. The order is the guarantee."""
        began_ns = time.time_ns()
        work = Work(self._span(batch), batch)
        with self._step("open"):
            await self.open(work)
        if work.span.deliveries > quarantine.DELIVERIES_MAX and self.parts.examiner:
            work.pills = await quarantine.find(batch.tp, batch.records, (*self.parts.examiner, self.pipeline.name))
        with self._step("inspect"):
            self.inspect(work)
        with self._step("dedupe"):
            self.dedupe(work)
        with self._step("process"):
            outputs = self.process(work)
        with self._step("write"):
            await self.write(work, outputs)
        with self._step("remember"):
            self.remember(work)
        self.commit(work)
        self.parts.consumer.release(batch)
        self._report(work, began_ns)

    def _span(self, batch: RecordBatch) -> Range:
        """The range of the batch; a replay is the pending range itself, in the version that opened it."""
        if batch.replayed:
            metrics.REPLAYED.labels(self.pipeline.name).inc()
            return self.replays.pop(batch.tp)
        return Range(self.topic_id, *batch.tp, batch.first, batch.last, self.pipeline.version)

    async def open(self, work: Work) -> None:
        # 2. open
        await self.parts.progress.open(work.span)
        if failpoints.armed:
            failpoints.hit("2_open")

    def inspect(self, work: Work) -> None:
        # 3. inspect
        records, pills = quarantine.split(work.batch.records, work.pills)
        work.good, work.dead = self.form.inspect(records)
        work.dead += [dlq.Dead(one, work.pills[one.offset], 3, self.form.tenant(one)) for one in pills]
        if failpoints.armed:
            failpoints.hit("3_inspect")

    def dedupe(self, work: Work) -> None:
        # 4. dedupe
        keys = [one.key for one in work.good]
        known = self.seen.known(work.span.partition, keys) if keys else {}
        kept, work.fresh = first_carriers(keys, [one.record.offset for one in work.good], known)
        work.kept = [work.good[index] for index in kept]
        if failpoints.armed:
            failpoints.hit("4_dedupe")

    def process(self, work: Work) -> Outputs:
        # 5. process
        outputs = self.pipeline.process(self.form.events(work.kept))
        undeclared = {*outputs.rows, *outputs.passed, *outputs.produced} - {*self.pipeline.writes, *self.pipeline.emits}
        if undeclared:
            raise RuntimeError(f"{self.pipeline.name} gives {undeclared}, which its row of the topology does not name")
        inspection.observe_warnings(self.pipeline.name, outputs.warnings)
        work.dead += [dlq.Dead(record, poison, 5, self.form.tenant(record)) for record, poison in outputs.rejected]
        if failpoints.armed:
            failpoints.hit("5_process")
        return outputs

    async def write(self, work: Work, outputs: Outputs, namespace: str = "") -> None:
        """Insert the rows, then produce events and DLQ records, all confirmed when it returns."""
        # 6. write
        ratio_max, tp = self.parts.settings.dlq_ratio_max, work.batch.tp
        dlq.check_limit(work.dead, len(work.batch.records), ratio_max)
        by_offset = {one.record.offset: one.record for one in work.kept}
        again = await self._persist(tp, partial(self.beginnings.comes_again, self.parts.sink, tp, work.span.first))
        for table, version, rows in self.blocks(work, outputs):
            name = token(self.pipeline.name, table.table, version.id, work.span, namespace)
            work.repeated = work.batch.replayed or again
            refused = await self._persist(tp, partial(self._insert, work, table, version, rows, name))
            for offset, poison in refused:
                work.dead.append(dlq.Dead(by_offset[offset], poison, 6, self.form.tenant(by_offset[offset])))
            metrics.INSERTED.labels(self.pipeline.name, table.table).inc(len(rows) - len(refused))
            if failpoints.armed:
                failpoints.hit("6_insert")
        if outputs.produced:
            events = outputs.events({one.record.offset for one in work.dead})
            await self._persist(tp, partial(self.parts.producer.send_many, events))
            if failpoints.armed:
                failpoints.hit("6_produce")
        if work.dead:
            work.dead += inspection.followers(work.good, work.kept, work.dead, self.form.tenant)
            dlq.check_limit(work.dead, len(work.batch.records), ratio_max)
            name, dead, say = self.pipeline.name, self.pipeline.dead.name, self.form.describe
            entries = [dlq.entry(dead, one, work.span, name, say(one.record)) for one in work.dead]
            await self._persist(tp, partial(self.parts.producer.send_many, entries))
        if failpoints.armed:
            failpoints.hit("6_write")

    async def _insert(
        self, work: Work, table: Rows, version: Version, rows: list[Row], name: str
    ) -> list[tuple[int, Poison]]:
        """One insert; around one that may have been tried before we look, since its token alone proves nothing."""
        repeated, work.repeated = work.repeated, True
        if repeated and table.version:
            # Nothing newer is there, so the last versions once more are no harm: under a name that no insert had.
            name = f"{name}:again{time.time_ns()}"
        elif repeated:
            rows = await lacking(self.parts.sink, table.table, version, work.batch.tp, rows)
        refused = await self.parts.sink.insert(table.table, version, work.batch.tp, rows, name) if rows else []
        if repeated and not table.version:
            gone = {offset for offset, _ in refused}
            left = [row for row in rows if row.offset not in gone]
            await restore(self.parts.sink, table.table, version, work.batch.tp, left, token=name)
        return refused

    @staticmethod
    def blocks(work: Work, outputs: Outputs) -> list[tuple[Rows, Version, list[Row]]]:
        """The rows of each insert: one block a table and schema version, in offset order."""
        found: list[tuple[Rows, Version, list[Row]]] = []
        for rows in outputs.passed:
            for version in {one.content.id: one.content for one in work.kept}.values():
                kept = [one.record for one in work.kept if one.content is version]
                found.append((rows, version, rows_of(kept)))
        for rows, entries in outputs.rows.items():
            schema = codec.schema(rows.subject)
            datums = [Row(record.offset, schema.encode(row)) for record, row in entries]
            found.append((rows, schema.latest, datums))
        return found

    def remember(self, work: Work) -> None:
        # 7. remember: the id of a poison record is not taken, so that its replay after a fix passes.
        if work.dead:
            gone = {one.record.offset for one in work.dead}
            work.fresh = {key: offset for key, offset in work.fresh.items() if offset not in gone}
        self.seen.remember(work.span.partition, work.fresh, Applied(work.span.topic_id, work.span.last))
        if failpoints.armed:
            failpoints.hit("7_remember")

    def commit(self, work: Work) -> None:
        # 8. commit: not awaited, so that it shares a request with the next "open".
        self.parts.progress.close(work.batch.tp, work.span.last + 1)
        self.durable[work.batch.tp] = work.span.last
        if failpoints.armed:
            failpoints.hit("8_commit")

    def _report(self, work: Work, began_ns: int) -> None:
        name, duplicates = self.pipeline.name, len(work.good) - len(work.kept)
        metrics.CONSUMED.labels(name).inc(len(work.batch.records))
        metrics.DUPLICATES.labels(name).inc(duplicates)
        for one in work.dead:
            metrics.DEAD.labels(name, one.poison.reason).inc()
        inspection.observe(name, work.batch, began_ns)
        counts = {"records": len(work.batch.records), "duplicates": duplicates, "dead": len(work.dead)}
        bounds = {"partition": work.span.partition, "first": work.span.first, "last": work.span.last}
        self._log.info("batch", **bounds, **counts, replayed=work.batch.replayed)

    async def _persist(self, tp: TP, write: Callable[[], Awaitable[T]]) -> T:
        return await backpressure.persist(self.parts.consumer, self.pipeline.name, tp, write)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        metrics.BATCH_SECONDS.labels(self.pipeline.name, name).observe(time.perf_counter() - began)
