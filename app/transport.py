"""The batch transport: Faust's Kafka transport, delivering one record batch as one Faust message.

First stop of every record in the worker. Stock Faust schedules tasks for each record; this subclass of the aiokafka
driver polls whole runs of records, gathers them per partition (`app.batch`), and yields a batch when it is full, old
enough, or complete as a replay: one in flight per partition. It also owns the commit position: offsets move only by
`commit`, with the pending range in the metadata, never by Faust's ack bookkeeping.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, ClassVar, Protocol

import aiokafka
import structlog
from aiokafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import ConsumerMessage

from app import fetched
from app.batch import TP, Accumulator, Bounds, RecordBatch
from app.errors import Fenced
from app.lifecycle import stop_loudly

log = structlog.get_logger(__name__)

POLL_RECORDS_MAX = 4_000  # records decoded in one go: 20 ms of the consumer thread, so that a commit never waits longer
POLL_S = 0.1  # longest wait of one poll: bounds how late a freed partition is polled again
FETCH_WAIT_MS = 100  # the broker's long poll; Faust's 1500 would delay a partition freed in between

STALE = (CommitFailedError, IllegalGenerationError, IllegalStateError, RebalanceInProgressError, UnknownMemberIdError)


class Ownership(Protocol):
    """Who is told when partitions come and go: the loop."""

    async def assigned(self, partitions: set[TP], generation: int) -> None: ...
    async def revoked(self, partitions: set[TP]) -> None: ...


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that keeps heartbeats and fetches going while the main loop works."""

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001 - Faust hard-codes it and gives no setting
        return consumer

    async def poll(self, partitions: set[TP]) -> Mapping[TP, list[Any]]:
        """The next records of those partitions; empty when none came within POLL_S."""
        wanted: Any = partitions
        found: Any = await self.getmany(wanted, POLL_S)
        return {TP(*tp): records for tp, records in found.items()}

    async def _fetch_records(self, consumer: Any, *args: Any, **kwargs: Any) -> Any:
        """In the consumer's own thread: what the fetcher has at hand."""
        found = await super()._fetch_records(consumer, *args, **kwargs)
        fetched.queue_up(consumer._fetcher, found)  # noqa: SLF001 - aiokafka lets nobody ask for an order
        return found

    async def seek_to(self, tp: TP, offset: int) -> None:
        """Set the fetch position. Raises Fenced when the partition is not assigned."""
        try:
            await self.call_thread(self._seek_here, tp, offset)
        except IllegalStateError as error:
            raise Fenced("seek") from error

    async def _seek_here(self, tp: TP, offset: int) -> None:
        self._ensure_consumer().seek(TopicPartition(*tp), offset)

    async def commit_ranges(self, positions: Mapping[TP, tuple[int, str]]) -> None:
        """Commit offset and metadata of several partitions in one request. Raises Fenced for a stale member."""
        await self.call_thread(self._commit_ranges, dict(positions))

    async def _commit_ranges(self, positions: Mapping[TP, tuple[int, str]]) -> None:
        offsets = {TopicPartition(*tp): OffsetAndMetadata(*position) for tp, position in positions.items()}
        try:
            await self._ensure_consumer().commit(offsets)
        except STALE as error:
            raise Fenced(type(error).__name__) from error


class Consumer(driver.Consumer):
    """Yields record batches. `ownership` is set by the worker before it starts."""

    _thread: ConsumerThread
    ownership: Ownership
    bounds: Bounds
    buffer_bytes_max: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app: Any = self.app
        self.ownership = app.ownership
        self.bounds = app.bounds
        self.buffer_bytes_max = app.buffer_bytes_max
        self._assigned: set[TP] = set()
        self._buffers: dict[TP, Accumulator] = {}
        self._in_flight: dict[TP, RecordBatch] = {}
        self._yielded_at: dict[TP, float] = {}
        self._held: set[TP] = set()
        self._wake = asyncio.Event()
        self._poll: asyncio.Task[Mapping[TP, list[Any]]] | None = None
        self._polled: dict[TP, Accumulator] = {}
        self._draining = False

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # What the loop asks of the transport.

    async def admit(self, tp: TP, offset: int, replay: tuple[int, int] | None = None) -> None:
        """Start fetching a partition whose state is ready, at `offset`; `replay` are the bounds of its first batch.

        Raises Fenced when the partition has been revoked meanwhile.
        """
        while self._poll is not None and tp in self._polled:
            # A poll from before the last revocation could move the position after our seek and lose records.
            await asyncio.wait({self._poll})
            self._settle_poll()
        await self._thread.seek_to(tp, offset)
        if tp not in self._assigned:
            # While a revocation waits for us the seek still works; a buffer would outlive it, and pass over the pending
            # range when the partition comes back.
            raise Fenced("revoked while it was prepared")
        buffer = Accumulator(tp, self.bounds)
        if replay is not None:
            buffer.replay(*replay)
        self._buffers[tp] = buffer
        self._wake.set()

    def owns(self, batch: RecordBatch) -> bool:
        """Whether a batch that was yielded is still to be carried: not revoked since, and not while we drain."""
        return self._in_flight.get(batch.tp) is batch and not self._draining

    def release(self, batch: RecordBatch) -> None:
        """The batch in flight is durable: the next one of this partition may go."""
        if self._in_flight.get(batch.tp) is batch:
            del self._in_flight[batch.tp]
            if batch.tp in self._buffers:
                self._buffers[batch.tp].took(self.loop.time() - self._yielded_at.pop(batch.tp))
            self._wake.set()

    def hold(self, tp: TP) -> bool:
        """Backpressure: fetch no more of this partition until `resume`. False when it is held already."""
        if tp in self._held:
            return False
        self._held.add(tp)
        return True

    def resume(self, tp: TP) -> bool:
        """Fetch again. False when it was not held."""
        if tp not in self._held:
            return False
        self._held.discard(tp)
        self._wake.set()
        return True

    def drain(self) -> None:
        """Yield no more batches: the process is about to stop."""
        self._draining = True

    async def commit_ranges(self, positions: Mapping[TP, tuple[int, str]]) -> None:
        await self._thread.commit_ranges(positions)

    def buffered(self) -> dict[TP, int]:
        """Rows fetched and not yet taken, per partition."""
        return {tp: len(buffer) for tp, buffer in self._buffers.items()}

    # What Faust asks of the transport.

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        partitions = {TP(*tp) for tp in revoked}
        # First, so that no batch starts while those in flight are waited for.
        self._assigned -= partitions
        for tp in partitions:
            self._buffers.pop(tp, None)
            self._in_flight.pop(tp, None)
            self._yielded_at.pop(tp, None)
            self._held.discard(tp)
        await self.ownership.revoked(partitions)
        await super().on_partitions_revoked(set(revoked))

    async def on_partitions_assigned(self, assigned: Iterable[Any], generation_id: int = 0) -> None:
        await super().on_partitions_assigned(set(assigned), generation_id)
        self._assigned |= {TP(*tp) for tp in assigned}
        await self.ownership.assigned({TP(*tp) for tp in assigned}, generation_id)

    async def perform_seek(self) -> None:
        """Nothing: a partition gets its position from `admit`, once its pending range and state are known."""

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002
        """Nothing: Faust's ack bookkeeping must never move an offset (it can pass a record in flight)."""
        return False

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Nothing: batches carry their own bounds, and expanding gaps blocks the loop."""

    def verify_event_path(self, now: float, tp: Any) -> None:
        """Nothing: Faust's livelock text looks at its own acks. `afluente_lag_records` tells the truth."""

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[Any, ConsumerMessage]]:  # noqa: ASYNC109 - Faust's
        """Yield the batches that are due; return when there is none, for Faust to call again."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow.wait())
        try:
            await self._fill(timeout)
        except Exception as error:  # noqa: BLE001 - Faust would restart the fetcher past what was not delivered
            stop_loudly(log, error)
        now = self.loop.time()
        for tp, buffer in list(self._buffers.items()):
            if self._draining or not self.flow_active:
                return
            if tp in self._in_flight or self._buffers.get(tp) is not buffer:
                continue
            batch = buffer.cut(now)
            if batch is not None:
                self._in_flight[tp] = batch
                self._yielded_at[tp] = now
                yield tp, self._batch_message(batch)

    async def _fill(self, wait_s_max: float) -> None:
        """Wait until a poll brings records, a batch is due, a partition is freed, or the time is over."""
        self._wake.clear()
        now = self.loop.time()
        due = [buffer.due_at() for tp, buffer in self._buffers.items() if tp not in self._in_flight]
        wait_s = max(0.0, min([wait_s_max, *(at - now for at in due if at is not None)]))
        if self._poll is None:
            self._polled = self._free()
            # aiokafka takes an empty set for "all partitions".
            if self._polled:
                self._poll = asyncio.ensure_future(self._thread.poll(set(self._polled)))
        woken = asyncio.ensure_future(self._wake.wait())
        waiting: set[asyncio.Future[Any]] = {woken} | ({self._poll} if self._poll is not None else set())
        await asyncio.wait(waiting, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        woken.cancel()
        self._settle_poll()

    def _free(self) -> dict[TP, Accumulator]:
        """The partitions to poll: not full, not held, within the worker's budget of buffered bytes."""
        over = sum(buffer.size_bytes for buffer in self._buffers.values()) >= self.buffer_bytes_max
        return {
            tp: buffer
            for tp, buffer in self._buffers.items()
            if tp not in self._held and not buffer.full and (not over or not len(buffer) or buffer.replaying)
        }

    def _settle_poll(self) -> None:
        """Put what a finished poll brought into the buffers it was made for."""
        if self._poll is None or not self._poll.done():
            return
        poll, self._poll = self._poll, None
        now = self.loop.time()
        for tp, records in poll.result().items():
            # Records of a partition that was revoked during the poll are its next owner's.
            if tp in self._polled and self._buffers.get(tp) is self._polled[tp]:
                self._polled[tp].add(records, now)

    def _batch_message(self, batch: RecordBatch) -> ConsumerMessage:
        last = batch.records[-1]
        value: Any = batch
        tp: Any = batch.tp
        return ConsumerMessage(
            topic=batch.tp.topic,
            partition=batch.tp.partition,
            offset=batch.last,
            timestamp=last.timestamp / 1000.0,
            timestamp_type=0,
            headers=[],
            key=None,
            value=value,
            checksum=None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )


fetched.install()


class Transport(driver.Transport):
    """The aiokafka transport with the batch consumer in it."""

    Consumer: ClassVar[type[Consumer]] = Consumer
