"""Clocks are wrong: a worker two hours ahead, then two hours behind, orders and dedupes by offsets all the same."""

from pathlib import Path

from tests.fault.case import Case

PLACES = ("/usr/lib", "/usr/local/lib")
LIBRARY = "libfaketime.so.1"
AHEAD, BEHIND = "+7200", "-7200"  # seconds


def library() -> Path | None:
    """Where the library that shifts clocks lies."""
    return next((path for place in PLACES for path in Path(place).rglob(LIBRARY)), None)


def test_clock_ahead_then_behind(case: Case) -> None:
    """The clock jumps back by four hours between two lives of a worker: no id is forgotten early, no row is lost."""
    found = library()
    if found is None:
        case.not_run("needs libfaketime (Debian: apt-get install libfaketime)")
        return
    case.fleet.kill_all()
    shifted = {"LD_PRELOAD": str(found), "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    early = case.traffic.burst(300)
    case.fleet.start(environ={**shifted, "FAKETIME": AHEAD})
    case.quiet()
    case.fleet.kill_all()
    case.traffic.again(early)
    case.traffic.burst(150)
    case.lifted()
    worker = case.fleet.start(environ={**shifted, "FAKETIME": BEHIND}, wait=False)
    case.settle()
    case.fired = f"{AHEAD} s, then {BEHIND} s"
    case.told_in_row()
    assert sum(line["duplicates"] for line in worker.lines("batch")) >= len(early)
    case.fleet.kill_all()
