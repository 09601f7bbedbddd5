"""The edge: requests a second, all confirmed by Kafka, beside an empty FastAPI endpoint under the same server.

Rates are also given for a core: requests over the CPU seconds of the process that answered them, its threads in the
Kafka client included, since the load, Kafka and the contestants share the cores of one machine.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
from rich.console import Console

from infra.local.home import ROOT
from infra.local.ports import free_port
from infra.local.stack import Stack
from loadtest.edge_client import ACCEPTED, MISSING, flood, together, wrk_is_here, wrk_process
from loadtest.tenants import dismiss, hire

CONNECTIONS = 64  # more than fit into the time of one confirmation, so that the edge never waits for work
WARM_S = 1.0
SECONDS = 4.0
BATCH_EVENTS = 100
START_S = 20.0
OVERLOAD_CONNECTIONS = 640  # ten times as many
OVERLOAD_S = 60.0
OVERLOAD_PROBES = 40  # connections among the others whose answers are timed: with fewer, none may be accepted
PROBE_PAUSE_S = 0.2
SAMPLE_S = 0.5
CALM_S = 3.0  # after a flood, so that the next measurement begins with an empty queue

err = Console(stderr=True)


def measure(stack: Stack, rounds: int, overload_s: float = OVERLOAD_S) -> dict[str, Any]:
    """Rates of one edge process, single and in batches of 100, and how it bears ten times too much."""
    settings = stack.settings
    hired = hire(settings, "bench-edge", 1)
    key = hired[0].sender.write_key
    edge = psutil.Process(stack.records()["edge"].pid)
    if not wrk_is_here():
        err.print(MISSING, style="yellow")
    found: dict[str, Any] = {
        "client": "wrk" if wrk_is_here() else "built-in",
        "connections": CONNECTIONS,
        "seconds": SECONDS,
    }
    try:
        with _noop(stack) as (noop, noop_port):
            contestants = {"edge": (edge, settings.edge_port), "noop": (noop, noop_port)}
            for name, events in (("single", 1), ("batch_100", BATCH_EVENTS)):
                found |= _rates(contestants, key, name, events, rounds)
        found["edge_noop"] = found["single_ratio_to_noop"]
        found["edge_events_per_s_per_core"] = {
            name: found[f"{name}_edge_events_per_s_per_core"] for name in ("single", "batch_100")
        }
        time.sleep(CALM_S)
        found["overload"] = overload(settings.edge_port, key, edge, overload_s)
    finally:
        dismiss(settings, hired)
    return found


def _rates(
    contestants: dict[str, tuple[psutil.Process, int]], key: str, name: str, events: int, rounds: int
) -> dict[str, Any]:
    rates: dict[str, list[float]] = {who: [] for who in contestants}
    cores: dict[str, list[float]] = {who: [] for who in contestants}
    for number in range(rounds + 1):
        for who, (process, port) in contestants.items():
            began, cpu = time.monotonic(), _cpu_s(process)
            answered = flood(port, key, events, CONNECTIONS, SECONDS if number else WARM_S)
            if number:  # the round before is to warm up
                rates[who].append(answered / (time.monotonic() - began))
                cores[who].append(answered / (_cpu_s(process) - cpu))
    found: dict[str, Any] = {}
    for who in contestants:
        found[f"{name}_{who}_requests_per_s"] = [round(rate) for rate in rates[who]]
        found[f"{name}_{who}_events_per_s_per_core"] = round(statistics.median(cores[who]) * events)
    found[f"{name}_ratio_to_noop"] = _ratio(rates)
    found[f"{name}_ratio_to_noop_per_core"] = _ratio(cores)
    return found


def _ratio(of: dict[str, list[float]]) -> float:
    """The median of the rounds' ratios: a round's two runs share the machine's mood."""
    return round(statistics.median(edge / noop for edge, noop in zip(of["edge"], of["noop"], strict=True)), 2)


def overload(port: int, key: str, edge: psutil.Process, seconds: float) -> dict[str, Any]:
    """Far more batches than the edge can take: what it answers, how long the accepted take, and its memory."""
    before, rss = _statuses(port), [edge.memory_info().rss]
    began = time.monotonic()
    with _flooding(port, key, seconds):
        probes = together(port, key, BATCH_EVENTS, OVERLOAD_PROBES, seconds - SAMPLE_S, PROBE_PAUSE_S)
        rss.append(edge.memory_info().rss)
    took = time.monotonic() - began
    time.sleep(CALM_S)
    rss.append(edge.memory_info().rss)
    after = _statuses(port)
    answered = {status: after[status] - before.get(status, 0) for status in after}
    accepted = answered.get(ACCEPTED, 0)
    times = sorted(probes.accepted_s)
    return {
        "seconds": round(took, 1),
        "connections": OVERLOAD_CONNECTIONS,
        "answers": {str(status): count for status, count in sorted(answered.items()) if count},
        "times_what_was_taken": round(sum(answered.values()) / max(accepted, 1), 1),
        "accepted_events_per_s": round(accepted * BATCH_EVENTS / took),
        "accepted_p99_ms": round(times[int(len(times) * 0.99)] * 1000) if times else None,
        "accepted_timed": len(times),
        "rss_mb": [size >> 20 for size in rss],
    }


@contextmanager
def _flooding(port: int, key: str, seconds: float) -> Iterator[None]:
    if wrk_is_here():
        process = wrk_process(port, key, BATCH_EVENTS, OVERLOAD_CONNECTIONS, seconds)
        try:
            yield
            process.wait(seconds)
        finally:
            process.kill()
            process.communicate()
        return
    code = (
        "import sys; from loadtest.edge_client import together;"
        f"together({port}, sys.stdin.read(), {BATCH_EVENTS}, {OVERLOAD_CONNECTIONS}, {seconds})"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(key)
        process.stdin.close()
        yield
        process.wait(seconds)


def _statuses(port: int) -> dict[int, int]:
    """How many batches the edge has answered, by status, as it counts them itself."""
    found: dict[int, int] = {}
    for line in httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=START_S, trust_env=False).text.splitlines():
        if line.startswith("afluente_http_requests_total{") and 'route="/track/batch"' in line:
            found[int(line.split('status="')[1][:3])] = int(float(line.rsplit(" ", 1)[1]))
    return found


@contextmanager
def _noop(stack: Stack) -> Iterator[tuple[psutil.Process, int]]:
    port = free_port()
    environ = {**os.environ, **stack.environ, "AFLUENTE_EDGE_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest.noop"], cwd=ROOT, env=environ, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + START_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the empty endpoint did not start")
            time.sleep(0.1)
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.wait(START_S)


def _answers(port: int) -> bool:
    try:
        return httpx.post(f"http://127.0.0.1:{port}/track/click", json={}, trust_env=False).status_code == ACCEPTED
    except httpx.TransportError:
        return False


def _cpu_s(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))
