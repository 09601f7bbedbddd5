"""How much of everything a rate of events needs, from what one event costs: `python -m loadtest.capacity --help`.

What an event costs comes from loadtest/results/latest.json, or from flags where your own figures are better. The rest
is arithmetic over queues of known capacity; nothing here is measured at the rates it speaks of.
"""

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).with_name("results") / "latest.json"
RATES = (10_000, 100_000, 1_000_000, 10_000_000)
HOUR_S = 3_600
GIGA = 10**9
BROKERS_MIN = 3  # acks=all with two in-sync replicas survives one broker
PARTITIONS_MIN = 8  # what schemas/topics.py begins with
NODES_MIN = 2  # ClickHouse replicas: one may be away
LINGERS_MS = (200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000)  # 60 s is the setting's limit
MARK = re.compile(r"(<!-- capacity:begin -->\n).*(<!-- capacity:end -->)", re.DOTALL)


class MissingFigure(Exception):  # noqa: N818 - it says what is wanted
    """The results lack a figure; the text names the flag that gives it."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What things cost and bear. Every field is a flag; those without a default are measured."""

    edge_request_us: float  # CPU of one request, whatever is in it
    edge_event_us: float  # CPU of one event in it
    worker_event_us: float  # CPU
    worker_events_per_s: float  # one worker process, everything on
    clickhouse_rows_per_s: float  # one node takes, in large blocks
    event_bytes: float = 1_024  # of the value, before compression
    request_events: float = 1  # events in one request
    record_extra_bytes: float = 200  # key, headers and framing of a record
    compression: float = 0.5  # bytes on the wire and on disk for one of a batch; measure with your events
    used_share: float = 0.6  # of a core, a network card or a node at the planned rate; the rest is for peaks and losses
    broker_bytes_per_s: float = 1_250_000_000  # each way: a card of 10 Gbit/s
    replicas: int = 3
    retention_hours: float = 168
    batch_rows: float = 50_000  # AFLUENTE_BATCH_ROWS_MAX
    batch_bytes: float = 12 << 20  # AFLUENTE_BATCH_BYTES_MAX
    node_parts_per_s: float = 20  # new parts of a table a node merges away without falling behind
    window_hours: float = 72  # AFLUENTE_DEDUPE_WINDOW_HOURS
    id_bytes: float = 48  # of a known id on disk: key 16, offset 8, index of its batch 16, filter and blocks
    worker_disk_bytes: float = 500 * GIGA  # for the state of one worker
    rebuild_ids_per_s: float = 100_000  # measured: a worker that lost its disk reads its partitions anew, 1 KB an id
    rebuild_s_max: float = 3_600  # how long those partitions may stand still
    session_s: float = 10  # AFLUENTE_SESSION_TIMEOUT_S: until the group notices a dead worker


@dataclass(frozen=True, slots=True)
class Wall:
    """Something that ends. Above 1 the plan does not hold until it is turned."""

    name: str
    used: float
    turn: str


@dataclass(frozen=True, slots=True)
class Need:
    """What one rate needs."""

    events_per_s: float
    edge_cores: int
    worker_cores: int
    workers: int
    brokers: int
    partitions: int
    clickhouse_nodes: int
    linger_ms: int
    inserts_per_s: float
    kafka_bytes: float
    state_bytes: float
    rebuild_s: float
    window_hours_that_fit: float
    walls: tuple[Wall, ...]

    @property
    def first_wall(self) -> Wall:
        """The one that is nearest, or the furthest passed."""
        return max(self.walls, key=lambda wall: wall.used)


def need(rate: float, given: Figures) -> Need:
    """What so many events a second need."""
    if rate <= 0:
        raise ValueError("the rate is above 0")
    edge_us = given.edge_event_us + given.edge_request_us / given.request_events
    workers = _count(rate / (given.worker_events_per_s * given.used_share))
    partitions = max(PARTITIONS_MIN, 2 ** math.ceil(math.log2(2 * workers)))  # two a worker: one waits, one works
    nodes = max(NODES_MIN, _count(rate / (given.clickhouse_rows_per_s * given.used_share)))
    linger_ms, inserts = _linger(rate, partitions, nodes, given)
    wire = rate * (given.event_bytes + given.record_extra_bytes) * given.compression
    brokers, broker_used = _brokers(wire, given)
    ids = rate * given.window_hours * HOUR_S
    rebuild_s = given.session_s + ids / workers / given.rebuild_ids_per_s
    fits_s = min(
        (given.rebuild_s_max - given.session_s) * given.rebuild_ids_per_s, given.worker_disk_bytes / given.id_bytes
    ) / (rate / workers)
    return Need(
        events_per_s=rate,
        edge_cores=_count(rate * edge_us / 1e6 / given.used_share),
        worker_cores=_count(rate * given.worker_event_us / 1e6 / given.used_share),
        workers=workers,
        brokers=brokers,
        partitions=partitions,
        clickhouse_nodes=nodes,
        linger_ms=linger_ms,
        inserts_per_s=inserts,
        kafka_bytes=wire * given.replicas * given.retention_hours * HOUR_S,
        state_bytes=ids * given.id_bytes,
        rebuild_s=rebuild_s,
        window_hours_that_fit=max(0.0, fits_s) / HOUR_S,
        walls=(
            Wall("broker network", broker_used, "more brokers; zstd; leave large bodies out of events"),
            Wall(
                "ClickHouse parts per second",
                inserts / (nodes * given.node_parts_per_s),
                "AFLUENTE_LINGER_MS up, then shards of the cluster",
            ),
            Wall(
                "dedupe state size",
                ids * given.id_bytes / workers / given.worker_disk_bytes,
                "AFLUENTE_DEDUPE_WINDOW_HOURS down, or more workers",
            ),
            Wall(
                "rebalance time",
                rebuild_s / given.rebuild_s_max,
                "AFLUENTE_DEDUPE_WINDOW_HOURS down, or more workers; a volume that outlives its worker makes it rare",
            ),
        ),
    )


def _brokers(wire: float, given: Figures) -> tuple[int, float]:
    """How many, with one of them away, and how much of a card they then use."""
    # Written once a replica; sent on to the other replicas, to the pipeline, and to one more reader.
    busier = wire * max(given.replicas, given.replicas - 1 + 2)
    able = _count(busier / (given.broker_bytes_per_s * given.used_share))
    brokers = max(BROKERS_MIN, given.replicas, able + 1)
    return brokers, busier / (brokers - 1) / given.broker_bytes_per_s


def _linger(rate: float, partitions: int, nodes: int, given: Figures) -> tuple[int, float]:
    """The shortest linger with which ClickHouse keeps up, and the inserts a second that it leads to."""
    rows = min(given.batch_rows, given.batch_bytes / (given.event_bytes + given.record_extra_bytes))
    for linger_ms in LINGERS_MS:
        inserts = min(rate, max(rate / rows, partitions * 1_000 / linger_ms))
        if inserts <= nodes * given.node_parts_per_s:
            break
    return linger_ms, inserts


def _count(amount: float) -> int:
    return max(1, math.ceil(amount))


# -- where figures come from


def measured(results: Mapping[str, Any], given: Mapping[str, float]) -> Figures:
    """The figures of a benchmark, with those that are given instead of its own."""
    found = dict(given)
    edge, contest = results.get("edge", {}), results.get("contest", {}).get("1024", {}).get("contestants", {})
    worker, floor = contest.get("afluente", {}), contest.get("floor", {})
    if not {"edge_request_us", "edge_event_us"} <= set(found):
        single, batch = (_edge_rate(edge, name) for name in ("single", "batch_100"))
        # Two measurements, two unknowns: a request of one event, and a hundredth of one and an event.
        request = max(0.0, (1e6 / single - 1e6 / batch) / 0.99)
        found.setdefault("edge_request_us", request)
        found.setdefault("edge_event_us", max(0.0, 1e6 / single - request))
    for name, place, key in (
        ("worker_event_us", worker, "cpu_us_per_event"),
        ("worker_events_per_s", worker, "median_events_per_s"),
        ("clickhouse_rows_per_s", floor, "median_events_per_s"),
    ):
        if name not in found:
            found[name] = _middle(place.get(key), name)
    return Figures(**found)  # type: ignore[arg-type] # names are those of its fields, by the flags


def _edge_rate(edge: Mapping[str, Any], name: str) -> float:
    a_core = edge.get("edge_events_per_s_per_core", {}).get(name)
    if a_core is not None:
        return float(a_core)
    rate = _middle(edge.get(f"{name}_events_per_s"), "edge_request_us and --edge_event_us")
    return rate / _middle(edge.get(f"{name}_edge_cores"), "edge_request_us and --edge_event_us")


def _middle(value: Any, flag: str) -> float:
    if isinstance(value, Sequence) and value:
        return float(statistics.median(value))
    if isinstance(value, int | float):
        return float(value)
    raise MissingFigure(f"{RESULTS.name} does not say: run `make bench`, or give --{flag.replace('_', '-')}")


# -- what is printed

COLUMNS = (
    "events/s", "edge cores", "worker cores", "workers", "brokers", "partitions", "ClickHouse nodes", "linger ms",
    "inserts/s", "Kafka TB", "dedupe TB", "rebuild", "first wall", "used", "turn",
)  # fmt: skip


def cells(one: Need) -> tuple[str, ...]:
    """One line of the table."""
    wall = one.first_wall
    return (
        f"{one.events_per_s:,.0f}", f"{one.edge_cores:,}", f"{one.worker_cores:,}", f"{one.workers:,}",
        f"{one.brokers:,}", f"{one.partitions:,}", f"{one.clickhouse_nodes:,}", f"{one.linger_ms:,}",
        f"{one.inserts_per_s:,.0f}", f"{one.kafka_bytes / 1e12:,.1f}", f"{one.state_bytes / 1e12:,.2f}",
        f"{one.rebuild_s / 60:,.0f} min", wall.name, f"{wall.used:.0%}", _turn(one),
    )  # fmt: skip


def _turn(one: Need) -> str:
    wall = one.first_wall
    window = f"a window of {one.window_hours_that_fit:.0f} h fits" if wall.name.startswith(("dedupe", "rebal")) else ""
    return f"{window}: {wall.turn}" if window and wall.used > 1 else wall.turn


def markdown(needs: Sequence[Need]) -> str:
    """The table for docs/capacity.md."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells(one)) + " |" for one in needs]
    return "\n".join(lines) + "\n"


def update(page: Path, needs: Sequence[Need]) -> None:
    """Writes the table into a page, between its marks."""
    text = page.read_text(encoding="utf-8")
    if not MARK.search(text):
        raise MissingFigure(f"{page.name} has no capacity:begin and capacity:end marks")
    page.write_text(MARK.sub(lambda found: found[1] + markdown(needs) + found[2], text), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """A table, JSON, or the table in a page."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.capacity", description=__doc__)
    parser.add_argument("--events-per-s", type=float, nargs="+", default=list(RATES), help="one rate or more")
    parser.add_argument("--results", type=Path, default=RESULTS, help="of `make bench`")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--update", type=Path, help="a page whose table is written anew")
    for field in fields(Figures):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float)
    options = parser.parse_args(arguments)
    given = {f.name: value for f in fields(Figures) if (value := getattr(options, f.name)) is not None}
    if any(value <= 0 for value in (*given.values(), *options.events_per_s)):
        parser.error("every figure is above 0")
    try:
        figures = measured(json.loads(options.results.read_text(encoding="utf-8")), given)
        figures = replace(figures, replicas=int(figures.replicas))
        needs = [need(rate, figures) for rate in options.events_per_s]
        if options.update:
            update(options.update, needs)
    except (MissingFigure, OSError) as error:
        sys.exit(f"error: {error}")
    if options.json:
        sys.stdout.write(json.dumps({"figures": asdict(figures), "needs": [asdict(one) for one in needs]}) + "\n")
        return
    _show(needs)


def _show(needs: Sequence[Need]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for one in needs:
        table.add_column(f"{one.events_per_s:,.0f}/s", justify="right")
    for title, *values in zip(COLUMNS[1:], *(cells(one)[1:] for one in needs), strict=True):
        table.add_row(title, *values)
    Console().print(table)


if __name__ == "__main__":
    main()
