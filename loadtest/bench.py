"""`make bench`: how fast the worker, the edge and the way between them are, beside what people would use instead.

One stack, one machine: ratios count, so contestants run interleaved, in rounds, on the same records, and rows are
counted after each run. Results go to loadtest/results/latest.json; `loadtest/page.py` writes tables and plot from it.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from infra.local.ports import free_port
from infra.local.stack import Stack
from loadtest import contest_bench, edge_bench, failpoints_bench, growth_bench, latency_bench, page, state_bench

RESULTS = Path(__file__).with_name("results") / "latest.json"
PORTS = ("EDGE", "KAFKA", "POSTGRES", "CLICKHOUSE", "WORKER")
LIBRARIES = ("faust-streaming", "aiokafka", "rocksdict", "confluent-kafka", "clickhouse-connect", "chdb", "fastapi")
ROUNDS = 3
FULL = os.environ.get("FULL") == "1"

err = Console(stderr=True)

HALF_LOAD = 15_000  # events a second, when no contest has told what the whole is

BENCHMARKS: dict[str, Callable[[Stack, dict[str, Any]], dict[str, Any]]] = {
    "contest": lambda stack, _: contest_bench.measure(stack, ROUNDS, tell),
    "latency": lambda stack, found: latency_bench.measure(stack, tell, half_load(found)),
    "edge": lambda stack, _: edge_bench.measure(stack, ROUNDS),
    "state": lambda stack, _: state_bench.measure(stack, tell, full=FULL),
    "failpoints": lambda *_: failpoints_bench.measure(),
    "growth": lambda stack, _: growth_bench.measure(stack, tell, full=FULL),
}


def half_load(found: dict[str, Any]) -> int:
    """Half of what one worker did in the contest."""
    whole = headlines(found).get("worker_events_per_s")
    return whole // 2 if whole else HALF_LOAD


def tell(text: str) -> None:
    """One line of progress."""
    err.print(f"{time.strftime('%H:%M:%S')}  {text}", style="dim", highlight=False)


def conditions() -> dict[str, Any]:
    """What a reader needs to judge the figures."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "load_average_before": [round(value, 2) for value in os.getloadavg()],
        "everything_on_one_machine": True,
        "rounds": ROUNDS,
        "full": FULL,
        "versions": {name: version(name) for name in LIBRARIES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def headlines(results: dict[str, Any]) -> dict[str, Any]:
    """The figures that others read, under names that do not change."""
    found: dict[str, Any] = {}
    contest = results.get("contest", {}).get("1024", {}).get("contestants", {})
    rates = {name: one["median_events_per_s"] for name, one in contest.items()}
    ours = rates.get("afluente")
    if ours:
        names = {"stock_faust": "stock_faust", "hand_loop": "hand_loop", "floor": "floor", "quix": "quix"}
        found["ratios"] = {name: round(ours / rates[key], 2) for name, key in names.items() if rates.get(key)}
        found["worker_events_per_s"] = ours
        found["worker_rss_mb"] = contest["afluente"]["rss_mb_max"]
        found["worker_cpu_us_per_event"] = contest["afluente"]["cpu_us_per_event"]
    edge = results.get("edge", {})
    if "edge_noop" in edge:
        found.setdefault("ratios", {})["edge_noop"] = edge["edge_noop"]
        found["edge_requests_per_s_per_core"] = edge["edge_events_per_s_per_core"]["single"]
        found["edge_events_per_s_per_core"] = edge["edge_events_per_s_per_core"]["batch_100"]
    half = results.get("latency", {}).get("half_load", {})
    for name in ("p50", "p99"):
        if half.get(f"{name}_s") is not None:
            found[f"queryable_{name}_s"] = half[f"{name}_s"]
    return found


def show(results: dict[str, Any]) -> None:
    """One line a figure."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("figure", "value"):
        table.add_column(title)
    for line in page.contest_lines(results):
        table.add_row(line[0], "  ".join(line[1:]))
    for figure, value in headlines(results).items():
        table.add_row(figure, json.dumps(value))
    Console().print(table)


def main() -> None:
    """Runs all, or the one that --only (or ONLY= of make) names; what was not run is kept from the last time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(BENCHMARKS), default=os.environ.get("ONLY") or None)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    if options.only and options.out.exists():
        kept = json.loads(options.out.read_text(encoding="utf-8"))
        results = {name: kept[name] for name in BENCHMARKS if name in kept}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="afluente-bench-") as folder:
        environ = {f"AFLUENTE_{name}_PORT": str(free_port()) for name in PORTS}
        stack = Stack(Path(folder), environ)
        tell("starting a stack")
        try:
            stack.up(("kafka", "postgres", "clickhouse", "edge", "worker"))
            for name, measure in BENCHMARKS.items():
                if options.only in {None, name}:
                    tell(f"{name} …")
                    results[name] = {**measure(stack, results), "conditions": conditions()}
                    # After each part, so that a later one that fails takes nothing along.
                    write(results, options.out, time.monotonic() - began)
        finally:
            stack.down()
    show(results)


def write(results: dict[str, Any], out: Path, seconds: float) -> None:
    """The file, and what is made of it when it is the committed one."""
    whole = {"conditions": {**conditions(), "seconds": round(seconds)}, **headlines(results), **results}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    if out == RESULTS:
        page.write(whole)


if __name__ == "__main__":
    main()
