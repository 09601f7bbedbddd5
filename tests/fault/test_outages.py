"""The parts around the worker die, hang and come back under traffic: lag grows, nothing is lost, no hand is needed."""

import asyncio
import signal
import time
from collections.abc import Callable
from functools import partial

import httpx
import pytest

from app.dedup import WRITE_BUFFER_BYTES, WRITE_BUFFERS
from loadtest.drive import Drive
from loadtest.history import Outcome
from loadtest.tenants import dismiss, hire
from loadtest.traffic import Request, Traffic
from tests.fault.case import FULL, Case
from tests.support.children import poll
from tests.support.workers import Worker

AWAY_S = 300.0 if FULL else 20.0
FROZEN_S = 20.0
EVENTS_A_SECOND = 200
MIB = 1 << 20
# The flood is several times the buffer: a worker that kept what it fetched would grow by all of it (a 2 kB event with
# its Python objects: about 2.7 kB).
FLOOD_EVENTS, FLOOD_PADDING_BYTES = 40_000, 2_000
BUFFER_BYTES = 16 * MIB
RSS_GROWTH_BYTES_MAX = 50 * MIB  # while it is away: everything stands still
# To catch up: the buffer, one batch of each of three partitions in flight and encoded (10 MiB), what aiokafka fetches
# ahead for each of them, 4 MiB and as much in decoded form (24 MiB), and the allocator's slack. A long outage leaves
# so many ids that they fill the memtables, too.
RSS_CAUGHT_UP_BYTES_MAX = 80 * MIB + (3 * WRITE_BUFFERS * WRITE_BUFFER_BYTES if FULL else 0)

EDGE_REQUESTS_A_SECOND = 40.0
EDGE_CONNECTIONS = 16
KAFKA_KILLS = 2
BETWEEN_S = 4.0
RETRY_S = 0.25


class Watch:
    """Looks at a worker while something else is away."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.rss_before = self.rss_most = worker.rss_bytes
        self.assignments = len(worker.lines("partitions assigned"))

    def until(self, seconds: float) -> None:
        """Look for so long: the worker must live and keep its partitions."""
        over = time.monotonic() + seconds

        def look() -> bool:
            assert self.worker.alive, self.worker.tail()
            self.rss_most = max(self.rss_most, self.worker.rss_bytes)
            return time.monotonic() >= over

        poll(look, "the outage is over", seconds + 10, every_s=0.5)

    @property
    def growth_bytes(self) -> int:
        return self.rss_most - self.rss_before

    @property
    def was_rebalanced(self) -> bool:
        return len(self.worker.lines("partitions assigned")) != self.assignments


def outage(case: Case, break_it: Callable[[], object], mend_it: Callable[[], object], seconds: float) -> None:
    """The worker lives through it, keeps its partitions and its memory, and catches up."""
    worker = case.fleet.ensure(buffer_bytes_max=BUFFER_BYTES, batch_bytes_max=2 * MIB, clickhouse_timeout_s=5)
    case.traffic.burst(300)
    case.quiet()
    watch = Watch(worker)
    with case.traffic.flowing(EVENTS_A_SECOND):
        break_it()
        try:
            case.traffic.burst(FLOOD_EVENTS, poisons=0, padding=FLOOD_PADDING_BYTES)
            watch.until(seconds)
            meanwhile = watch.growth_bytes
        finally:
            mend_it()
    case.lifted()
    held = len(worker.lines("backpressure"))
    assert held
    case.quiet()
    watch.until(0)
    case.fired = f"{held} retries, RSS +{meanwhile // MIB} MiB, then +{watch.growth_bytes // MIB} MiB to catch up"
    case.settle()
    assert meanwhile < RSS_GROWTH_BYTES_MAX
    assert watch.growth_bytes < RSS_CAUGHT_UP_BYTES_MAX
    assert not watch.was_rebalanced


@pytest.mark.timeout(AWAY_S + 300)
def test_clickhouse_killed_and_away(case: Case) -> None:
    """ClickHouse dies in the middle of inserts and is away for a minute."""

    def break_it() -> None:
        case.stack.kill("clickhouse")
        case.stack.stop("clickhouse")

    outage(case, break_it, lambda: case.stack.start("clickhouse"), AWAY_S)


@pytest.mark.full
def test_clickhouse_hangs(case: Case) -> None:
    """ClickHouse takes inserts and does not answer: the client gives up, and what it sent may still be done."""
    outage(
        case,
        lambda: case.stack.kill("clickhouse", signal.SIGSTOP),
        lambda: case.stack.kill("clickhouse", signal.SIGCONT),
        FROZEN_S,
    )


def test_kafka_killed(case: Case) -> None:
    """Kafka dies and restarts under HTTP traffic: what the edge said yes to is a row, once; the rest is retried."""
    case.fleet.kill_all()
    stack = case.stack
    stack.up(["edge"])
    stack.start("worker", {"AFLUENTE_WORKER_ID": "w0", "AFLUENTE_SESSION_TIMEOUT_S": "6"})
    hired = hire(stack.settings, "fault", 2)
    try:
        asyncio.run(drive_while_killing(case, [Traffic(one.sender, seed=n) for n, one in enumerate(hired)]))
        case.lifted()
        case.quiet(check=lambda: None)
        restarts = stack.records()["worker"].restarts
        unknown = case.traffic.history.copies(Outcome.UNKNOWN)
        assert unknown, "no request was without an answer: Kafka was not away"
        case.fired = f"{KAFKA_KILLS} kills, {unknown} answers unknown, {restarts} worker restarts"
        case.settle(check=lambda: None)
    finally:
        dismiss(stack.settings, hired)
        stack.stop("worker")
        stack.stop("edge")


async def drive_while_killing(case: Case, traffics: list[Traffic]) -> None:
    """HTTP traffic of all tenants into one history, with Kafka killed on the way; ends when every retry has its yes."""
    stop = asyncio.Event()
    limits = httpx.Limits(max_connections=EDGE_CONNECTIONS)
    address = f"http://127.0.0.1:{case.stack.settings.edge_port}"
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=10.0, trust_env=False) as client:
        drives = [Drive(client, traffic, case.traffic.history) for traffic in traffics]
        async with asyncio.TaskGroup() as group:
            for drive in drives:
                rate = EDGE_REQUESTS_A_SECOND / len(drives)
                group.create_task(drive.repeat(rate, partial(insist, drive), stop))
            try:
                await kill_kafka(case)
            finally:
                stop.set()


async def insist(drive: Drive) -> None:
    """Send a request until it is accepted: the same event ids each time."""
    request: Request = drive.traffic.next()
    while not await drive.send(request):  # noqa: ASYNC110 - the pause of a client between two attempts
        await asyncio.sleep(RETRY_S)


async def kill_kafka(case: Case) -> None:
    """Kill the broker, wait until the supervisor has it back, and again."""
    await asyncio.sleep(BETWEEN_S)
    for _ in range(KAFKA_KILLS):
        restarts = case.stack.records()["kafka"].restarts
        case.stack.kill("kafka")
        await asyncio.to_thread(case.stack.wait, "kafka", restarts + 1)
        await asyncio.sleep(BETWEEN_S)
