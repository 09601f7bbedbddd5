"""SIGKILL at random moments under traffic, start-up and rebuild included. The seed is in the name of the case."""

import random

import pytest

from tests.fault.case import FULL, Case

SEEDS = range(200 if FULL else 5)
CREWS = (1, 2, 1, 4, 1)  # workers, by seed
KILLS = 2
EVENTS_A_SECOND = 600
PARTITIONS = 8  # all of them at work, each with batches of a few records: something is always in flight


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_random(case: Case, seed: int) -> None:
    """Wherever a worker is when it dies, what it and its peers leave is enough: every event is one row."""
    chance = random.Random(seed)
    case.oracle.forget()
    case.spread(PARTITIONS)
    names = [f"w{number}" for number in range(CREWS[seed % len(CREWS)])]
    case.fleet.ensure(linger_ms=0)
    for name in names[1:]:
        case.fleet.start(name, linger_ms=0, wait=False)
    open_ranges = 0
    with case.traffic.flowing(EVENTS_A_SECOND):
        for _ in range(KILLS):
            worker = case.fleet.workers[chance.choice(names)]
            if chance.random() < 0.8:
                worker.await_ready()
            worker.run_for(chance.uniform(0.1, 1.5))
            worker.kill()
            open_ranges += len(case.oracle.pending())
            case.fleet.start(worker.name, batch_rows_max=chance.choice((150, 50, 1_000)), wait=False)
        case.lifted()
        for name in names:
            case.fleet.workers[name].await_ready()
    case.fired = f"{KILLS} kills among {len(names)}, {open_ranges} ranges open"
    case.settle()
