"""Produce to queryable: how long an event takes until a query finds it, at a trickle and at half load.

The trickle goes through the edge, one event a request, timed from its answer. Half load goes into Kafka, timed from
the moment of producing (loadtest/queryable.py).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx

from infra.local.stack import Stack
from loadtest import corpus
from loadtest.arena import Arena
from loadtest.corpus import Shape
from loadtest.drive import Drive, percentiles
from loadtest.history import History, Stream
from loadtest.queryable import UNSEEN_S, Probes, seconds
from loadtest.rows import Rows
from loadtest.tenants import dismiss, hire
from loadtest.traffic import TRACKING, Traffic
from schemas.topics import TRACKING_COLLECTED

TRICKLE_RATE = 100.0  # events a second
TRICKLE_S = 20.0
HALF_LOAD_S = 15.0

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
    half = _half_load(Arena(stack), half_rate)
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
    return {"events_per_s": TRICKLE_RATE, "probes": found["probes"], **seconds(times)}


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


def _half_load(arena: Arena, rate: int) -> dict[str, Any]:
    """Seconds from producing to queryable, for a worker that has nothing else to do."""
    corpus.create(arena.settings, TRACKING_COLLECTED.name, TRACKING_COLLECTED.partitions)
    made = list(corpus.events(Shape(int(rate * HALF_LOAD_S), duplicates_every=1 << 60)))
    with arena.ground() as database, arena.workers(database, 1, 1, {}):
        # The first records show that the worker is there; they are not timed.
        corpus.fill(arena.settings, TRACKING_COLLECTED.name, Shape(1_000))
        probes = Probes(arena, database)
        with probes.flowing(made, rate) as producing:
            producing.join(HALF_LOAD_S + UNSEEN_S)
    return {"events_per_s": rate, **probes.figures()}
