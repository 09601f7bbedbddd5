"""`make bench-bills`: bills from Postgres to ClickHouse, each stretch alone: connector, worker, both together, reader.

1 million bills, 10 million occurrences, 200 tenants of which one has a fifth of all. The connector is measured by the
growth of bills.changes while no worker runs, the worker by the fall of its lag while the connector has nothing to do:
so neither takes the other's cores. Results go to loadtest/results/bills.json. AFLUENTE_BENCH_SCALE makes it smaller.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid5

import asyncpg
import psutil
from rich.console import Console
from rich.table import Table

from app import source
from app.batch import TP
from app.settings import Settings
from infra.local.lag import read_lag
from infra.local.ports import free_port
from infra.local.stack import Stack
from infra.local.topics import admin_client
from loadtest import analytics_bench, bills_page
from loadtest.bench import conditions
from loadtest.bills_figures import Ends
from loadtest.drive import percentiles
from schemas.topics import BILLS_CHANGES

PORTS: Final = ("EDGE", "KAFKA", "POSTGRES", "CLICKHOUSE", "WORKER", "CONNECT", "WATCH")
FULL_BILLS: Final = 1_000_000
OCCURRENCES: Final = 10  # of a bill
FULL_TENANTS: Final = 200
BILLS_A_STATEMENT: Final = 20_000
FULL_CHANGES: Final = 500_000  # updates of the steady part: 1 GB of WAL, half of what a slot may keep
CHANGES_A_TRANSACTION: Final = 500
PROBES: Final = 200
LOOK_S: Final = 0.005  # seconds between two queries: what a figure may be too high by
PROBE_PAUSE_S: Final = 0.05  # 20 commits a second
PROBE_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.1
HEARTBEATS_LEFT: Final = 200  # eight a second come in while the last ones are made durable
STRETCH_TIMEOUT_S: Final = 7_200.0
NAMESPACE: Final = UUID("1b4e28ba-2fa1-51d2-883f-0016d3cca427")

err = Console(stderr=True)

# The largest tenant has every fifth bill, the others share the rest. Versions are given, so triggers need not run.
BILLS: Final = """\
INSERT INTO bills (tenant_id, id, user_id, description, category, amount, currency, due_date, installments, version)
SELECT t.ids[CASE WHEN i % 5 = 0 THEN 1 ELSE 1 + i % cardinality(t.ids) END], gen_random_uuid(), 'user-' || i % 9,
    'bill number ' || i, 'category-' || i % 20, 1000 + i % 5000, CASE WHEN i % 10 = 0 THEN 'USD' ELSE 'BRL' END,
    date '2024-01-01' + (i % 1000)::int, $4, 1
FROM generate_series($2::bigint, $3::bigint) i, (SELECT $1::uuid[] AS ids) t"""
PARTS: Final = """\
INSERT INTO bill_occurrences (tenant_id, id, bill_id, user_id, number, installments, category, amount, currency,
    due_date, version)
SELECT b.tenant_id, gen_random_uuid(), b.id, b.user_id, n, b.installments, b.category,
    round(b.amount / b.installments, 2), b.currency, (b.due_date + n * interval '1 month')::date, 1
FROM unnest($1::uuid[], $2::uuid[]) AS made (tenant_id, id)
JOIN bills b ON b.tenant_id = made.tenant_id AND b.id = made.id, generate_series(1, b.installments) n"""


class Size:
    """How much of everything, at a scale; 1 is what the figures of the repository are made with."""

    def __init__(self, scale: float, analytics_scale: float) -> None:
        self.scale = scale
        self.analytics_scale = analytics_scale
        self.asked = max(20_000, round(FULL_BILLS * analytics_scale)) * OCCURRENCES
        self.bills = max(2_000, round(FULL_BILLS * scale))
        self.occurrences = self.bills * OCCURRENCES
        self.tenants = max(5, min(FULL_TENANTS, round(FULL_TENANTS * scale * 10)))
        self.changes = max(5_000, round(FULL_CHANGES * scale))


async def fill(settings: Settings, size: Size) -> dict[str, Any]:
    """Tenants, bills and occurrences, straight into Postgres."""
    connection = await asyncpg.connect(
        settings.postgres_owner_url.get_secret_value(), command_timeout=STRETCH_TIMEOUT_S
    )
    ids = [uuid5(NAMESPACE, str(number)) for number in range(size.tenants)]
    began = time.monotonic()
    try:
        await connection.executemany(
            "INSERT INTO tenants (id, name) VALUES ($1, $2)", [(one, f"bench-{one}") for one in ids]
        )
        for table in ("bills", "bill_occurrences"):
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        for first in range(1, size.bills + 1, BILLS_A_STATEMENT):
            last = min(size.bills, first + BILLS_A_STATEMENT - 1)
            made = await connection.fetch(f"{BILLS} RETURNING tenant_id, id", ids, first, last, OCCURRENCES)
            await connection.execute(PARTS, [row["tenant_id"] for row in made], [row["id"] for row in made])
            err.print(f"  {last:,} bills of {size.bills:,} …", style="dim")
        for table in ("bills", "bill_occurrences"):
            await connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        await connection.execute("ANALYZE bills; ANALYZE bill_occurrences")
    finally:
        await connection.close()
    rows = size.bills + size.occurrences
    return {"rows": rows, "tenants": size.tenants, "rows_per_s": round(rows / (time.monotonic() - began))}


async def change(settings: Settings, count: int) -> float:
    """Updates in transactions of CHANGES_A_TRANSACTION, as fast as Postgres takes them. Returns its seconds."""
    connection = await asyncpg.connect(
        settings.postgres_owner_url.get_secret_value(), command_timeout=STRETCH_TIMEOUT_S
    )
    began, done = time.monotonic(), 0
    try:
        async with connection.transaction():
            rows = await connection.fetch(
                "SELECT tenant_id, id FROM bill_occurrences TABLESAMPLE BERNOULLI ($1::float4) LIMIT $2",
                min(100.0, 110.0 * count / max(1, await _occurrences(connection))),
                count,
            )
        while done < count and rows:
            piece = [rows[(done + index) % len(rows)] for index in range(min(CHANGES_A_TRANSACTION, count - done))]
            await connection.execute(
                "UPDATE bill_occurrences o SET amount = amount + 0.01 FROM unnest($1::uuid[], $2::uuid[]) AS w (t, i)"
                " WHERE o.tenant_id = w.t AND o.id = w.i",
                [row["tenant_id"] for row in piece],
                [row["id"] for row in piece],
            )
            done += len(piece)
    finally:
        await connection.close()
    return time.monotonic() - began


async def _occurrences(connection: Any) -> int:
    return int(await connection.fetchval("SELECT reltuples::bigint FROM pg_class WHERE relname = 'bill_occurrences'"))


def _records(settings: Settings) -> int:
    """How many records bills.changes has."""
    places = source.partitions(settings.kafka_url, BILLS_CHANGES.name)
    bounds = source.bounds(settings.kafka_url, [TP(*place) for place in places])
    return sum(high for _, high in bounds.values())


def _lag(settings: Settings) -> int:
    """How many of them the worker has not made durable."""
    return sum(row.lag for row in read_lag(admin_client(settings), settings) if row.topic == BILLS_CHANGES.name)


def _stretch(what: str, measure: Callable[[], int], over: Callable[[int], bool], pid: int) -> dict[str, Any]:
    """Time from the first movement until it is over; rate, and the CPU seconds of the process that does it."""
    base = measure()
    while (now := measure()) == base:
        time.sleep(POLL_S)
    process = psutil.Process(pid)
    began, cpu, start, told = time.monotonic(), sum(process.cpu_times()[:2]), now, 0.0
    moved_at, last = began, now
    while not over(now):
        now = measure()
        if now != last:
            moved_at, last = time.monotonic(), now
        if time.monotonic() - told > 10:
            told = time.monotonic()
            err.print(f"  {what}: {abs(now - start):,} records …", style="dim")
        if time.monotonic() - moved_at > STRETCH_TIMEOUT_S / 10:
            raise RuntimeError(f"{what}: nothing has moved for {STRETCH_TIMEOUT_S / 10:.0f} s at {now:,}")
        time.sleep(POLL_S)
    seconds = max(moved_at - began, POLL_S)
    records = abs(now - start)
    used = sum(process.cpu_times()[:2]) - cpu
    return {
        "records": records,
        "seconds": round(seconds, 1),
        "records_per_s": round(records / seconds),
        "cpu_us_per_record": round(used / max(1, records) * 1e6, 1),
        "rss_mb": round(process.memory_info().rss / 2**20),
    }


def connected(stack: Stack, what: str, wanted: int) -> dict[str, Any]:
    """Connect started, no worker: until the topic has grown by so many records, from the first that are no beats."""
    base = _records(stack.settings)
    with ThreadPoolExecutor(1) as starter:
        up = starter.submit(stack.up, ["connect"])
        while stack.records()["connect"].pid is None or _records(stack.settings) - base < HEARTBEATS_LEFT:
            if up.done():
                up.result()
            time.sleep(POLL_S)
        pid = int(stack.records()["connect"].pid or 0)
        found = _stretch(what, lambda: _records(stack.settings) - base, lambda now: now >= wanted, pid)
        up.result()
    return found


def drained(stack: Stack, what: str) -> dict[str, Any]:
    """The worker started, Connect idle: until nothing but heartbeats is left."""
    stack.start("worker")
    pid = int(stack.records()["worker"].pid or 0)
    return _stretch(what, lambda: _lag(stack.settings), lambda lag: lag < HEARTBEATS_LEFT, pid)


async def latency(settings: Settings) -> dict[str, Any]:
    """From the commit of an update to the first query that finds its version, at 20 commits a second."""
    connection = await asyncpg.connect(settings.postgres_owner_url.get_secret_value())
    ends = await Ends.of(settings)
    sent: dict[UUID, tuple[int, float]] = {}
    times: list[float] = []
    try:
        rows = await connection.fetch("SELECT tenant_id, id FROM bill_occurrences LIMIT $1", PROBES)

        async def watch() -> None:
            while len(times) < len(rows):
                # With nothing to ask for, nothing is awaited: the commits would never get their turn.
                await asyncio.sleep(LOOK_S)
                found = await ends.versions([*sent])
                now = time.monotonic()
                for one, version in found.items():
                    if one in sent and version >= sent[one][0]:
                        times.append((now - sent.pop(one)[1]) * 1000)

        watching = asyncio.create_task(asyncio.wait_for(watch(), PROBE_TIMEOUT_S + PROBES * PROBE_PAUSE_S))
        for row in rows:
            version = await connection.fetchval(
                "UPDATE bill_occurrences SET amount = amount + 1 WHERE tenant_id = $1 AND id = $2 RETURNING version",
                row["tenant_id"],
                row["id"],
            )
            sent[row["id"]] = (version, time.monotonic())
            await asyncio.sleep(PROBE_PAUSE_S)
        await watching
    finally:
        await connection.close()
        await ends.close()
    return {
        "commits_per_s": round(1 / PROBE_PAUSE_S),
        **{f"{name}_ms": value for name, value in percentiles(times).items()},
    }


def measure(stack: Stack, size: Size) -> dict[str, Any]:
    """Every stretch, one after the other."""
    found: dict[str, Any] = {}

    def step(name: str, made: Callable[[], dict[str, Any]]) -> None:
        err.print(f"{name} …", style="dim")
        found[name] = made()

    step("fill", lambda: asyncio.run(fill(stack.settings, size)))
    step("connect_snapshot", lambda: connected(stack, "snapshot", size.bills + size.occurrences))
    step("worker_snapshot", lambda: drained(stack, "worker"))
    # The slot keeps the changes meanwhile, so that neither Postgres nor the worker is what Connect waits for.
    stack.stop("connect")
    stack.stop("worker")
    step(
        "changes",
        lambda: {"records": size.changes, "seconds": round(asyncio.run(change(stack.settings, size.changes)), 1)},
    )
    step("connect_changes", lambda: connected(stack, "changes", size.changes))
    step("worker_changes", lambda: drained(stack, "worker"))
    for name in ("snapshot", "changes"):
        ratio = found[f"worker_{name}"]["records_per_s"] / found[f"connect_{name}"]["records_per_s"]
        found[f"worker_{name}"]["times_the_connector"] = round(ratio, 2)
    step("commit_to_queryable", lambda: asyncio.run(latency(stack.settings)))
    step("reconcile", lambda: compared(stack))
    step("analytics", lambda: analytics_bench.measure(stack.settings, size.asked, FULL_TENANTS))
    return found


def compared(stack: Stack) -> dict[str, Any]:
    """Are both databases equal after all that, and how long does it take to say so?"""
    command = [sys.executable, "-m", "infra.local.cli", "reconcile", "bills", "--json"]
    done = subprocess.run(command, env={**os.environ, **stack.environ}, capture_output=True, text=True, check=False)
    verdict = json.loads(done.stdout) if done.stdout else {"equal": False, "said": done.stderr[-500:]}
    return {name: verdict.get(name) for name in ("equal", "rows", "seconds", "differences", "passes", "said")}


def show(results: dict[str, Any]) -> None:
    """One line a figure."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("stretch", "figure", "value"):
        table.add_column(title)
    for name, figures in results.items():
        for figure, value in figures.items():
            table.add_row(name, figure, json.dumps(value))
    Console().print(table)


def main() -> None:
    """Runs all of it on a stack of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=float(os.environ.get("AFLUENTE_BENCH_SCALE") or 1.0))
    parser.add_argument("--analytics-scale", type=float, help="of the rows that are asked; as --scale unless given")
    parser.add_argument("--out", type=Path, default=bills_page.RESULTS)
    options = parser.parse_args()
    size = Size(options.scale, options.analytics_scale or options.scale)
    scales = {"scale": size.scale, "analytics_scale": size.analytics_scale}
    results: dict[str, Any] = {"conditions": {**conditions(), "rounds": 1, **scales}}
    with tempfile.TemporaryDirectory(prefix="afluente-bench-bills-") as folder:
        stack = Stack(Path(folder), {f"AFLUENTE_{name}_PORT": str(free_port()) for name in PORTS})
        err.print("starting a stack …", style="dim")
        stack.chosen_cdc(choice=True)
        stack.up(["kafka", "postgres", "clickhouse", "worker"])
        stack.stop("worker")
        try:
            results |= measure(stack, size)
        finally:
            stack.down()
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    show(results)
    if options.out == bills_page.RESULTS:
        bills_page.write(results)


if __name__ == "__main__":
    main()
