"""The cost of growth: one worker's events a second against partitions, tenants, batch size and event size; a backlog.

Each point is one run of its own; read the shape of the curves, not single points.
"""

from collections.abc import Callable
from typing import Any

from infra.local.stack import Stack
from loadtest import corpus
from loadtest.arena import Arena, Run
from loadtest.corpus import Shape
from schemas.topics import TRACKING_COLLECTED

RECORDS = 60_000
FULL_RECORDS = 200_000
BACKLOG = 300_000
FULL_BACKLOG = 5_000_000
BACKLOG_BYTES = 350
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
    run = _drained(arena, Shape(FULL_BACKLOG if full else BACKLOG, BACKLOG_BYTES), TRACKING_COLLECTED.partitions, {})
    found["backlog"] = {
        "records": run.records,
        "events_per_s": round(run.rate),
        "lost": run.lost,
        "doubled": run.doubled,
        "rss_mb_max": round(run.rss_mb),
        "rss_mb_by_quarter": [round(value) for value in run.rss_quarters],
    }
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


def _drained(arena: Arena, shape: Shape, partitions: int, settings: dict[str, Any]) -> Run:
    corpus.create(arena.settings, TRACKING_COLLECTED.name, partitions)
    return arena.afluente(corpus.fill(arena.settings, TRACKING_COLLECTED.name, shape), **settings)
