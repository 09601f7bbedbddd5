"""`./afluente lag`: what waits, by pipeline and partition, how old it is, and whether it moves; and the slot's lag."""

import asyncio
import time
from typing import Annotated, Any, Final

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table

from app.settings import GROUP_ID, Settings
from infra.local.cdc_state import IN_ORDER, Report, report
from infra.local.faults import Fault
from infra.local.lag import STUCK_AFTER_S, PartitionLag, pending_text, read_lag
from infra.local.stack import Stack
from infra.local.terminal import AsJson, out, print_json
from infra.local.topics import admin_client

WATCH_INTERVAL_S: Final = 1.0
SECOND_LOOK_S: Final = 2.0  # between two looks a pipeline that works commits several times
COLOURS: Final = {"empty": "green", "moving": "yellow", "stuck": "red"}
MIB: Final = 1 << 20


def _table(rows: list[PartitionLag]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    for title in ("pipeline", "partition", "committed", "end", "lag", "oldest", "state", "pending"):
        table.add_column(title, justify="left" if title in {"pipeline", "state", "pending"} else "right")
    for row in rows:
        table.add_row(
            row.pipeline, str(row.partition),
            "-" if row.committed is None else f"{row.committed:,}", f"{row.end:,}", f"{row.lag:,}",
            "" if row.oldest_s is None else f"{row.oldest_s:,.1f} s",
            f"[{COLOURS[row.state]}]{row.state}[/]", pending_text(row.pending),
        )  # fmt: skip
    oldest = max((row.oldest_s for row in rows if row.oldest_s is not None), default=None)
    since = "" if oldest is None else f", the oldest for {oldest:,.1f} s"
    table.caption = f"group {GROUP_ID}, {sum(row.lag for row in rows):,} records wait{since}"
    return table


def _slot(settings: Settings) -> Report | Fault | None:
    """Change data capture, where it is used: None where there is none, the fault when it cannot be seen."""
    if not settings.postgres_cdc_url.get_secret_value():
        return None
    try:
        found = asyncio.run(report(settings))
    except Fault as fault:
        return fault
    unused = found.slot is None and found.verdict in {"not applied", "connect away"}
    return None if unused else found


def _slot_text(found: Report | Fault) -> str:
    if isinstance(found, Fault):
        return f"[red]slot: unknown[/], {str(found).splitlines()[0]}"
    colour = "green" if found.verdict in IN_ORDER else "red"
    lag = "absent" if found.slot is None else f"{found.slot.lag_bytes / MIB:,.2f} MiB"
    delay = "" if found.delay_s is None else f", {found.delay_s:.1f} s from commit to Kafka"
    return f"slot lag {lag}{delay}: [{colour}]{found.verdict}[/]"


def _slot_document(found: Report | Fault | None) -> dict[str, Any] | None:
    if found is None:
        return None
    if isinstance(found, Fault):
        return {"verdict": "unknown", "why": str(found)}
    return {
        "verdict": found.verdict,
        "lag_bytes": found.slot.lag_bytes if found.slot else None,
        "delay_s": found.delay_s,
    }


def _look(settings: Settings) -> list[PartitionLag]:
    """One look, or two when something old waits: one alone cannot tell whether it moves."""
    admin = admin_client(settings)
    rows = read_lag(admin, settings)
    if any(row.oldest_s is not None and row.oldest_s >= STUCK_AFTER_S for row in rows):
        time.sleep(SECOND_LOOK_S)
        rows = read_lag(admin, settings, rows)
    return rows


def _shown(rows: list[PartitionLag], slot: Report | Fault | None) -> Group:
    return Group(_table(rows), *([] if slot is None else [_slot_text(slot)]))


def lag(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, once a second, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how far each pipeline is behind: records, seconds, whether it moves; and the slot of change data capture.

    [bold]empty[/]: nothing waits. [bold]moving[/]: records wait and are taken. [bold]stuck[/]: records have waited for
    10 s or more and nothing was committed between two looks: see docs/runbooks/PipelineStands.md. A partition without a
    commit counts from its first record.
    """
    settings = Stack().settings
    rows = _look(settings)
    if as_json:
        total = sum(row.lag for row in rows)
        stuck = sorted({row.pipeline for row in rows if row.state == "stuck"})
        print_json({
            "group": settings.group_id, "lag": total, "stuck": stuck, "partitions": [row.document for row in rows],
            "slot": _slot_document(_slot(settings)),
        })  # fmt: skip
        return
    if not watch:
        out.print(_shown(rows, _slot(settings)))
        return
    admin = admin_client(settings)
    with Live(_shown(rows, _slot(settings)), console=out, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_INTERVAL_S)
            rows = read_lag(admin, settings, rows)
            live.update(_shown(rows, _slot(settings)), refresh=True)
