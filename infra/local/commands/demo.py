"""`./afluente demo`: the promise of Afluente on real parts, in under a minute: nothing lost, nothing twice.

Starts what does not run, sends real HTTP traffic with duplicates and one poison webhook, kills the worker with SIGKILL
in the middle, and compares what was accepted with what ClickHouse holds.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from infra.local.commands.up import bring_up
from infra.local.faults import Fault
from infra.local.parts import SERVICES
from infra.local.record import living_supervisor
from infra.local.stack import Stack, StackError
from infra.local.terminal import AsJson, err, out, print_fault, print_json
from loadtest import deadletters, report
from loadtest.drain import Drain, await_rows
from loadtest.drive import Drive, percentiles
from loadtest.history import History, Outcome, Stream, Verdict
from loadtest.rows import NoAnswer, Rows, verdicts
from loadtest.tenants import dismiss, hire
from loadtest.traffic import TRACKING, Sender, Traffic

REQUESTS_PER_S = 100.0  # with a tenth of them batches: about 1,000 events a second, which two cores take with ease
PROBES_PER_S = 25.0
WARM_S = 3.0  # of traffic before the kill
AFTER_S = 4.0  # of traffic after the worker is back
BACK_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 60.0
POLL_S = 0.1
CONNECTIONS = 32
POISONS = 1


@dataclass(slots=True)
class Run:
    """What the demo saw, beside the history."""

    poisons: int = 0
    killed_at: float = 0.0
    back_at: float = 0.0
    killed_pid: int = 0
    dead: int = 0
    left: int = 0


app = typer.Typer(invoke_without_command=True)


@app.callback()
def demo(
    context: typer.Context,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards.")] = False,
    as_json: AsJson = False,
) -> int:
    """Prove it on this machine: traffic, duplicates, a poison webhook, a worker killed; then count every row.

    Exit code 0 only if nothing is missing, nothing is there twice, and the poison is in the DLQ. A stack that did not
    run before is stopped again at the end; its data stays in AFLUENTE_HOME until [bold]clean[/].

    [bold]demo bills[/] proves change data capture in the same way.
    """
    if context.invoked_subcommand is not None:
        return 0
    stack = Stack()
    was_up = living_supervisor(stack.home) is not None
    began = time.monotonic()
    try:
        bring_up(stack, list(SERVICES), quiet=as_json)
        found, run, drive = _prove(stack)
    finally:
        if not was_up and not keep:
            _say("Stopping the stack …")
            stack.down()
    figures = figures_of(found, run, drive, time.monotonic() - began)
    if as_json:
        print_json(figures)
    else:
        out.print(_table(figures))
        if run.left:
            print_fault(f"{run.left:,} records are not consumed after {DRAIN_TIMEOUT_S:.0f} s: no final verdict.")
        for sentence in report.faults(found):
            print_fault(sentence)
    return 0 if figures["right"] else 1


def _prove(stack: Stack) -> tuple[list[Verdict], Run, Drive]:
    settings = stack.settings
    hired = hire(settings, "demo", 1)
    rows = Rows(settings)
    try:
        return asyncio.run(_drive(stack, hired[0].sender, rows))
    except* (NoAnswer, StackError) as faults:
        raise Fault(str(faults.exceptions[0])) from None
    finally:
        rows.close()
        dismiss(settings, hired)


async def _drive(stack: Stack, sender: Sender, rows: Rows) -> tuple[list[Verdict], Run, Drive]:
    settings, history, run = stack.settings, History(), Run()
    since_ms = time.time_ns() // 1_000_000
    sending, watching = asyncio.Event(), asyncio.Event()
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    address = f"http://127.0.0.1:{settings.edge_port}"

    def told(seen: int, due: int) -> None:
        progress.update(bar, completed=seen, total=due)

    columns = (TextColumn("{task.description:<44}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        bar = progress.add_task("traffic", total=None)
        async with (
            httpx.AsyncClient(base_url=address, limits=limits, timeout=10.0, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            drive = Drive(client, Traffic(sender, seed=time.time_ns()), history)
            group.create_task(drive.watch(rows, Stream(sender.tenant_id, TRACKING), watching))
            shown = group.create_task(_show(progress, bar, drive))
            sends = [
                group.create_task(drive.repeat(REQUESTS_PER_S, lambda: _one(drive), sending)),
                group.create_task(drive.repeat(PROBES_PER_S, drive.probe, sending)),
            ]
            await _break(stack, drive, run)
            sending.set()
            await asyncio.gather(*sends)
            _say("Sent. Waiting for the last rows …")
            run.left = await asyncio.to_thread(
                lambda: await_rows(rows, history, Drain(settings), DRAIN_TIMEOUT_S, told)
            )
            watching.set()
            shown.cancel()
    run.dead = await asyncio.to_thread(deadletters.count, settings, sender.tenant_id, since_ms)
    return verdicts(rows, history), run, drive


async def _one(drive: Drive) -> None:
    await drive.send(drive.traffic.next())


async def _break(stack: Stack, drive: Drive, run: Run) -> None:
    """The faults: a webhook nobody can read, and the worker killed without a word."""
    _say("Sending clicks, pageviews, checkouts, batches and signed webhooks, a tenth of them twice …")
    await asyncio.sleep(WARM_S)
    for _ in range(POISONS):
        run.poisons += await drive.send(drive.traffic.poison())
    restarts = stack.records()["worker"].restarts
    run.killed_at = time.monotonic()
    run.killed_pid = await asyncio.to_thread(stack.kill, "worker")
    _say(f"Worker {run.killed_pid} killed with SIGKILL; the traffic goes on …")
    await asyncio.to_thread(stack.wait, "worker", restarts + 1, BACK_TIMEOUT_S)
    run.back_at = time.monotonic()
    _say(f"A new worker is ready after {run.back_at - run.killed_at:.1f} s …")
    await asyncio.sleep(AFTER_S)


async def _show(progress: Progress, bar: TaskID, drive: Drive) -> None:
    while True:
        accepted = drive.history.copies(Outcome.ACCEPTED)
        progress.update(bar, description=f"{drive.requests:,} requests, {accepted:,} events accepted")
        await asyncio.sleep(POLL_S)


def _say(text: str) -> None:
    err.print(text, style="dim")


def figures_of(found: list[Verdict], run: Run, drive: Drive, seconds: float) -> dict[str, Any]:
    """The table's figures and whether they are right."""
    total = {name: sum(getattr(verdict, name) for verdict in found) for name in ("sent", "accepted", "rows")}
    accepted = total["accepted"] + run.poisons
    dropped = accepted - total["rows"] - run.dead
    unseen = sum(probe.seen is None for probe in drive.probes.values())
    faults = {name: sum(len(getattr(verdict, name)) for verdict in found) for name in ("missing", "phantom")}
    duplicates = sum(verdict.duplicates for verdict in found)
    broken = run.back_at > run.killed_at > 0
    right = (
        bool(found)
        and all(verdict.right for verdict in found)
        and run.dead == run.poisons == POISONS
        and broken
        and not run.left
        and dropped > 0
        and bool(drive.probes)
        and not unseen
    )
    return {
        "right": right,
        "sent": total["sent"] + POISONS,
        "accepted": accepted,
        "duplicates_dropped": dropped,
        "dlq": run.dead,
        "rows": total["rows"],
        **faults,
        "duplicates": duplicates,
        "unknown": sum(verdict.unknown for verdict in found),
        "refused": sum(verdict.refused for verdict in found),
        "requests": drive.requests,
        "worker_killed_pid": run.killed_pid,
        "worker_back_s": round(run.back_at - run.killed_at, 2),
        "produce_to_queryable_ms": percentiles(drive.latencies_ms((run.killed_at, run.back_at))),
        "produce_to_queryable_with_kill_ms": percentiles(drive.latencies_ms()),
        "probes_unseen": unseen,
        "left_to_consume": run.left,
        "seconds": round(seconds, 1),
        "streams": [verdict.summary() for verdict in found],
    }


def _table(figures: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    lines = (
        ("sent", "sent", f"events in {figures['requests']:,} HTTP requests"),
        ("accepted", "accepted", "the edge said yes: in Kafka"),
        ("duplicates dropped", "duplicates_dropped", "sent again, not stored again"),
        ("in the DLQ", "dlq", "signed well, but no gateway says that"),
        ("rows in ClickHouse", "rows", "without FINAL"),
        ("missing", "missing", "accepted and not there"),
        ("duplicates", "duplicates", "there more than once"),
    )
    for title, name, note in lines:
        colour = "red" if name in {"missing", "duplicates"} and figures[name] else "default"
        table.add_row(title, f"[{colour}]{figures[name]:,}[/]", note)
    for title, name in (("produce to queryable", ""), ("  with the kill", "_with_kill")):
        times = figures[f"produce_to_queryable{name}_ms"]
        table.add_row(title, f"{times['p50']} / {times['p99']} ms", f"p50 / p99 of {times['probes']} probes")
    table.add_row(
        "worker killed", f"{figures['worker_back_s']} s", f"SIGKILL to pid {figures['worker_killed_pid']}, then back"
    )
    verdict = "[bold green]right[/]" if figures["right"] else "[bold red]WRONG[/]"
    table.add_row(verdict, f"{figures['seconds']} s", "in all")
    return table
