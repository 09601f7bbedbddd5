"""Progress of the consumer group: the pending range of each partition, kept in the metadata of its offset commit.

Steps 2 and 8 of the loop. One commit says both "everything below this offset is durable" and "this range is in
flight"; a stale worker's commit is refused by the group's generation, so it can never open a range.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from app.batch import TP
from app.errors import Fenced
from app.ranges import Range
from app.telemetry import metrics

PROBE_TEXT = "afluente keeps its pending ranges here"


class Committer(Protocol):
    """The group member that commits: the transport's consumer."""

    async def commit_ranges(self, positions: Mapping[TP, tuple[int, str]]) -> None: ...


class MetadataDropped(Exception):  # noqa: N818 - the broker's property, refused at start
    """The broker does not keep offset-commit metadata, so exactly once cannot hold on it."""


class Progress:
    """Merges the commits of all partitions: while one request is under way, the next one gathers.

    `open` waits until its range is durable; `close` does not wait, so that "commit n" and "open n+1" become one
    request when batches follow each other.
    """

    def __init__(self, committer: Committer, on_fault: Callable[[Exception], object]) -> None:
        """`on_fault` gets what a commit raised that nobody waits for: an unknown failure, which ends the process."""
        self._committer = committer
        self._on_fault = on_fault
        self._wanted: dict[TP, tuple[int, str]] = {}
        self._waiters: list[tuple[TP, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def open(self, span: Range) -> None:
        """Make `span` durable as pending. Raises Fenced when the partition is no longer ours."""
        await self._want(TP(span.topic, span.partition), (span.first, span.metadata()))

    def close(self, tp: TP, next_offset: int) -> None:
        """Everything below `next_offset` is durable; committed with the next request."""
        self._wanted[tp] = (next_offset, "")
        self._start()

    async def flush(self) -> None:
        """Wait until all that was asked for is committed, or refused because we are fenced."""
        while self._task is not None and not self._task.done():
            await asyncio.wait({self._task})

    def forget(self, partitions: set[TP]) -> None:
        """Drop what was wanted for partitions that have been revoked; whoever waits for one of them is Fenced."""
        for tp in partitions:
            self._wanted.pop(tp, None)
        # Left in place, such a waiter would take the next request of another partition for its own.
        for tp, waiter in self._waiters:
            if tp in partitions and not waiter.done():
                waiter.set_exception(Fenced("revoked before its range was opened"))
        self._waiters = [(tp, waiter) for tp, waiter in self._waiters if tp not in partitions]

    async def _want(self, tp: TP, position: tuple[int, str]) -> None:
        self._wanted[tp] = position
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((tp, waiter))
        self._start()
        await waiter

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        # One turn of the loop, so that partitions that finish together share a request.
        await asyncio.sleep(0)
        while self._wanted:
            positions, self._wanted = self._wanted, {}
            waiters, self._waiters = self._waiters, []
            try:
                with metrics.COMMIT_SECONDS.time():
                    await self._committer.commit_ranges(positions)
            except Exception as error:  # noqa: BLE001 - whoever waits decides; the next request must go on
                self._settle(waiters, error)
                # Nobody waits for a mere `close`. A fenced one is its next owner's; anything else is a fault.
                if not waiters and not isinstance(error, Fenced):
                    self._on_fault(error)
            else:
                self._settle(waiters, None)

    @staticmethod
    def _settle(waiters: list[tuple[TP, asyncio.Future[None]]], error: Exception | None) -> None:
        for _, waiter in waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)


async def read(bootstrap: str, group: str, partitions: set[TP]) -> dict[TP, tuple[int, Range | None]]:
    """Committed offset (-1: none yet) and pending range of each partition, from the group coordinator.

    Raises ValueError when the metadata is not ours.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(group, partitions=[TopicPartition(*tp) for tp in partitions])
    finally:
        await admin.close()
    return {TP(*tp): (at.offset, Range.from_metadata(at.metadata or "")) for tp, at in found.items()}


async def check_metadata_kept(bootstrap: str, topic: str, group: str) -> None:
    """Commit a probe in a group of its own and read it back. Raises MetadataDropped when it is not the same."""
    probe = TopicPartition(topic, 0)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([probe])
        await consumer.commit({probe: OffsetAndMetadata(0, PROBE_TEXT)})
    finally:
        await consumer.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        kept = (await admin.list_consumer_group_offsets(group, partitions=[probe]))[probe].metadata
    finally:
        await admin.close()
    if kept != PROBE_TEXT:
        raise MetadataDropped(
            f"the broker at {bootstrap} does not keep offset-commit metadata (committed {PROBE_TEXT!r}, "
            f"read back {kept!r}): Afluente needs Apache Kafka or a broker that keeps it"
        )
