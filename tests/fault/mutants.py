"""Workers that are wrong on purpose, and one that freezes: the fault suite starts them in place of `agents.worker`.

`FAULT_VARIANT=no_dedupe faust -A tests.fault.mutants worker`.

A checker that finds nothing wrong with these finds nothing at all. Each breaks one rule of the loop, no other.
"""

import asyncio
import os
import signal
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from agents.worker import EXAMINER, Worker
from app import failpoints
from app.batch import TP
from app.dedup import Applied, Seen
from app.outputs import Outputs
from app.pipeline import Loop, Parts, Pipeline, Work
from app.producer import Producer, Record
from app.settings import Settings
from app.sinks.restoring import Beginnings
from app.stream import create_app
from app.transport import Consumer
from tests.fault import pills
from tests.fault.case import FROZEN, LATE_POINT, VARIANT

LATE_S = 0.5  # a commit takes some milliseconds


class CommitsBeforeInsert(Loop):
    """Breaks the order of steps 6 and 8."""

    async def open(self, work: Work) -> None:
        await super().open(work)
        self.parts.progress.close(work.batch.tp, work.span.last + 1)
        await self.parts.progress.flush()


class DoesNotDedupe(Loop):
    """Breaks step 4: every good record is a row."""

    def dedupe(self, work: Work) -> None:
        super().dedupe(work)
        work.kept = work.good


class OpensNothing(Loop):
    """Breaks step 2: the next worker cannot know the bounds of what was in flight."""

    async def open(self, work: Work) -> None:
        return


class ForgetsTheTopicId(Loop):
    """Breaks the token of step 6: a re-created topic gets the names of the former one's ranges.

    It trusts them, too: a worker that looks for its rows at the beginning of a topic would put them back.
    """

    def __init__(self, pipeline: Pipeline, *others: Any) -> None:
        super().__init__(pipeline, *others)
        self.beginnings = Beginnings([])

    async def write(self, work: Work, outputs: Outputs, namespace: str = "") -> None:
        await super().write(replace(work, span=replace(work.span, topic_id="")), outputs, namespace)


class RecutsRanges(Loop):
    """Breaks the replay of step 1: the pending range is read, and its records are cut anew."""

    def __init__(self, pipeline: Pipeline, parts: Parts, seen: Seen) -> None:
        consumer: Any = Recutting(parts.consumer)
        super().__init__(pipeline, replace(parts, consumer=consumer), seen)


class Recutting:
    """A consumer that forgets the bounds of a replay."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    async def admit(self, tp: TP, offset: int, _replay: tuple[int, int] | None = None) -> None:
        await self._consumer.admit(tp, offset)


class DropsItsOwnRedelivery(Loop):
    """Breaks steps 4 and 7: an id is taken when it is seen, and whoever comes again with it is dropped."""

    def dedupe(self, work: Work) -> None:
        keys = [one.key for one in work.good]
        known = self.seen.known(work.span.partition, keys) if keys else {}
        super().dedupe(work)
        work.kept = [one for one in work.kept if one.key not in known]
        former = self.seen.applied(work.span.partition) or Applied(self.topic_id, work.span.first - 1)
        self.seen.remember(work.span.partition, work.fresh, former)


class WritesDeadLettersLate(Loop):
    """Breaks the order of steps 6 and 8: the range is committed while its poison is on its way to the DLQ."""

    def __init__(self, pipeline: Pipeline, parts: Parts, seen: Seen) -> None:
        producer: Any = Late(parts.producer)
        super().__init__(pipeline, replace(parts, producer=producer), seen)


class Late:
    """A producer that says yes at once and sends half a second later."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._tasks: set[asyncio.Task[None]] = set()

    async def send_many(self, records: Iterable[Record]) -> None:
        task = asyncio.create_task(self._send(list(records)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, records: list[Record]) -> None:
        await asyncio.sleep(LATE_S)
        failpoints.hit(LATE_POINT)
        await self._producer.send_many(records)

    async def close(self) -> None:
        await self._producer.close()


class DiesOfPills(Loop):
    """Right, but a build of which some records are the death: its process falls over them as a bug in C would."""

    def __init__(self, pipeline: Pipeline, *others: Any) -> None:
        super().__init__(pills.deadly(pipeline), *others)


class Freezes(Loop):
    """Right, but stops itself once between "open" and "insert", as a machine that swaps or sleeps would."""

    async def write(self, work: Work, outputs: Outputs, namespace: str = "") -> None:
        mark = self.parts.settings.home / "failpoints" / FROZEN
        if not mark.exists():
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        await super().write(work, outputs, namespace)


VARIANTS: dict[str, type[Loop]] = {
    "commits_before_insert": CommitsBeforeInsert,
    "no_dedupe": DoesNotDedupe,
    "no_pending_range": OpensNothing,
    "token_without_topic_id": ForgetsTheTopicId,
    "range_cut_anew": RecutsRanges,
    "drops_its_own_redelivery": DropsItsOwnRedelivery,
    "dead_letters_after_commit": WritesDeadLettersLate,
    "dies_of_pills": DiesOfPills,
    "freezes": Freezes,
}

app = create_app(Settings.load())
chosen = VARIANTS[os.environ[VARIANT]]
worker = Worker(app.settings, app, chosen, pills.EXAMINER if chosen is DiesOfPills else EXAMINER)
