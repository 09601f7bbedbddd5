"""Clocks are wrong: a worker two hours ahead, then two hours behind, orders and dedupes by offsets all the same."""

from tests.fault.case import Case

SHIFTED = "tests.support.shifted_worker"
AHEAD_S, BEHIND_S = 7_200, -7_200


def test_clock_ahead_then_behind(case: Case) -> None:
    """The clock jumps back by four hours between two lives of a worker: no id is forgotten early, no row is lost."""
    case.fleet.kill_all()
    early = case.traffic.burst(300)
    case.fleet.start(module=SHIFTED, environ={"CLOCK_SHIFT_S": str(AHEAD_S)})
    case.quiet()
    case.fleet.kill_all()
    case.traffic.again(early)
    case.traffic.burst(150)
    case.fired = f"+{AHEAD_S} s, then {BEHIND_S} s"
    case.lifted()
    worker = case.fleet.start(module=SHIFTED, environ={"CLOCK_SHIFT_S": str(BEHIND_S)}, wait=False)
    case.settle()
    assert sum(line["duplicates"] for line in worker.lines("batch")) >= len(early)
    case.fleet.kill_all()
