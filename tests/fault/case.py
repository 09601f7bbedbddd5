"""One case of the fault suite: its workers, its traffic, its verdict, and its line in the table of the run."""

import os
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from app.batch import TP
from app.ranges import Range
from infra.local.stack import Stack
from loadtest.history import Outcome, Stream
from loadtest.traffic import TRACKING
from tests.fault.results import CAUGHT, NOT_CAUGHT, NOT_RUN, RIGHT, WRONG, Results, Row
from tests.support.children import Child
from tests.support.edges import MODULE as EDGE_MODULE
from tests.support.edges import Edge
from tests.support.oracle import Finding, Oracle
from tests.support.proxy import Proxies
from tests.support.tenants import Tenant, hire
from tests.support.traffic import Channel, Traffic
from tests.support.workers import Fleet, Worker

QUIET_S = 90.0
FULL = os.environ.get("FULL") == "1"  # many seeds instead of a few: for a night, not for a commit

# How tests/fault/mutants.py is started. It cannot be imported here: it makes a worker of the environment.
MUTANTS = "tests.fault.mutants"
VARIANT = "FAULT_VARIANT"
EDGE_NAME = "edge"
LATE_POINT = "9_dead_letters"  # a failpoint behind the commit, where no DLQ record may be on its way
FROZEN = "frozen"  # the mark that the freezing worker leaves, beside those of the failpoints

KEPT = ""  # the home of a run that failed


def short_or_full(values: Iterable[str], short: Collection[str]) -> list[Any]:
    """Parameters of which the short form has those of `short`."""
    return [pytest.param(value, marks=[] if value in short else [pytest.mark.full]) for value in values]


@dataclass(slots=True)
class Case:
    """What a test works with. `id` names its row for good; `fault` and `fired` are what it writes into it."""

    stack: Stack
    fleet: Fleet
    oracle: Oracle
    channel: Channel
    results: Results
    id: str
    fault: str
    fired: str = ""
    lifted_at: float = 0.0
    proxied_url: str = ""  # Kafka behind lines that can be broken; only a case on the cluster has them
    proxies: Proxies = field(default_factory=Proxies)
    traffic: Traffic = field(init=False)
    others: list[Child] = field(default_factory=list)  # edges and servers of this case alone: they end with it
    again: set[str] = field(default_factory=set)  # marks of former poison that this case offers once more
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

    def start_edge(self, module: str = EDGE_MODULE, environ: Mapping[str, str] | None = None, **settings: Any) -> Edge:
        """An edge of this case alone, ready to be asked."""
        edge = Edge(self.fleet.environment(EDGE_NAME, settings) | (environ or {}), self.fleet.next_log("edge"), module)
        self.others.append(edge)
        return edge.await_ready()

    def hire(self, count: int) -> list[Tenant]:
        """New tenants with keys, for traffic over HTTP."""
        return hire(self.stack.settings, count)

    def note_accepted(self, tenant: str, event_ids: Sequence[str]) -> None:
        """Events that an edge has said yes to."""
        for outcome in (Outcome.INVOKED, Outcome.ACCEPTED):
            self.traffic.history.note(outcome, Stream(tenant, TRACKING), event_ids)

    def note_unknown(self, tenant: str, event_ids: Sequence[str]) -> None:
        """Events that were sent without an answer."""
        for outcome in (Outcome.INVOKED, Outcome.UNKNOWN):
            self.traffic.history.note(outcome, Stream(tenant, TRACKING), event_ids)

    def end(self) -> None:
        """Nothing of this case alone is left."""
        for child in self.others:
            if child.alive:
                child.kill()

    def lifted(self) -> None:
        """The fault is over: what follows is recovery."""
        self.lifted_at = time.monotonic()

    def quiet(self, timeout_s: float = QUIET_S, check: Callable[[], None] | None = None) -> float:
        """Wait until everything is durable; fail at once when no worker is left to do it. When a commit first moved."""
        return self.oracle.await_quiet(check or self._somebody_works, timeout_s)

    def finding(self, mutant: str, like: str, check: Callable[[], None] | None = None) -> Finding:
        """Judge a planted fault, under the fault of the case `like`: what is found must be wrong."""
        times = self._recover(check)
        found = self._judge()
        self._add(found, times, NOT_CAUGHT if found.right else CAUGHT)
        self.caught(mutant, like, caught=not found.right)
        return found

    def caught(self, mutant: str, like: str, *, caught: bool) -> None:
        """Note that the check of the case `like` has seen a planted fault, or has not."""
        self.results.mutant(mutant, like, caught=caught)

    def settle(self, check: Callable[[], None] | None = None, timeout_s: float = QUIET_S) -> Finding:
        """Wait until quiet, judge, and require that nothing is missing, twice, or strange."""
        times = self._recover(check, timeout_s)
        found = self._judge()
        self._add(found, times, RIGHT if found.right else WRONG)
        assert found.right, found
        return found

    def not_run(self, reason: str) -> None:
        """Say in the table why this machine cannot show it: never pass over it."""
        self.results.add(Row(self.id, self.fault, reason, NOT_RUN))

    def told(self, verdict: str = RIGHT) -> None:
        """A row without counts: what was tested is not about rows."""
        self.results.add(Row(self.id, self.fault, self.fired, verdict))

    def told_in_row(self) -> None:
        """What fired is known after the verdict only: into its row with it."""
        row = next(one for one in self.results.rows if one.id == self.id)
        self.results.add(replace(row, fired=self.fired))

    def _judge(self) -> Finding:
        traffic = self.traffic
        return self.oracle.judge(
            traffic.history, traffic.poison, self._dead_since, traffic.tenants, self.again, traffic.poison_copies
        )

    def _recover(self, check: Callable[[], None] | None = None, timeout_s: float = QUIET_S) -> tuple[float, float]:
        """Seconds from the end of the fault to the first commit after it, and to the last."""
        began = self.lifted_at or time.monotonic()
        moved_at = self.quiet(timeout_s, check)
        return max(0.0, moved_at - began), time.monotonic() - began

    def _add(self, found: Finding, times: tuple[float, float], verdict: str) -> None:
        recovery_s, drain_s = (round(one, 1) if self.lifted_at else None for one in times)
        counts = (found.events, found.rows, found.missing, found.duplicates, found.dead)
        self.results.add(Row(self.id, self.fault, self.fired, verdict, *counts, recovery_s, drain_s))

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
