"""SIGKILL at each step of the mirror's loop: rows equal the database's, and events are unique by id, none missing."""

import shutil
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from agents.bills import mirror
from app.cdc import Captured
from infra.local.stack import Stack
from schemas.bills import KEYS
from schemas.emits import BILLS_EVENTS
from tests.fault.case import FULL
from tests.support.changes import Database, record
from tests.support.mirrored import Mirrored, send
from tests.support.traffic import Channel
from tests.support.workers import Fleet

STEPS = (
    "1_take", "2_open", "3_inspect", "4_dedupe", "5_process", "6_insert", "6_produce", "6_write", "7_remember",
    "8_commit",
)  # fmt: skip
# Before the write nothing has left the process, as tests/fault/test_killed_steps.py shows at every step.
SHORT_STEPS = ("2_open", "6_insert", "6_produce", "7_remember")
ROWS = 60
OTHER_ROWS = 25  # a worker that cut anew would cut elsewhere
ACTS = 240


@dataclass(slots=True)
class Life:
    """A tenant's history on its way, and what becomes of it."""

    fleet: Fleet
    mirrored: Mirrored
    channel: Channel
    database: Database

    def die_at(self, failpoint: str) -> None:
        """A worker that takes the history and is killed there."""
        worker = self.fleet.start(failpoints=failpoint, batch_rows_max=ROWS, wait=False)
        assert worker.await_exit() == -signal.SIGKILL
        assert self.fleet.fired(failpoint.partition("=")[0])

    def judge(self) -> int:
        """Rows and events against the database. Returns how many events are there more than once."""
        successor = self.fleet.start(batch_rows_max=OTHER_ROWS, wait=False)
        self.mirrored.await_quiet(lambda: successor.run_for(0.01))
        assert self.mirrored.differences(self.database) == [], successor.tail()
        form = Captured(KEYS)
        good, _ = form.inspect([record(offset, change) for offset, change in enumerate(self.database.changes)])
        wanted = {event.id for _, event in mirror.process(form.events(good)).produced[BILLS_EVENTS]}
        told = self.mirrored.events(self.database.tenant)
        values = {event_id: value for event_id, _, value in told}
        assert values.keys() == wanted
        assert all(values[event_id] == value for event_id, _, value in told), "two events under one id"
        return len(told) - len(wanted)


@pytest.fixture
def life(stack: Stack, fleet: Fleet, channel: Channel) -> Iterator[Life]:
    fleet.kill_all()
    fleet.rearm()
    database = Database(str(uuid.uuid4()))
    database.wander(ACTS, 5)
    send(channel, [*database.changes, *database.changes[::9]])
    yield Life(fleet, Mirrored(stack.settings), channel, database)
    fleet.kill_all()


@pytest.mark.parametrize("step", STEPS if FULL else SHORT_STEPS)
def test_killed_while_it_mirrors_at(life: Life, step: str) -> None:
    """The next worker finishes the range: every version is there, and an event that is told again keeps its id."""
    life.die_at(f"{step}=kill@2")
    again = life.judge()
    # Between producing and remembering, the events are out and nothing remembers it: only their ids can tell.
    assert (again > 0) == (step in {"6_produce", "6_write"})


@pytest.mark.parametrize("step", ["6_produce", "7_remember"] if FULL else ["7_remember"])
def test_killed_while_it_mirrors_and_its_disk_lost_at(life: Life, step: str) -> None:
    """With its state gone too, another worker rebuilds it from the changes, and the ids of events are the same."""
    life.die_at(f"{step}=kill@2")
    shutil.rmtree(life.fleet.home / "worker")
    again = life.judge()
    assert again > 0
