"""SIGKILL at each step of the loop, at its exact line: the range that was open is finished with the same bounds."""

import shutil
import signal

import pytest

from tests.fault.case import Case, finished_by

STEPS = (
    "1_take", "2_open", "3_inspect", "4_dedupe", "5_process", "6_insert", "6_write", "7_remember", "8_commit",
)  # fmt: skip
STATE_IS_AHEAD = ("7_remember", "8_commit")  # the local state has the range; only its commit is missing
ROWS = 150
OTHER_ROWS = 60  # a worker that cut anew would cut elsewhere


@pytest.mark.parametrize("step", STEPS)
def test_killed_at(case: Case, step: str) -> None:
    """Killed at a step, with batches done before it and others open beside it: every event is one row."""
    case.fleet.kill_all()
    case.traffic.burst(450)
    worker = case.fleet.start(failpoints=f"{step}=kill@3", batch_rows_max=ROWS, wait=False)
    assert worker.await_exit() == -signal.SIGKILL
    assert case.fleet.fired(step)
    pending = case.oracle.pending()
    assert pending or step == "1_take"
    case.fired = f"{len(pending)} ranges open"
    case.traffic.burst(150)
    case.lifted()
    successor = case.fleet.start(batch_rows_max=OTHER_ROWS, wait=False)
    case.settle()
    ways = [finished_by(successor, span) for span in pending]
    assert all(ways), (pending, ways, successor.tail())
    if step in STATE_IS_AHEAD:
        assert "committed" in ways


def test_killed_three_times_in_the_same_range(case: Case) -> None:
    """However often a range is cut short, and wherever, its bounds stay those of its first attempt."""
    case.fleet.kill_all()
    tenant = case.traffic.tenants[:1]
    case.traffic.tenants[:] = tenant
    case.traffic.burst(300)
    seen = []
    for step, rows in (("6_insert", ROWS), ("4_dedupe", OTHER_ROWS), ("6_write", ROWS * 4)):
        worker = case.fleet.start(failpoints=f"{step}=kill", batch_rows_max=rows, wait=False)
        assert worker.await_exit() == -signal.SIGKILL
        assert case.fleet.fired(step)
        seen.append(case.oracle.pending())
    assert len(seen[0]) == 1
    assert seen[0] == seen[1] == seen[2]
    case.fired = "3 times"
    case.lifted()
    successor = case.fleet.start(batch_rows_max=OTHER_ROWS, wait=False)
    case.settle()
    assert finished_by(successor, seen[0][0]) == "replayed"


@pytest.mark.parametrize("step", ["6_insert", "7_remember"])
def test_killed_and_its_disk_lost_at(case: Case, step: str) -> None:
    """A range left open by a machine that is gone with its state is replayed by another with rebuilt state."""
    case.fleet.kill_all()
    case.traffic.burst(450)
    worker = case.fleet.start(failpoints=f"{step}=kill@2", batch_rows_max=ROWS, wait=False)
    assert worker.await_exit() == -signal.SIGKILL
    assert case.fleet.fired(step)
    pending = case.oracle.pending()
    assert pending
    case.fired = f"{len(pending)} ranges open"
    shutil.rmtree(case.fleet.home / "worker" / worker.name)
    case.traffic.burst(150)
    case.lifted()
    successor = case.fleet.start(batch_rows_max=OTHER_ROWS, wait=False)
    case.settle()
    assert [finished_by(successor, span) for span in pending] == ["replayed"] * len(pending)
