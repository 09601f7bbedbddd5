"""Faults of all kinds, drawn from a seed, for as long as SOAK_MINUTES says; then everything is counted.

`make soak MINUTES=20 SEED=7`. The short form runs a quarter of a minute of it, so that it cannot rot.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx

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
QUIET_S = 240.0
SETTINGS = {"linger_ms": 50, "clickhouse_timeout_s": 3}
MIB = 1 << 20
# What a worker may hold at the end, however long it ran: a leak passes these within an hour.
FILES_MAX, THREADS_MAX = 400, 60
RSS_BYTES_MAX = 450 * MIB
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


def folder_bytes(folder: Path) -> int:
    """What lies in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def parts_of(case: Case) -> int:
    """How many active parts the events' table has."""
    query = "SELECT count() FROM system.parts WHERE active AND table = 'tracking_events'"
    return int(httpx.post(case.stack.settings.clickhouse_url, content=query, timeout=30, trust_env=False).text)


def test_soak(case: Case) -> None:
    """After faults of every kind in any order, everything is there once, and what the workers hold has not grown."""
    proxy = Proxy(case.stack.settings.clickhouse_port, seed=SEED)
    soak = Soak(case, proxy, SEED)
    case.fleet.kill_all()
    case.spread(8)
    try:
        soak.mend()
        with case.traffic.flowing(EVENTS_A_SECOND):
            for name in WORKERS:
                case.fleet.workers[name].await_ready()
            parts = parts_of(case)
            soak.run(SECONDS)
            case.lifted()
            soak.mend()
        case.fired = f"seed {SEED}, {SECONDS:.0f} s: " + ", ".join(f"{n} {k}" for k, n in sorted(soak.done.items()))
        case.settle(check=soak.mend, timeout_s=QUIET_S)
        held = [case.fleet.workers[name] for name in WORKERS if case.fleet.workers[name].alive]
        state = folder_bytes(case.fleet.home / "worker")
        case.fired += (
            f"; at the end RSS {max(one.rss_bytes for one in held) // MIB} MiB,"
            f" {max(one.open_files for one in held)} files, {max(one.threads for one in held)} threads,"
            f" RocksDB {state // MIB} MiB, parts {parts} -> {parts_of(case)} without merges"
        )
        case.told_in_row()
        for worker in held:
            assert worker.open_files < FILES_MAX
            assert worker.threads < THREADS_MAX
            assert worker.rss_bytes < RSS_BYTES_MAX
    finally:
        case.fleet.kill_all()
        proxy.close()
