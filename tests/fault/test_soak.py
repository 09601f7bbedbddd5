"""Faults of all kinds, drawn from a seed, for as long as SOAK_MINUTES says, counted leg by leg.

After each leg everything since the beginning is counted, ClickHouse may merge what was counted, and what the workers
hold is noted. `make soak MINUTES=20 SEED=7`. The short form runs a quarter of a minute, so that it cannot rot.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import pytest

from tests.fault.case import Case
from tests.support.children import poll
from tests.support.proxy import Fault, Proxy
from tests.support.workers import Worker

SECONDS = float(os.environ.get("SOAK_MINUTES", "0.25")) * 60
SEED = int(os.environ.get("SOAK_SEED", "1"))
EVENTS_A_SECOND = 150
CALM_S = (1.0, 5.0)  # between two faults
FROZEN_S = (1.0, 8.0)
WORKERS = ("w0", "w1")
LEG_S = 120.0  # short enough that parts nobody may merge do not slow the inserts down
QUIET_S = 240.0
SETTINGS = {"linger_ms": 50, "clickhouse_timeout_s": 3}
MIB = 1 << 20
# What a worker may hold at the end, however long it ran: a leak passes these within an hour.
FILES_MAX, THREADS_MAX = 400, 60
RSS_MIB_MAX = 450
FLAT = 1.5  # the last half of the legs may hold so much of what the first half held
LINES = (Fault(drop_answers=True), Fault(blackhole=True), Fault(latency_s=0.3, jitter_s=0.2), Fault(slice_bytes=64))


class Soak:
    """The faults, each one a method, over one case."""

    def __init__(self, case: Case, proxy: Proxy, seed: int) -> None:
        self.case = case
        self.proxy = proxy
        self.chance = random.Random(seed)
        self.done: Counter[str] = Counter()

    def run(self, seconds: float) -> None:
        """One fault after the other until the time is over."""
        kinds: list[Callable[[], None]] = [
            self.worker_killed,
            self.worker_frozen,
            self.worker_leaves,
            self.clickhouse_killed,
            self.clickhouse_frozen,
            self.kafka_killed,
            self.kafka_frozen,
            self.line_broken,
            self.poison,
        ]
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            kind = self.chance.choice(kinds)
            kind()
            self.done[kind.__name__] += 1
            self.wait(CALM_S)
            self.mend()

    def mend(self) -> None:
        """Every worker runs, as a supervisor would have it."""
        for name in WORKERS:
            worker = self.case.fleet.workers.get(name)
            if worker is None or not worker.alive:
                self.start(name)

    def start(self, name: str) -> Worker:
        return self.case.fleet.start(name, wait=False, clickhouse_url=f"http://{self.proxy.address}", **SETTINGS)

    def wait(self, span_s: tuple[float, float]) -> None:
        until = time.monotonic() + self.chance.uniform(*span_s)
        poll(lambda: time.monotonic() > until, "time passes")

    def worker(self) -> Worker:
        return self.case.fleet.workers[self.chance.choice(WORKERS)]

    def worker_killed(self) -> None:
        self.worker().kill()

    def worker_frozen(self) -> None:
        worker = self.worker()
        worker.signal(signal.SIGSTOP)
        self.wait(FROZEN_S)
        worker.signal(signal.SIGCONT)

    def worker_leaves(self) -> None:
        self.worker().signal(signal.SIGTERM)
        self.wait(CALM_S)

    def clickhouse_killed(self) -> None:
        self._part_killed("clickhouse")

    def clickhouse_frozen(self) -> None:
        self._part_frozen("clickhouse")

    def kafka_killed(self) -> None:
        self._part_killed("kafka")

    def kafka_frozen(self) -> None:
        self._part_frozen("kafka")

    def line_broken(self) -> None:
        with self.proxy.broken(self.chance.choice(LINES)):
            self.proxy.reset_all()
            self.wait(FROZEN_S)

    def poison(self) -> None:
        self.case.traffic.burst(100, poisons=5)

    def _part_killed(self, name: str) -> None:
        restarts = self.case.stack.records()[name].restarts
        self.case.stack.kill(name)
        self.case.stack.wait(name, restarts + 1)

    def _part_frozen(self, name: str) -> None:
        self.case.stack.kill(name, signal.SIGSTOP)
        try:
            self.wait(FROZEN_S)
        finally:
            self.case.stack.kill(name, signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class Held:
    """What a leg left behind: the most of any worker, all of their RocksDB, the parts once they were merged."""

    rss_mib: int
    files: int
    threads: int
    rocksdb_mib: int
    parts: int


def held_by(case: Case) -> Held:
    """The same, now; the merges of what was counted are waited for."""
    workers = [case.fleet.workers[name] for name in WORKERS if case.fleet.workers[name].alive]
    folder = case.fleet.home / "worker"
    return Held(
        rss_mib=max(one.rss_bytes for one in workers) // MIB,
        files=max(one.open_files for one in workers),
        threads=max(one.threads for one in workers),
        rocksdb_mib=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // MIB,
        parts=case.oracle.let_merge(),
    )


def in_words(legs: Sequence[Held]) -> str:
    """One figure a leg, of each kind."""
    kinds = [one.name for one in fields(Held)]
    return "; ".join(f"{kind} {' '.join(str(getattr(leg, kind)) for leg in legs)}" for kind in kinds)


def require_flat(legs: Sequence[Held]) -> None:
    """Nothing that a worker holds passes its bound, or grows from the first half of the legs to the second."""
    half = len(legs) // 2
    for field, most in (("rss_mib", RSS_MIB_MAX), ("files", FILES_MAX), ("threads", THREADS_MAX)):
        figures = [getattr(leg, field) for leg in legs]
        assert max(figures) < most, (field, figures)
        assert not half or max(figures[half:]) < FLAT * max(figures[:half]), (field, figures)


def test_a_leak_is_seen() -> None:
    """What grows from leg to leg is called a leak, long before it passes a bound."""
    legs = [Held(rss_mib=100 + 40 * n, files=90, threads=16, rocksdb_mib=8, parts=9) for n in range(5)]
    with pytest.raises(AssertionError, match="rss_mib"):
        require_flat(legs)


def test_soak(case: Case) -> None:
    """After faults of every kind in any order, everything is there once, and what the workers hold has not grown."""
    proxy = Proxy(case.stack.settings.clickhouse_port, seed=SEED)
    soak = Soak(case, proxy, SEED)
    case.fleet.kill_all()
    case.spread(8)
    legs: list[Held] = []
    try:
        left_s = SECONDS
        while left_s > 0:
            soak.mend()
            with case.traffic.flowing(EVENTS_A_SECOND):
                for name in WORKERS:
                    case.fleet.workers[name].await_ready()
                soak.run(min(LEG_S, left_s))
                case.lifted()
                soak.mend()
            left_s -= LEG_S
            counts = ", ".join(f"{n} {k}" for k, n in sorted(soak.done.items()))
            case.fired = f"seed {SEED}, {SECONDS:.0f} s: {counts}"
            case.settle(check=soak.mend, timeout_s=QUIET_S)
            legs.append(held_by(case))
            case.fired += f"; leg by leg: {in_words(legs)}"
            case.told_in_row()
        require_flat(legs)
    finally:
        case.fleet.kill_all()
        proxy.close()
        case.oracle.forbid_merges()
