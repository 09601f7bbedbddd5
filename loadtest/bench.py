"""`make bench`: how fast the worker, the edge and the way between them are, measured on a stack of its own.

Ratios count, since machines differ and this one may be busy: the worker is measured beside the floor of the same run,
a loop that only consumes the same records and inserts the same bytes. Results go to loadtest/results/latest.json.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from infra.local.ports import free_port
from infra.local.stack import Stack
from loadtest import edge_bench, worker_bench
from loadtest.drive import Drive, percentiles
from loadtest.history import History, Stream
from loadtest.rows import Rows
from loadtest.tenants import dismiss, hire
from loadtest.traffic import TRACKING, Traffic

RESULTS = Path(__file__).with_name("results") / "latest.json"
PORTS = ("EDGE", "KAFKA", "POSTGRES", "CLICKHOUSE", "WORKER")
ROUNDS = 3
LATENCY_RATE = 100.0  # events a second
LATENCY_S = 20.0
UNSEEN_S = 30.0

err = Console(stderr=True)


def latency(stack: Stack) -> dict[str, Any]:
    """Produce to queryable at 100 events/s, one event a request: from the edge's answer to a query that finds it."""
    settings = stack.settings
    hired = hire(settings, "bench", 1)
    rows = Rows(settings)
    try:
        times = asyncio.run(_latency(f"http://127.0.0.1:{settings.edge_port}", Traffic(hired[0].sender, seed=1), rows))
    finally:
        rows.close()
        dismiss(settings, hired)
    return {"events_per_s": LATENCY_RATE, **{f"{name}_ms": value for name, value in percentiles(times).items()}}


async def _latency(address: str, traffic: Traffic, rows: Rows) -> list[float]:
    stop, done = asyncio.Event(), asyncio.Event()
    async with httpx.AsyncClient(base_url=address, timeout=10.0, trust_env=False) as client:
        drive = Drive(client, traffic, History())
        async with asyncio.TaskGroup() as group:
            group.create_task(drive.watch(rows, Stream(traffic.sender.tenant_id, TRACKING), done))
            probes = group.create_task(drive.repeat(LATENCY_RATE, drive.probe, stop))
            await asyncio.sleep(LATENCY_S)
            stop.set()
            await probes
            deadline = time.monotonic() + UNSEEN_S
            while drive.unseen and time.monotonic() < deadline:  # noqa: ASYNC110 - the watcher sets no event
                await asyncio.sleep(0.1)
            done.set()
    if drive.unseen:
        raise RuntimeError(f"{drive.unseen} of {len(drive.probes)} events were not queryable after {UNSEEN_S} s")
    return drive.latencies_ms()


BENCHMARKS: dict[str, Callable[[Stack], dict[str, Any]]] = {
    "worker": lambda stack: worker_bench.measure(stack, ROUNDS),
    "latency": latency,
    "edge": lambda stack: edge_bench.measure(stack, ROUNDS),
}


def conditions() -> dict[str, Any]:
    """What a reader needs to judge the figures."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "load_average_before": [round(value, 2) for value in os.getloadavg()],
        "everything_on_one_machine": True,
        "rounds": ROUNDS,
    }


def show(results: dict[str, Any]) -> None:
    """One line a figure."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("benchmark", "figure", "value"):
        table.add_column(title)
    for name in BENCHMARKS:
        for figure, value in results.get(name, {}).items():
            table.add_row(name, figure, json.dumps(value))
    Console().print(table)


def main() -> None:
    """Runs all, or the one that --only (or ONLY= of make) names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(BENCHMARKS), default=os.environ.get("ONLY") or None)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    results: dict[str, Any] = {"conditions": conditions()}
    with tempfile.TemporaryDirectory(prefix="afluente-bench-") as folder:
        environ = {f"AFLUENTE_{name}_PORT": str(free_port()) for name in PORTS}
        stack = Stack(Path(folder), environ)
        err.print("starting a stack …", style="dim")
        stack.up()
        try:
            for name, measure in BENCHMARKS.items():
                if options.only in {None, name}:
                    err.print(f"{name} …", style="dim")
                    results[name] = measure(stack)
        finally:
            stack.down()
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    show(results)


if __name__ == "__main__":
    main()
