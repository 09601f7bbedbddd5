"""Workers that are wrong on purpose, and one that freezes: the fault suite starts them in place of `agents.worker`.

`FAULT_VARIANT=no_dedupe faust -A tests.fault.mutants worker`.

A checker that finds nothing wrong with these finds nothing at all. Each breaks one rule of the loop, no other.
"""

import os
import signal
from dataclasses import replace

from agents.worker import Worker
from app.outputs import Outputs
from app.pipeline import Loop, Work
from app.settings import Settings
from app.stream import create_app
from tests.fault.case import FROZEN, VARIANT


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
    """Breaks the token of step 6: a re-created topic gets the names of the former one's ranges."""

    async def write(self, work: Work, outputs: Outputs, namespace: str = "") -> None:
        await super().write(replace(work, span=replace(work.span, topic_id="")), outputs, namespace)


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
    "freezes": Freezes,
}

app = create_app(Settings.load())
worker = Worker(app.settings, app, VARIANTS[os.environ[VARIANT]])
