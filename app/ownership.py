"""Partitions come and go: each one is prepared before its first record is taken, and let go without loss.

Beside the loop, between the group coordinator and the transport. A partition that arrives gets, in this order: its
committed offset and pending range, its dedupe state (kept, or rebuilt from the source topic), its fetch position.
"""

import asyncio
import contextlib
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

import structlog
from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient

from app import progress
from app.batch import TP
from app.dedup import Applied, Gap, rebuild
from app.errors import Fenced
from app.lifecycle import stop_loudly
from app.pipeline import Loop
from app.ranges import Range
from app.settings import Settings
from app.telemetry import metrics

log = structlog.get_logger(__name__)

DESCRIBE_TIMEOUT_S = 30.0
# A rebalance waits for us: long enough for an insert on its way, well under the session timeout.
REVOKE_BUDGET_S = 3.0
WATCH_S = 10.0  # between two looks whether the topics are still the same ones
LOOK_TIMEOUT_S = 3.0  # of one look: a process that ends waits for it, and the next look is soon
NOTHING_COMMITTED = -1


class Ownership:
    """Prepares assigned partitions and abandons revoked ones. `consumer` is set once Faust has made it."""

    def __init__(self, settings: Settings, loops: Mapping[str, Loop]) -> None:
        self._settings = settings
        self._loops = loops
        self._preparing: asyncio.Task[None] | None = None
        self._leaving = False
        self._stop_rebuilds = threading.Event()
        self._owned: set[TP] = set()
        self._rebuilding: set[TP] = set()
        self.joined = False

    @property
    def owned(self) -> set[TP]:
        return set(self._owned)

    @property
    def unready(self) -> set[TP]:
        """Partitions that are ours and not prepared yet."""
        return set(self._rebuilding)

    async def assigned(self, partitions: set[TP], generation: int) -> None:
        """Prepare partitions in the background: the rebalance is over when this returns, heartbeats go on."""
        if self._leaving:
            log.info("partitions assigned to a worker that ends: left to others", partitions=len(partitions))
            return
        self._owned = {tp for tp in partitions if tp.topic in self._loops}
        self._rebuilding = set(self._owned)
        self.joined = True
        self._report()
        log.info("partitions assigned", partitions=sorted(map(str, self._owned)), generation=generation)
        self._stop_rebuilds = threading.Event()
        self._preparing = asyncio.create_task(self._prepare_or_stop(set(self._owned)))

    async def revoked(self, partitions: set[TP]) -> None:
        """Finish what is in flight within a budget and drop the rest without commit; its next owner replays it."""
        self._stop_rebuilds.set()
        if self._preparing is not None:
            await asyncio.wait({self._preparing})
        loops = self._loops.values()
        await self._finish({task for loop in loops for tp, task in loop.carrying.items() if tp in partitions})
        for loop in loops:
            loop.parts.progress.forget(partitions)
            for tp in partitions & {TP(loop.pipeline.reads.name, tp.partition) for tp in partitions}:
                loop.carrying.pop(tp, None)
                loop.replays.pop(tp, None)
                loop.durable.pop(tp, None)
                loop.seen.release(tp.partition)
        self._owned -= partitions
        self._rebuilding -= partitions
        self._report()

    async def watch(self) -> None:
        """Until cancelled: end the process when one of its topics has been made anew.

        Offsets begin again then, and Kafka tells a consumer nothing: it reads on at the former position. After the
        restart the partition is read from its beginning, for its local state is of the other topic.
        """
        try:
            while True:
                await asyncio.sleep(WATCH_S)
                await self._compare_topics()
        except Exception as error:  # noqa: BLE001 - a watch that has ended without a word watches nothing
            stop_loudly(log, error)

    async def _compare_topics(self) -> None:
        topics = {tp.topic for tp in self._owned}
        if not topics:
            return
        try:
            found = await asyncio.to_thread(describe, self._settings.kafka_url, topics, LOOK_TIMEOUT_S)
        except LookupError as error:
            log.warning("topics cannot be looked at", error=str(error))
            return
        for topic, topic_id in found.items():
            if self._loops[topic].topic_id not in {"", topic_id}:
                raise RuntimeError(f"{topic} was deleted and made anew: its offsets begin again")

    async def drain(self) -> None:
        """Finish what is in flight, commit it, and give the state files back: the calm end."""
        self._leaving = True
        self._stop_rebuilds.set()
        if self._preparing is not None:
            # Asked for offsets when the consumer has ended, it would take the end for an unknown failure.
            _, late = await asyncio.wait({self._preparing}, timeout=REVOKE_BUDGET_S)
            for task in late:
                task.cancel()
        carrying = {task for loop in self._loops.values() for task in loop.carrying.values() if not task.done()}
        if carrying:
            await asyncio.wait(carrying)
        for loop in self._loops.values():
            await loop.parts.progress.flush()
            for tp in self._owned:
                if tp.topic == loop.pipeline.reads.name:
                    loop.seen.release(tp.partition)

    async def _finish(self, tasks: set[asyncio.Task[None]]) -> None:
        running = {task for task in tasks if not task.done()}
        if not running:
            return
        _, late = await asyncio.wait(running, timeout=REVOKE_BUDGET_S)
        for task in late:
            task.cancel()
        if late:
            log.warning("revoked in flight: dropped without commit", batches=len(late))
            await asyncio.wait(late)
        for loop in self._loops.values():
            with contextlib.suppress(TimeoutError):  # then the next owner finds the range pending
                await asyncio.wait_for(loop.parts.progress.flush(), REVOKE_BUDGET_S)

    async def _prepare_or_stop(self, partitions: set[TP]) -> None:
        try:
            await self._prepare(partitions)
        except (Fenced, InterruptedError):
            log.info("revoked while preparing", partitions=len(partitions))
        except Exception as error:  # noqa: BLE001 - a partition that cannot be prepared must not be skipped silently
            stop_loudly(log, error)

    async def _prepare(self, partitions: set[TP]) -> None:
        if not partitions:
            return
        topic_ids = await asyncio.to_thread(describe, self._settings.kafka_url, {tp.topic for tp in partitions})
        positions = await progress.read(self._settings.kafka_url, self._settings.group_id, partitions)
        consumer: Any = next(iter(self._loops.values())).parts.consumer
        earliest = {TP(*tp): at for tp, at in (await consumer.earliest_offsets(*partitions)).items()}
        prepared = []
        for tp in sorted(partitions):
            loop = self._loops[tp.topic]
            loop.topic_id = topic_ids[tp.topic]
            prepared.append(self._prepare_or_end(loop, tp, positions[tp], earliest[tp]))
        # To the end of all of them: one that went on alone would admit its partition into a later generation.
        ends = await asyncio.gather(*prepared, return_exceptions=True)
        faults = [end for end in ends if isinstance(end, Exception)]
        for fault in sorted(faults, key=lambda one: isinstance(one, (Fenced, InterruptedError))):
            raise fault

    async def _prepare_or_end(self, loop: Loop, tp: TP, position: tuple[int, Range | None], earliest: int) -> None:
        try:
            await self._prepare_one(loop, tp, position, earliest)
        except (Fenced, InterruptedError):
            raise
        except Exception:
            self._stop_rebuilds.set()  # an unknown failure ends the process now, not after minutes of other rebuilds
            raise

    async def _prepare_one(self, loop: Loop, tp: TP, position: tuple[int, Range | None], earliest: int) -> None:
        applied = loop.seen.applied(tp.partition)
        if applied is not None and applied.topic_id != loop.topic_id:
            log.warning("topic was re-created: its old dedupe state is dropped", partition=tp.partition, topic=tp.topic)
            loop.seen.forget(tp.partition)
            applied = None
            # A commit without a range says nothing of its topic: the worker that had this state may have made it for
            # the former one. What is done already is left out by its rows.
            if position[1] is None:
                position = (NOTHING_COMMITTED, None)
        resume, pending = resume_at(position, applied, loop.topic_id, earliest)
        if NOTHING_COMMITTED < position[0] < earliest:
            gone = earliest - position[0]
            log.error("retention has passed the committed offset", topic=tp.topic, partition=tp.partition, records=gone)
        if applied is None:
            loop.beginnings.add(tp)
        await self._fill_gap(loop, tp, applied, earliest, resume)
        if pending is not None:
            loop.replays[tp] = pending.again()
            await loop.parts.consumer.admit(tp, resume, (pending.first, pending.last))
        else:
            if resume != position[0]:
                loop.parts.progress.close(tp, resume)
            await loop.parts.consumer.admit(tp, resume)
        loop.durable[tp] = resume - 1
        self._rebuilding.discard(tp)
        log.info("partition ready", topic=tp.topic, partition=tp.partition, offset=resume, replays=pending is not None)

    async def _fill_gap(self, loop: Loop, tp: TP, applied: Applied | None, earliest: int, resume: int) -> None:
        """Bring the dedupe state up to `resume`: keep it when it is there, else read what is missing."""
        first = max(earliest, applied.offset + 1 if applied is not None else 0)
        if first >= resume:
            return
        gap = Gap(tp, loop.topic_id, first, resume - 1, loop.pipeline.dead.name)
        identify = loop.pipeline.form.identify
        work = partial(rebuild, self._settings.kafka_url, gap, loop.seen, self._stop_rebuilds, identify)
        records = await asyncio.to_thread(work)
        metrics.REBUILT.labels(loop.pipeline.name).inc(records)
        log.info("dedupe state rebuilt", topic=tp.topic, partition=tp.partition, records=records)

    def _report(self) -> None:
        for topic, loop in self._loops.items():
            count = sum(tp.topic == topic for tp in self._owned)
            metrics.ASSIGNED.labels(loop.pipeline.name).set(count)


def resume_at(
    position: tuple[int, Range | None], applied: Applied | None, topic_id: str, earliest: int
) -> tuple[int, Range | None]:
    """Where to go on, and the range to replay first, from what Kafka and the local state say. Pure.

    `position` is the committed offset and the pending range; `applied` what the local state has made durable.
    """
    committed, pending = position
    if pending is not None and (pending.topic_id != topic_id or pending.last < earliest):
        # Another incarnation of the topic, or retention has passed the range: nothing of it is left to replay.
        committed, pending = (NOTHING_COMMITTED if pending.topic_id != topic_id else committed), None
    resume = max(committed, earliest)
    if pending is not None:
        if applied is None or applied.offset < pending.last:
            return max(pending.first, earliest), pending
        # Killed between "remember" and "commit": the range is durable, only its commit is missing.
        pending = None
    if applied is not None and applied.offset >= resume:
        resume = applied.offset + 1
    return resume, pending


def describe(bootstrap: str, topics: set[str], timeout_s: float = DESCRIBE_TIMEOUT_S) -> dict[str, str]:
    """The id of each topic's present incarnation. Raises LookupError for a topic that does not exist."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    found = admin.describe_topics(TopicCollection(sorted(topics)), request_timeout=timeout_s)
    ids: dict[str, str] = {}
    for name, future in found.items():
        try:
            ids[name] = str(future.result().topic_id)
        except Exception as error:
            raise LookupError(f"topic {name}: {error}; `./afluente topics apply` creates what is missing") from error
    return ids
