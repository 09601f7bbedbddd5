"""`./afluente cdc ...`: Debezium's connector between Postgres and Kafka: apply, look, restart, snapshot, mend."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from infra.local import cdc_actions as actions
from infra.local import cdc_watch
from infra.local.cdc_state import ADVICE, IN_ORDER, Report, definition
from infra.local.cdc_state import report as read_report
from infra.local.reading import carry_out
from infra.local.stack import Stack
from infra.local.terminal import AsJson, err, out, print_hint, print_json

NOT_IN_ORDER = 1
MIB = 1 << 20
DELETED_HINT = (
    "Rows that were deleted while the slot was away are still in ClickHouse, and no snapshot can name them: run\n"
    "`./afluente reconcile bills --repair` now."
)

app = typer.Typer(
    no_args_is_help=True,
    help="Change data capture: Postgres to Kafka by Debezium. docs/cdc.md says how it works and how it fails.",
    epilog=(
        "[bold]Examples[/]\n\n./afluente cdc apply\n\n./afluente cdc status --json\n\n"
        "./afluente cdc snapshot bills --tenant 6f1c…\n\n./afluente cdc mend"
    ),
)
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until the snapshot is done.")]


@contextmanager
def _shown() -> Iterator[Callable[[str], None]]:
    """What is waited for, on stderr while it lasts: a line that changes, or lines where there is no terminal."""
    if not err.is_terminal:
        told: list[str] = []

        def line(text: str) -> None:
            if told[-1:] != [text]:
                told.append(text)
                err.print(f"  {text} …", markup=False)

        yield line
        return
    with err.status("…") as shown:
        yield shown.update


@app.command()
def apply(as_json: AsJson = False) -> None:
    """Check role, grants and publication, write the heartbeats, PUT the connector, wait until it runs.

    Then it orders the first snapshot, which goes on by itself: `./afluente cdc status` shows it. Run again it changes
    nothing that is as it should be. The settings are infra/debezium/bills.json, here and in production; where Postgres
    is and its password come from CONNECT_SECRET_POSTGRES_* in Connect's own environment.
    """
    with _shown() as tell:
        done = carry_out(actions.apply(Stack().settings, tell))
    if as_json:
        print_json({"connector": definition().name, **asdict(done)})
        return
    verb = "applied" if done.changed else "is as it should be"
    beats = f"heartbeats +{done.heartbeats_added} -{done.heartbeats_removed}"
    out.print(f"[green]✓[/] {definition().name} {verb} and runs ({done.seconds:.1f} s, {beats})")
    if done.snapshot_ordered:
        tables = ", ".join(done.snapshot_ordered)
        out.print(f"[green]✓[/] the first snapshot of {tables} begins; `./afluente cdc status` shows it")


def _size(count: int | None) -> str:
    return "unlimited" if count is None else f"{count / MIB:,.1f} MiB"


def _rows(found: Report) -> Iterator[tuple[str, str]]:
    slot, connector = found.slot, found.connector
    yield "connector", f"{definition().name}: {connector.state.lower() if connector else 'absent'}"
    for task in found.tasks:
        yield f"task {task.number}", task.state.lower()
    if connector and connector.failure:
        yield "last error", connector.failure
    yield "slot", f"{definition().slot}: " + ("absent" if slot is None else "read" if slot.active else "not read")
    if slot:
        yield "wal_status", slot.wal_status + (f" ({slot.reason})" if slot.reason else "")
        yield "confirmed", f"{slot.document['confirmed_lsn']} of {slot.document['current_lsn']}"
        yield "lag", _size(slot.lag_bytes)
        yield "kept for it", f"{_size(slot.held_bytes)}; {_size(slot.safe_bytes)} more until Postgres drops it"
    yield "delay", "unknown" if found.delay_s is None else f"{found.delay_s:.1f} s from commit to Kafka"
    yield "heartbeat", "none" if found.heartbeat_age_s is None else f"{found.heartbeat_age_s:.1f} s ago"
    missing = found.missing_tables
    yield "publication", definition().publication + (f" lacks {', '.join(missing)}" if missing else ": as wanted")
    if found.snapshot:
        yield "snapshot", f"under way: {found.snapshot.text}"


def _print(found: Report) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for title, text in _rows(found):
        table.add_row(title, text)
    out.print(table, markup=False)
    colour = "green" if found.verdict in IN_ORDER else "red"
    out.print(f"[{colour}]{found.verdict}[/]: {ADVICE[found.verdict]}")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show connector, tasks, slot, publication and the last error, and say what to do. Status 1 when out of order."""
    found = carry_out(read_report(Stack().settings))
    if as_json:
        print_json(found.document)
    else:
        _print(found)
    raise typer.Exit(0 if found.verdict in IN_ORDER else NOT_IN_ORDER)


@app.command()
def restart(as_json: AsJson = False) -> None:
    """Start failed tasks again where they stopped, and wait until they run."""
    with _shown() as tell:
        found = carry_out(actions.restart(Stack().settings, tell))
    if as_json:
        print_json(found.document)
    else:
        _print(found)


def _tell_snapshot(done: actions.Snapshot, *, as_json: bool, **more: Any) -> None:
    if as_json:
        print_json({**asdict(done), **more})
        return
    tables = ", ".join(done.tables)
    ended = (
        f"done in {done.seconds:.1f} s" if done.seconds is not None else "asked for; `./afluente cdc status` shows it"
    )
    out.print(f"[green]✓[/] snapshot of {tables} {ended}")


@app.command()
def snapshot(
    tables: Annotated[list[str] | None, typer.Argument(metavar="[TABLE]...", help="All when none is named.")] = None,
    tenant: Annotated[str, typer.Option("--tenant", metavar="ID", help="Rows of this tenant alone.")] = "",
    where: Annotated[str, typer.Option("--where", metavar="SQL", help="Rows that fulfil this condition alone.")] = "",
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Send rows once more, as `r` records, while the stream goes on. Nothing is lost or doubled by it.

    ./afluente cdc snapshot bills bill_occurrences --where "due_date >= '2026-01-01'"
    """
    chosen = actions.captured(tables or ())
    with _shown() as tell:
        rows = actions.condition(tenant, where)
        done = carry_out(actions.snapshot(Stack().settings, chosen, rows, tell, wait=wait))
    _tell_snapshot(done, as_json=as_json)


@app.command()
def mend(
    force: Annotated[bool, typer.Option("--force", help="Also when the slot looks well.")] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Replace a lost or missing slot and send every row once more, so that no gap remains. Status 0 if all is well."""
    with _shown() as tell:
        done = carry_out(actions.mend(Stack().settings, tell, force=force, wait=wait))
    if done is None:
        if as_json:
            print_json({"mended": False})
        else:
            out.print("[green]✓[/] the slot is there and whole: nothing to mend")
        return
    _tell_snapshot(done, as_json=as_json, mended=True, next="./afluente reconcile bills --repair")
    if not as_json:
        print_hint(DELETED_HINT)


@app.command()
def watch() -> None:
    """Look every few seconds, log each change of the verdict, and serve /metrics for Prometheus, until Ctrl-C.

    Listens on AFLUENTE_WATCH_HOST and AFLUENTE_WATCH_PORT. It asks Postgres as afluente_cdc: no superuser is needed.
    """
    cdc_watch.run(Stack().settings)
