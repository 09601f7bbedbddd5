"""The cost of growth: one worker's events a second against partitions, tenants, batch size and event size; a backlog.

Each point is one run of its own; read the shape of the curves, not single points.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from infra.local.stack import Stack
from loadtest import corpus
from loadtest.arena import Arena, Run
from loadtest.corpus import Shape
from loadtest.queryable import Probes
from schemas.topics import TRACKING_COLLECTED

RECORDS = 60_000
FULL_RECORDS = 200_000
BACKLOG = 300_000
FULL_BACKLOG = 5_000_000
BACKLOG_BYTES = 350
FRESH_RATE = 100.0  # events a second of the tenant without a backlog
FRESH_MAX = 1_000_000  # more than any backlog lasts
FRESH_PROBE_EVERY = 7
POINTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # in a short run, in a full one
    "partitions": ((1, 16), (1, 4, 16, 64)),
    "tenants": ((10, 10_000), (10, 10_000, 1_000_000)),
    "batch_rows": ((1_000, 50_000), (1_000, 10_000, 50_000, 200_000)),
    "event_bytes": ((350, 4_096), (350, 1_024, 4_096, 16_384)),
}

Tell = Callable[[str], None]


def measure(stack: Stack, tell: Tell, *, full: bool) -> dict[str, Any]:
    """Every curve, then the backlog."""
    stack.stop("worker")
    arena = Arena(stack)
    records = FULL_RECORDS if full else RECORDS
    found: dict[str, Any] = {"records": records}
    for name, points in POINTS.items():
        curve = {}
        for value in points[full]:
            run = _point(arena, name, value, records)
            curve[str(value)] = {"events_per_s": round(run.rate), "cpu_us": round(run.cpu_us, 1), "lost": run.lost}
            tell(f"{name} = {value}: {run.rate:,.0f} events/s")
        found[name] = curve
    found["backlog"] = _backlog(arena, Shape(FULL_BACKLOG if full else BACKLOG, BACKLOG_BYTES))
    tell(f"backlog: {found['backlog']}")
    return found


def _point(arena: Arena, name: str, value: int, records: int) -> Run:
    shape = Shape(
        records,
        value if name == "event_bytes" else 1_024,
        value if name == "tenants" else corpus.TENANTS,
    )
    settings = {"batch_rows_max": value} if name == "batch_rows" else {}
    return _drained(arena, shape, value if name == "partitions" else TRACKING_COLLECTED.partitions, settings)


def _backlog(arena: Arena, shape: Shape) -> dict[str, Any]:
    """One worker over a backlog in all partitions but one, while another tenant's events arrive in that one.

    Partitions are carried side by side, a batch of each at a time. So a fresh event's fair share is the time that the
    worker takes for one batch of every partition: it may have come when its own had just left.
    """
    *full, fresh = range(TRACKING_COLLECTED.partitions)
    corpus.create(arena.settings, TRACKING_COLLECTED.name, TRACKING_COLLECTED.partitions)
    filled = corpus.fill(arena.settings, TRACKING_COLLECTED.name, shape, full)
    other = Shape(FRESH_MAX, shape.event_bytes, tenants=1, duplicates_every=FRESH_MAX + 1, first_tenant=shape.tenants)
    tenant = corpus.skewed_tenants(1, shape.tenants)[0]
    with arena.ground() as database, arena.workers(database, 1, 1, {}) as crew:
        probes = Probes(arena, database, where=f"tenant_id = '{tenant}'", every=FRESH_PROBE_EVERY)
        with probes.flowing(corpus.events(other), FRESH_RATE, fresh):
            run = arena.drain(database, filled.distinct, crew)
        arena.drain(database, filled.distinct + probes.sent, crew)  # the last of them
        arena.check(database, filled.distinct + probes.sent, run)
        batch = statistics.fmean(_batches(arena, full))
    return {
        "records": filled.records,
        "events_per_s": round(run.rate),
        "lost": run.lost,
        "doubled": run.doubled,
        "rss_mb_max": round(run.rss_mb),
        "rss_mb_by_quarter": [round(value) for value in run.rss_quarters],
        "fresh": {"events_per_s": FRESH_RATE, **probes.figures(), "fair_s": round(batch * len(full) / run.rate, 3)},
    }


def _batches(arena: Arena, partitions: Sequence[int]) -> list[int]:
    """How many records each batch of those partitions had, as the worker's log says."""
    lines = [line for line in arena.newest_log().read_bytes().splitlines() if b'"event":"batch"' in line]
    return [found["records"] for found in map(orjson.loads, lines) if found["partition"] in partitions]


def _drained(arena: Arena, shape: Shape, partitions: int, settings: dict[str, Any]) -> Run:
    corpus.create(arena.settings, TRACKING_COLLECTED.name, partitions)
    return arena.afluente(corpus.fill(arena.settings, TRACKING_COLLECTED.name, shape), **settings)
