"""Workers come, go, die and freeze while records flow: every partition has one owner, and a former one cannot write."""

import signal
import time

import pytest

from app.batch import TP
from schemas.topics import BILLS_CHANGES, GATEWAY_RECEIVED, TRACKING_COLLECTED
from tests.fault.case import FROZEN, FULL, Case
from tests.support.children import poll
from tests.support.workers import Worker

PARTITIONS = sum(topic.partitions for topic in (TRACKING_COLLECTED, GATEWAY_RECEIVED, BILLS_CHANGES))
EVENTS_A_SECOND = 300
STORM_S = 60.0 if FULL else 12.0
MOVE_EVERY_S = 2.0
LONE, SPARE = "w0", "w1"


def share(workers: list[Worker]) -> bool:
    """Whether these workers own every partition, each of them once."""
    owned = [partition for worker in workers for partition in worker.assigned()]
    return len(owned) == len(set(owned)) == PARTITIONS and all(worker.assigned() for worker in workers)


@pytest.mark.full
def test_one_two_four_one(case: Case) -> None:
    """1 -> 2 -> 4 -> 1 workers under traffic: nothing is lost, and early ids are known to the last owner."""
    fleet, traffic = case.fleet, case.traffic
    fleet.ensure(LONE)
    early = traffic.burst(300)
    with traffic.flowing(EVENTS_A_SECOND):
        fleet.start(SPARE)
        poll(lambda: share([fleet.workers[name] for name in (LONE, SPARE)]), "two workers share the partitions")
        fleet.start("w2", wait=False)
        fleet.start("w3", wait=False)
        four = [fleet.workers[name] for name in (LONE, SPARE, "w2", "w3")]
        poll(lambda: share(four), "four workers share the partitions")
        for worker in four:
            worker.await_ready()
        four[3].signal(signal.SIGTERM)
        four[1].kill()
        assert four[3].await_exit() == 0
        four[2].signal(signal.SIGTERM)
        assert four[2].await_exit() == 0
        case.lifted()
        poll(lambda: share(four[:1]), "the last worker owns everything")
    case.fired = "2 SIGTERM, 1 SIGKILL"
    traffic.again(early)
    case.settle()
    assert fleet.workers[LONE].alive


@pytest.mark.parametrize("place", ["before_insert", pytest.param("in_insert", marks=pytest.mark.full)])
def test_frozen_beyond_its_session(case: Case, place: str) -> None:
    """A worker that wakes up after its partitions were given away finishes its insert and changes nothing."""
    fleet, traffic = case.fleet, case.traffic
    fleet.kill_all()
    if place == "before_insert":
        frozen = case.start_variant("freezes")
        traffic.burst(300)
        poll(lambda: fleet.fired(FROZEN), "the worker has frozen itself")
    else:
        frozen = fleet.start(LONE)
        case.stack.kill("clickhouse", signal.SIGSTOP)
        traffic.burst(300)
        poll(case.oracle.pending, "a range is open")
        frozen.signal(signal.SIGSTOP)
        case.stack.kill("clickhouse", signal.SIGCONT)
    pending = case.oracle.pending()
    assert pending
    case.fired = f"{len(pending)} ranges open"
    heir = fleet.start(SPARE)
    poll(lambda: share([heir]), "the heir owns everything")
    traffic.burst(150)
    case.quiet()
    before = case.oracle.positions()
    case.lifted()
    frozen.signal(signal.SIGCONT)
    poll(lambda: was_fenced(frozen), f"the former owner is told\n{frozen.tail()}")
    assert case.oracle.positions() == before
    traffic.burst(150)
    poll(lambda: share([frozen, heir]), "both share the partitions again")
    case.settle()
    assert frozen.alive


def test_killed_during_a_rebalance(case: Case) -> None:
    """The owner dies while partitions move from it to a newcomer: who is left finds every range, and finishes it."""
    fleet, traffic = case.fleet, case.traffic
    case.spread(6)
    traffic = case.traffic
    owner = fleet.ensure(LONE, linger_ms=0)
    with traffic.flowing(2 * EVENTS_A_SECOND):
        owner.run_for(1)
        newcomer = fleet.start(SPARE, linger_ms=0, wait=False)
        known = len(owner.lines("partitions assigned"))
        poll(lambda: newcomer.assigned() or len(owner.lines("partitions assigned")) > known, "the group rebalances")
        owner.kill()
        pending = len(case.oracle.pending())
        case.lifted()
        poll(lambda: share([newcomer]), "the newcomer owns everything")
    case.fired = f"{pending} ranges open"
    case.settle()


def test_workers_come_and_go(case: Case) -> None:
    """Every two seconds one joins or leaves, calmly or not: no committed offset ever goes back, and work goes on."""
    fleet = case.fleet
    case.spread(6)
    fleet.ensure(LONE)
    seen: dict[TP, int] = {}
    back: list[str] = []

    def look() -> None:
        for tp, (at, _) in case.oracle.positions().items():
            if at < seen.get(tp, -1):
                back.append(f"{tp}: {seen[tp]} -> {at}")
            seen[tp] = max(at, seen.get(tp, -1))

    moves = 0
    ends = time.monotonic() + STORM_S
    with case.traffic.flowing(EVENTS_A_SECOND):
        while time.monotonic() < ends:
            again = time.monotonic() + MOVE_EVERY_S
            spare = fleet.workers.get(SPARE)
            if spare is None or not spare.alive:
                fleet.start(SPARE, wait=False)
            else:
                spare.signal(signal.SIGKILL if moves % 4 == 1 else signal.SIGTERM)
                spare.await_exit()
            moves += 1
            poll(lambda until=again: look() or time.monotonic() > until, "the next move", every_s=0.3)
        case.lifted()
    case.fired = f"{moves} moves in {STORM_S:.0f} s"
    case.settle()
    assert not back, back
    assert fleet.workers[LONE].alive


def was_fenced(worker: Worker) -> bool:
    """Whether its log, or its Kafka client's, says that the group went on without it."""
    words = (
        "fenced",
        "revoked in flight",
        "revoked before",
        "OffsetCommit failed",
        "Heartbeat failed: local member_id",
    )
    return any(str(line.get("event", "")).startswith(words) for line in worker.lines())
