"""One case of the fault suite: its workers, its traffic, its verdict, and its line in the table of the run."""

import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app.batch import TP
from app.ranges import Range
from infra.local.stack import Stack
from tests.support.oracle import Finding, Oracle
from tests.support.traffic import Channel, Traffic
from tests.support.workers import Fleet, Worker

QUIET_S = 90.0
FULL = os.environ.get("FULL") == "1"  # many seeds instead of a few: for a night, not for a commit

# How tests/fault/mutants.py is started. It cannot be imported here: it makes a worker of the environment.
MUTANTS = "tests.fault.mutants"
VARIANT = "FAULT_VARIANT"
FROZEN = "frozen"  # the mark that the freezing worker leaves, beside those of the failpoints

COLUMNS = ("fault", "fired", "accepted", "rows", "missing", "duplicates", "in DLQ", "recovery s", "verdict")
LINES: list[tuple[object, ...]] = []
KEPT = ""  # the home of a run that failed


@dataclass(slots=True)
class Case:
    """What a test works with. `fault` and `fired` are what it writes into its line."""

    stack: Stack
    fleet: Fleet
    oracle: Oracle
    channel: Channel
    fault: str
    fired: str = ""
    lifted_at: float = 0.0
    traffic: Traffic = field(init=False)
    _dead_since: dict[TP, int] = field(init=False)

    def __post_init__(self) -> None:
        self.fleet.rearm()
        self.traffic = Traffic(self.channel, zlib.crc32(self.fault.encode()))
        self._dead_since = self.oracle.dead_ends()

    def spread(self, tenants: int) -> None:
        """Other tenants, so many, before anything was sent: as many partitions work side by side."""
        self.traffic = Traffic(self.channel, zlib.crc32(self.fault.encode()), tenants)

    def start_variant(self, variant: str, *, wait: bool = True, **settings: Any) -> Worker:
        """The first worker, with a loop of tests/fault/mutants.py."""
        return self.fleet.start(module=MUTANTS, environ={VARIANT: variant}, wait=wait, **settings)

    def lifted(self) -> None:
        """The fault is over: what follows is recovery."""
        self.lifted_at = time.monotonic()

    def quiet(self, timeout_s: float = QUIET_S, check: Callable[[], None] | None = None) -> None:
        """Wait until everything is durable; fail at once when no worker is left to do it."""
        self.oracle.await_quiet(check or self._somebody_works, timeout_s)

    def finding(self) -> Finding:
        """Wait until quiet and judge, without an opinion: for mutants, of which a fault is expected."""
        recovered_s = self._recover()
        found = self.oracle.judge(self.traffic.history, self.traffic.poison, self._dead_since)
        self._write_line(found, recovered_s, "caught" if not found.right else "NOT CAUGHT")
        return found

    def settle(self, check: Callable[[], None] | None = None) -> Finding:
        """Wait until quiet, judge, and require that nothing is missing, twice, or strange."""
        recovered_s = self._recover(check)
        found = self.oracle.judge(self.traffic.history, self.traffic.poison, self._dead_since)
        self._write_line(found, recovered_s, "right" if found.right else "WRONG")
        assert found.right, found
        return found

    def _recover(self, check: Callable[[], None] | None = None) -> float:
        began = self.lifted_at or time.monotonic()
        self.quiet(check=check)
        return time.monotonic() - began

    def _write_line(self, found: Finding, recovered_s: float, verdict: str) -> None:
        counts = (found.events, found.rows, found.missing, found.duplicates, found.dead)
        LINES.append((self.fault, self.fired, *counts, f"{recovered_s:.1f}", verdict))

    def _somebody_works(self) -> None:
        workers = self.fleet.workers.values()
        assert any(worker.alive for worker in workers), "no worker is alive\n" + "\n".join(self.fleet.tails())
        died = self.fleet.died()
        assert not died, "a worker stopped by itself\n" + "\n".join(worker.tail() for worker in died)


def finished_by(worker: Worker, span: Range) -> str:
    """How a worker finished a range that it found pending: "replayed" with equal bounds, "committed" as its state
    already had it, or "" when neither is in its log.
    """
    for line in worker.lines("batch"):
        if (line["partition"], line["first"], line["last"]) == (span.partition, span.first, span.last):
            return "replayed" if line["replayed"] else ""
        if line["partition"] == span.partition and line["first"] <= span.last and line["last"] >= span.first:
            return ""
    ready = [line for line in worker.lines("partition ready") if line["partition"] == span.partition]
    return "committed" if any(line["topic"] == span.topic and line["offset"] == span.last + 1 for line in ready) else ""


def table() -> list[str]:
    """The lines of all cases, aligned."""
    texts = [[str(cell) for cell in line] for line in (COLUMNS, *LINES)]
    widths = [max(len(line[n]) for line in texts) for n in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in texts]
