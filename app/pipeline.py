"""THE LOOP: the only consumer loop of the project. Every record of every pipeline takes these eight steps.

1. take     the next record batch of the partition; one in flight per partition, partitions side by side
2. open     its range: durable as *pending* in the offset commit before anything leaves the process
3. inspect  envelope and wire format; what is wrong goes to the DLQ
4. dedupe   by event id against the offset that first carried it: equal is a redelivery, lower a duplicate
5. process  the domain's pure function: batch in, rows out
6. write    rows into ClickHouse under the range's token, poison into the DLQ, all confirmed
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
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from app import codec, dlq, failpoints, inspection
from app.batch import TP, RecordBatch
from app.codec import Version
from app.dedup import Applied, Seen, SeenTable, first_carriers
from app.errors import Backpressure, Poison
from app.lifecycle import stop_loudly
from app.outputs import Events, Outputs
from app.producer import NotProduced, Producer
from app.progress import Progress
from app.ranges import Range, token
from app.settings import Settings
from app.sinks.clickhouse import ClickHouseSink, Row
from app.telemetry import metrics
from app.transport import Consumer, Fenced
from schemas.rows import Rows
from schemas.topics import Topic

log = structlog.get_logger(__name__)

RETRY_FIRST_S = 0.25  # doubled up to the next number, with full jitter, so that workers do not retry in step
RETRY_MAX_S = 10.0

Process = Callable[[Events], Outputs]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One row of the topology. `version` counts its transform: raise it when the same input gives other rows."""

    name: str
    version: int
    reads: Topic
    dead: Topic
    subject: str
    process: Process
    seen: SeenTable
    writes: tuple[Rows, ...]


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop works with, shared by all pipelines of a worker."""

    settings: Settings
    consumer: Consumer
    progress: Progress
    producer: Producer
    sink: ClickHouseSink


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
        self.schema = codec.schema(pipeline.subject)
        self._log = log.bind(pipeline=pipeline.name)

    async def run(self, stream: Any) -> None:
        """The body of the Faust agent. Each batch is carried by a task of its own; the transport allows one a partition."""
        async for event in stream.noack().events():
            # 1. take
            batch: RecordBatch = event.value
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
        tp, name = batch.tp, self.pipeline.name
        span = self._span(batch)
        began_ns = time.time_ns()
        with self._step("open"):
            await self.open(span)
        with self._step("inspect"):
            good, dead = inspection.inspect(batch.records, self.schema)
        with self._step("dedupe"):
            kept, fresh = self.dedupe(tp, good)
        with self._step("process"):
            outputs = self.process(kept, good)
        with self._step("write"):
            dead += [dlq.Dead(record, poison, 5, inspection.tenant(record)) for record, poison in outputs.rejected]
            await self.write(span, outputs, kept, dead, len(batch.records))
        with self._step("remember"):
            self.remember(span, good, fresh, dead)
        self.commit(span)
        self.parts.consumer.release(tp)
        metrics.CONSUMED.labels(name).inc(len(batch.records))
        metrics.DUPLICATES.labels(name).inc(len(good) - len(kept))
        inspection.observe(name, batch, began_ns)
        self._log.info("batch", partition=tp.partition, first=span.first, last=span.last, records=len(batch.records),
                       duplicates=len(good) - len(kept), dead=len(dead), replayed=batch.replayed)

    def _span(self, batch: RecordBatch) -> Range:
        """The range of the batch; a replay is the pending range itself, in the version that opened it."""
        if batch.replayed:
            metrics.REPLAYED.labels(self.pipeline.name).inc()
            return self.replays.pop(batch.tp)
        return Range(self.topic_id, *batch.tp, batch.first, batch.last, self.pipeline.version)

    async def open(self, span: Range) -> None:
        # 2. open
        await self.parts.progress.open(span)
        if failpoints.armed:
            failpoints.hit("2_open")

    def dedupe(self, tp: TP, good: Sequence[inspection.Inspected]) -> tuple[list[inspection.Inspected], dict[bytes, int]]:
        # 4. dedupe
        if failpoints.armed:
            failpoints.hit("3_inspect")
        keys = [one.key for one in good]
        kept, fresh = first_carriers(keys, [one.record.offset for one in good], self.seen.known(tp.partition, keys))
        if failpoints.armed:
            failpoints.hit("4_dedupe")
        return [good[index] for index in kept], fresh

    def process(self, kept: Sequence[inspection.Inspected], good: Sequence[inspection.Inspected]) -> Outputs:
        # 5. process
        outputs = self.pipeline.process(Events([one.record for one in kept], self.schema)) if kept else Outputs()
        undeclared = {*outputs.rows, *outputs.passed} - {*self.pipeline.writes}
        if undeclared:
            raise RuntimeError(f"{self.pipeline.name} writes {undeclared}, which its row of the topology does not name")
        # A duplicate within the batch of a record that turned out to be poison shares its fate: their replay keeps one.
        rejected = {inspection.key(record) for record, _ in outputs.rejected}
        if rejected:
            first = {one.record.offset for one in kept}
            outputs.rejected += [
                (one.record, Poison("duplicate_of_poison"))
                for one in good
                if one.key in rejected and one.record.offset not in first
            ]
        if failpoints.armed:
            failpoints.hit("5_process")
        return outputs

    async def write(
        self,
        span: Range,
        outputs: Outputs,
        kept: Sequence[inspection.Inspected],
        dead: list[dlq.Dead],
        records: int,
        namespace: str = "",
    ) -> None:
        """Insert the rows, then produce the DLQ records; adds what ClickHouse refuses to `dead`."""
        # 6. write
        dlq.check_limit(dead, records, self.parts.settings.dlq_ratio_max)
        by_offset = {one.record.offset: one.record for one in kept}
        for table, version, rows in self.blocks(outputs, kept):
            name = token(self.pipeline.name, table, version.id, span, namespace)
            source = (span.topic, span.partition)
            insert = partial(self.parts.sink.insert, table, version, source, rows, name)
            refused = await self._persist(TP(*source), insert)
            dead += [dlq.Dead(by_offset[at], poison, 6, inspection.tenant(by_offset[at])) for at, poison in refused]
            metrics.INSERTED.labels(self.pipeline.name, table).inc(len(rows) - len(refused))
            if failpoints.armed:
                failpoints.hit("6_insert")
        dlq.check_limit(dead, records, self.parts.settings.dlq_ratio_max)
        if dead:
            entries = [dlq.entry(self.pipeline.dead.name, one, span, self.pipeline.name) for one in dead]
            await self._persist(TP(span.topic, span.partition), partial(self.parts.producer.send_many, entries))
            for one in dead:
                metrics.DEAD.labels(self.pipeline.name, one.poison.reason).inc()
        if failpoints.armed:
            failpoints.hit("6_write")

    def blocks(
        self, outputs: Outputs, kept: Sequence[inspection.Inspected]
    ) -> list[tuple[str, Version, list[Row]]]:
        """The rows of each insert: one block a table and schema version, in offset order."""
        found: list[tuple[str, Version, list[Row]]] = []
        for rows in outputs.passed:
            by_version: dict[int, tuple[Version, list[Row]]] = {}
            for one in kept:
                block = by_version.setdefault(one.version.id, (one.version, []))
                block[1].append(Row(one.record.offset, (one.record.value or b"")[codec.PREFIX_BYTES :]))
            found += [(rows.table, *block) for block in by_version.values()]
        for rows, entries in outputs.rows.items():
            schema = codec.schema(rows.subject)
            datums = [Row(record.offset, schema.encode(row)[codec.PREFIX_BYTES :]) for record, row in entries]
            found.append((rows.table, schema.latest, datums))
        return found

    def remember(
        self, span: Range, good: Sequence[inspection.Inspected], fresh: dict[bytes, int], dead: Sequence[dlq.Dead]
    ) -> None:
        # 7. remember: the id of a poison record is not taken, so that its replay after a fix passes.
        gone = {one.record.offset for one in dead}
        taken = {key: offset for key, offset in fresh.items() if offset not in gone} if gone else fresh
        self.seen.remember(span.partition, taken, Applied(span.topic_id, span.last))
        if failpoints.armed:
            failpoints.hit("7_remember")

    def commit(self, span: Range) -> None:
        self.durable[TP(span.topic, span.partition)] = span.last
        # 8. commit: not awaited, so that it shares a request with the next "open".
        self.parts.progress.close(TP(span.topic, span.partition), span.last + 1)
        if failpoints.armed:
            failpoints.hit("8_commit")

    async def _persist(self, tp: TP, write: Callable[[], Awaitable[T]]) -> T:
        """Repeat a write while the next system pushes back: the partition is held, heartbeats and others go on."""
        consumer, paused = self.parts.consumer, metrics.PAUSED.labels(self.pipeline.name)

        def hold(state: RetryCallState) -> None:
            reason = state.outcome.exception() if state.outcome is not None else None
            wait_s = state.next_action.sleep if state.next_action is not None else 0.0
            metrics.BACKPRESSURE_SECONDS.labels(self.pipeline.name).inc(wait_s)
            self._log.warning("backpressure", partition=tp.partition, reason=str(reason), retry_in_s=round(wait_s, 2))
            if consumer.hold(tp):
                paused.inc()

        try:
            return await AsyncRetrying(
                retry=retry_if_exception_type((Backpressure, NotProduced)),
                wait=wait_random_exponential(multiplier=RETRY_FIRST_S, max=RETRY_MAX_S),
                before_sleep=hold,
            )(write)
        finally:
            if consumer.resume(tp):
                paused.dec()

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        metrics.BATCH_SECONDS.labels(self.pipeline.name, name).observe(time.perf_counter() - began)
