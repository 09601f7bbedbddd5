"""Produce to queryable: how long an event takes until a query finds it, at a trickle and at half load.

The trickle goes through the edge, one event a request, timed from its answer. Half load goes into Kafka, timed from
the moment of producing: a record is queryable once its partition's highest offset in the table has reached it.
"""

import asyncio
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
from confluent_kafka import Message, Producer

from infra.local.stack import Stack
from loadtest import corpus
from loadtest.arena import TABLE, Arena
from loadtest.corpus import Shape
from loadtest.drive import Drive, percentiles
from loadtest.history import History, Stream
from loadtest.rows import Rows
from loadtest.tenants import dismiss, hire
from loadtest.traffic import TRACKING, Traffic
from schemas.topics import TRACKING_COLLECTED

TRICKLE_RATE = 100.0  # events a second
TRICKLE_S = 20.0
HALF_LOAD_S = 15.0
PROBE_EVERY = 97  # one record in so many is timed: a prime, so that no partition is preferred
SLICE_S = 0.01  # the producer's clock
LOOK_S = 0.1  # each look reads two columns of all rows: more of them would be part of what is measured
UNSEEN_S = 30.0
BUSY = "MEMORY_LIMIT_EXCEEDED"  # inserts have all that the engine may use

Tell = Callable[[str], None]


def measure(stack: Stack, tell: Tell, half_rate: int) -> dict[str, Any]:
    """Both, the trickle with the stack's own worker, half load with one of the arena."""
    # What the contest left in the topic would be carried first.
    stack.stop("worker")
    corpus.create(stack.settings, TRACKING_COLLECTED.name, TRACKING_COLLECTED.partitions)
    stack.start("worker")
    trickle = _trickle(stack)
    tell(f"trickle of {TRICKLE_RATE:.0f}/s: {trickle}")
    stack.stop("worker")
    half = _HalfLoad(Arena(stack), half_rate).measure()
    tell(f"half load of {half_rate}/s: {half}")
    return {"trickle": trickle, "half_load": half}


def _trickle(stack: Stack) -> dict[str, Any]:
    settings = stack.settings
    hired = hire(settings, "bench", 1)
    rows = Rows(settings)
    try:
        times = asyncio.run(_drive(f"http://127.0.0.1:{settings.edge_port}", Traffic(hired[0].sender, seed=1), rows))
    finally:
        rows.close()
        dismiss(settings, hired)
    found = percentiles(times)
    return {"events_per_s": TRICKLE_RATE, "probes": found["probes"], **_seconds(times)}


def _seconds(times_ms: list[float]) -> dict[str, float]:
    points = statistics.quantiles(times_ms, n=100, method="inclusive")
    return {"p50_s": round(points[49] / 1000, 3), "p99_s": round(points[98] / 1000, 3)}


async def _drive(address: str, traffic: Traffic, rows: Rows) -> list[float]:
    stop, done = asyncio.Event(), asyncio.Event()
    async with httpx.AsyncClient(base_url=address, timeout=10.0, trust_env=False) as client:
        drive = Drive(client, traffic, History())
        async with asyncio.TaskGroup() as group:
            group.create_task(drive.watch(rows, Stream(traffic.sender.tenant_id, TRACKING), done))
            probes = group.create_task(drive.repeat(TRICKLE_RATE, drive.probe, stop))
            await asyncio.sleep(TRICKLE_S)
            stop.set()
            await probes
            deadline = time.monotonic() + UNSEEN_S
            while drive.unseen and time.monotonic() < deadline:  # noqa: ASYNC110 - the watcher sets no event
                await asyncio.sleep(0.1)
            done.set()
    if drive.unseen:
        raise RuntimeError(f"{drive.unseen} of {len(drive.probes)} events were not queryable after {UNSEEN_S} s")
    return drive.latencies_ms()


class _HalfLoad:
    """A steady stream into a topic whose worker has nothing else to do."""

    def __init__(self, arena: Arena, rate: int) -> None:
        self.arena = arena
        self.rate = rate
        self.waiting: list[tuple[int, int, float]] = []  # partition, offset, produced at
        self.lock = threading.Lock()
        self.times_ms: list[float] = []

    def measure(self) -> dict[str, Any]:
        """Seconds from producing to queryable."""
        corpus.create(self.arena.settings, TRACKING_COLLECTED.name, TRACKING_COLLECTED.partitions)
        made = list(corpus.events(Shape(int(self.rate * HALF_LOAD_S), duplicates_every=1 << 60)))
        with self.arena.ground() as database, self.arena.workers(database, 1, 1, {}):
            # The first records show that the worker is there; they are not timed.
            corpus.fill(self.arena.settings, TRACKING_COLLECTED.name, Shape(1_000))
            deadline = time.monotonic() + UNSEEN_S * 2
            while not self.arena.rows(database) and time.monotonic() < deadline:
                time.sleep(LOOK_S)
            producing = threading.Thread(target=self._produce, args=(made,))
            producing.start()
            deadline = time.monotonic() + HALF_LOAD_S + UNSEEN_S
            while (producing.is_alive() or self.waiting) and time.monotonic() < deadline:
                self._look(database)
                time.sleep(LOOK_S)
            producing.join()
        if self.waiting:
            raise RuntimeError(f"{len(self.waiting)} records were not queryable after {UNSEEN_S} s")
        return {"events_per_s": self.rate, "probes": len(self.times_ms), **_seconds(self.times_ms)}

    def _look(self, database: str) -> None:
        table = f"{database}.{TABLE}"
        query = f"SELECT _partition, max(_offset) FROM {table} GROUP BY _partition FORMAT TabSeparated"  # noqa: S608
        try:
            answer = self.arena.ask(query)
        except RuntimeError as error:
            if BUSY not in str(error):
                raise
            return  # the next look tells
        reached = dict(tuple(map(int, line.split())) for line in answer.splitlines())
        now = time.monotonic()
        with self.lock:
            left = [probe for probe in self.waiting if reached.get(probe[0], -1) < probe[1]]
            seen = [probe for probe in self.waiting if reached.get(probe[0], -1) >= probe[1]]
            self.waiting = left
        self.times_ms += [(now - at) * 1000 for _, _, at in seen]

    def _produce(self, made: list[Any]) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self.arena.settings.kafka_url,
                "partitioner": "murmur2_random",
                "compression.type": "lz4",
                "linger.ms": 5,
            }
        )
        began, sent = time.monotonic(), 0
        while sent < len(made):
            due = min(len(made), int((time.monotonic() - began) * self.rate))
            for value, key, envelope, _ in made[sent:due]:
                sent += 1
                told = self._told(time.monotonic()) if not sent % PROBE_EVERY else None
                producer.produce(TRACKING_COLLECTED.name, value, key, headers=envelope, on_delivery=told)
            producer.poll(0)
            time.sleep(SLICE_S)
        producer.flush(UNSEEN_S)

    def _told(self, at: float) -> Callable[[Any, Message], None]:
        def delivered(error: Any, record: Message) -> None:
            if error is None:
                with self.lock:
                    self.waiting.append((record.partition() or 0, record.offset() or 0, at))

        return delivered
