"""`./afluente load`: locust against the running stack, then ClickHouse against what was accepted."""

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from infra.local.faults import Fault
from infra.local.home import ROOT
from infra.local.stack import Stack
from infra.local.terminal import AsJson, err, out, print_fault, print_json
from loadtest import report
from loadtest.drain import Drain, await_rows
from loadtest.history import History, Outcome, Verdict, read
from loadtest.plan import Plan, skewed
from loadtest.rows import NoAnswer, NotLoopback, Rows, require_loopback, verdicts
from loadtest.tenants import dismiss, hire
from loadtest.traffic import Sender

USERS_MAX = 1_000
SECONDS_MAX = 3_600
RATE_MAX = 20_000.0  # requests a second, far above what one machine's edge answers
TENANTS_MAX = 100
DRAIN_TIMEOUT_S = 120.0
STOP_SLACK_S = 30.0  # locust lets requests under way finish
POLL_S = 0.25
LOG_TAIL_CHARACTERS = 2_000
EXIT_WRONG = 1


def load(
    *,
    users: Annotated[int, typer.Option(min=1, max=USERS_MAX, help="Clients at the same time.")] = 20,
    seconds: Annotated[int, typer.Option(min=1, max=SECONDS_MAX, help="How long they send.")] = 20,
    rate: Annotated[float, typer.Option(min=0.1, max=RATE_MAX, help="Requests a second, of all together.")] = 200.0,
    tenants: Annotated[int, typer.Option(min=1, max=TENANTS_MAX, help="New tenants to send as, unequally busy.")] = 4,
    write_key: Annotated[
        str, typer.Option(envvar="AFLUENTE_LOAD_WRITE_KEY", help="Send as this tenant instead (no webhooks then).")
    ] = "",
    tenant_id: Annotated[str, typer.Option(help="The tenant of --write-key.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same mix of requests.")] = 1,
    as_json: AsJson = False,
) -> int:
    """Send clicks, batches and signed webhooks, a tenth of them twice, and check every row that comes of it.

    A request carries one event, a webhook, or a batch of 100. Afterwards ClickHouse is asked for every event: those
    accepted must be there once, those refused must not. Exit code 1 when an event is missing, doubled or made up.
    """
    if bool(write_key) != bool(tenant_id):
        raise Fault("--write-key and --tenant-id go together: rows are counted by tenant, which a key does not show.")
    settings = Stack().settings
    try:
        edge = require_loopback(f"http://127.0.0.1:{settings.edge_port}")
        rows = Rows(settings)
    except NotLoopback as refused:
        raise Fault(str(refused)) from None
    hired = [] if write_key else hire(settings, "load", tenants)
    senders = [one.sender for one in hired] or [Sender(tenant_id, write_key)]
    try:
        with tempfile.TemporaryDirectory(prefix="afluente-load-") as folder:
            plan = Plan(senders, str(Path(folder) / "history"), rate / users, seed, weights=skewed(len(senders)))
            history, statistics = _run(plan, Path(folder), edge, users, seconds)
        found, left = _check(rows, history, Drain(settings))
    except NoAnswer as silent:
        raise Fault(str(silent)) from None
    finally:
        dismiss(settings, hired)
        rows.close()
    return _tell(found, left, {**statistics, "seconds": seconds}, as_json=as_json)


def _run(plan: Plan, folder: Path, edge: str, users: int, seconds: int) -> tuple[History, dict[str, Any]]:
    """Locust in a process of its own, because it patches the standard library of the process it runs in."""
    plan.write(folder / "plan")
    command = [
        sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), "--headless", "--json",
        "--host", edge, "--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s",
        "--stop-timeout", "10", "--loglevel", "WARNING", "--plan", str(folder / "plan"),
    ]  # fmt: skip
    Path(plan.history).touch(mode=0o600)
    with (folder / "stdout").open("w+") as stdout, (folder / "stderr").open("w+") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=ROOT)
        try:
            _watch(process, seconds)
        finally:
            process.kill()
            process.wait()
        stdout.seek(0)
        stderr.seek(0)
        answered, complaint = stdout.read(), stderr.read()
    history = read(Path(plan.history))
    if not history.copies(Outcome.INVOKED):
        raise Fault(f"Nothing was sent. Locust says:\n{complaint[-LOG_TAIL_CHARACTERS:]}")
    return history, _statistics(answered)


def _watch(process: subprocess.Popen[bytes], seconds: int) -> None:
    columns = (TextColumn("sending"), BarColumn(), TimeElapsedColumn())
    began = time.monotonic()
    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("sending", total=seconds)
        while process.poll() is None and time.monotonic() - began < seconds + STOP_SLACK_S:
            progress.update(bar, completed=min(time.monotonic() - began, seconds))
            time.sleep(POLL_S)


def _check(rows: Rows, history: History, drain: Drain) -> tuple[list[Verdict], int]:
    columns = (TextColumn("rows in ClickHouse"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("rows", total=None)
        left = await_rows(
            rows, history, drain, DRAIN_TIMEOUT_S, lambda seen, due: progress.update(bar, completed=seen, total=due)
        )
    return verdicts(rows, history), left


def _statistics(answered: str) -> dict[str, Any]:
    """Requests and their times, over all kinds of request."""
    try:
        entries = json.loads(answered)
    except ValueError:
        return {}
    times: Counter[float] = Counter()
    for entry in entries:
        times.update({float(time_ms): count for time_ms, count in entry["response_times"].items()})
    return {
        "requests": sum(entry["num_requests"] for entry in entries),
        "failures": sum(entry["num_failures"] for entry in entries),
        "p50_ms": _percentile(times, 0.50),
        "p99_ms": _percentile(times, 0.99),
    }


def _percentile(times: Counter[float], share: float) -> float | None:
    left = share * times.total()
    for time_ms in sorted(times):
        left -= times[time_ms]
        if left <= 0:
            return time_ms
    return None


def _tell(found: list[Verdict], left: int, statistics: dict[str, Any], *, as_json: bool) -> int:
    right = bool(found) and not left and all(verdict.right for verdict in found)
    if as_json:
        streams = [verdict.summary() for verdict in found]
        print_json({"right": right, "left_to_consume": left, "http": statistics, "streams": streams})
    else:
        out.print(report.table(found))
        if text := report.open_ends(found):
            out.print(text)
        if statistics.get("requests"):
            out.print(
                f"{statistics['requests']:,} requests, {statistics['requests'] / statistics['seconds']:,.0f}/s, "
                f"{statistics['failures']:,} failed; p50 {statistics['p50_ms']} ms, p99 {statistics['p99_ms']} ms"
            )
        if left:
            print_fault(f"{left:,} records are not consumed after {DRAIN_TIMEOUT_S:.0f} s: no final verdict.")
        for sentence in report.faults(found):
            print_fault(sentence)
    return 0 if right else EXIT_WRONG
