"""Sends traffic from one asyncio process and measures how long an accepted event takes until a query finds it.

The demo drives the stack with it; heavy load goes through locust. Retries nothing: what has no answer is unknown.
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx

from loadtest.history import History, Outcome, Stream
from loadtest.rows import Rows
from loadtest.traffic import Request, Traffic, settle

TIMEOUT_S = 10.0  # the edge answers within 2 s whatever hangs
UNSEEN_S = 2.0  # a probe that is a row is found by the next look
POLL_S = 0.02  # between two looks for probes: the error of a measurement is at most this and one query


@dataclass(slots=True)
class Probe:
    """One event whose way into the table is timed, in seconds of the monotonic clock."""

    answered: float
    seen: float | None = None


@dataclass(slots=True)
class Drive:
    """Traffic of one tenant under way, and what came of it."""

    client: httpx.AsyncClient
    traffic: Traffic
    history: History
    probes: dict[str, Probe] = field(default_factory=dict)
    requests: int = 0

    @property
    def unseen(self) -> int:
        """Probes that no query has found yet."""
        return sum(probe.seen is None for probe in self.probes.values())

    async def send(self, request: Request) -> bool:
        """One request. True when all of it was accepted."""
        self.requests += 1
        self.history.note(Outcome.INVOKED, request.stream, request.keys)
        headers = self.traffic.headers(request)
        status, content = None, b""
        try:
            answer = await self.client.post(self.traffic.url(request), content=request.body, headers=headers)
            status, content = answer.status_code, answer.content
        except httpx.HTTPError:
            pass  # no answer: settled as unknown
        outcomes = settle(request, status, content)
        for outcome, keys in outcomes:
            self.history.note(outcome, request.stream, keys)
        return all(outcome is Outcome.ACCEPTED for outcome, keys in outcomes if keys or outcome is not Outcome.REFUSED)

    async def probe(self) -> None:
        """One click, timed from its answer on."""
        request = self.traffic.single("click")
        if await self.send(request):
            self.probes[request.keys[0]] = Probe(time.monotonic())

    async def repeat(self, rate: float, once: Callable[[], Coroutine[Any, Any, None]], stop: asyncio.Event) -> None:
        """Starts `once` at this rate a second until told to stop; a slow one does not hold up the next."""
        began = time.monotonic()
        running: set[asyncio.Task[None]] = set()
        for number in itertools.count():
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            if stop.is_set():
                break
            one = asyncio.create_task(once())
            running.add(one)
            one.add_done_callback(running.discard)
        await asyncio.gather(*running)

    async def watch(self, rows: Rows, stream: Stream, done: asyncio.Event) -> None:
        """Looks for the probes until told that all that will be a row is one; then once more for each."""
        last_look = float("inf")
        while True:
            waiting = [event_id for event_id, probe in self.probes.items() if probe.seen is None]
            if done.is_set():
                last_look = min(last_look, time.monotonic() + UNSEEN_S)
                if not waiting or time.monotonic() > last_look:
                    return
            if waiting:
                found = await asyncio.to_thread(rows.present, stream, waiting)
                now = time.monotonic()
                for event_id in found:
                    self.probes[event_id].seen = now
            await asyncio.sleep(POLL_S)

    def latencies_ms(self, without: tuple[float, float] | None = None) -> list[float]:
        """The probes' times in order; without those on their way at some moment of that span."""
        return sorted(
            max(0.0, probe.seen - probe.answered) * 1000
            for probe in self.probes.values()
            if probe.seen is not None and (without is None or probe.seen < without[0] or probe.answered > without[1])
        )


def percentiles(times: list[float]) -> dict[str, float | int | None]:
    """p50 and p99, and of how many."""
    if len(times) < 2:
        return {"p50": None, "p99": None, "probes": len(times)}
    points = statistics.quantiles(times, n=100, method="inclusive")
    return {"p50": round(points[49], 1), "p99": round(points[98], 1), "probes": len(times)}
