"""`./afluente lag`: how many records wait, by topic and partition, and which ranges are being worked on."""

import time
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from infra.local.lag import PartitionLag, pending_text, read_lag
from infra.local.stack import Stack
from infra.local.terminal import AsJson, out, print_json
from infra.local.topics import admin_client

WATCH_INTERVAL_S = 1.0


def _table(rows: list[PartitionLag], group: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    for title in ("topic", "partition", "committed", "end", "lag", "pending"):
        table.add_column(title, justify="left" if title in {"topic", "pending"} else "right")
    for row in rows:
        committed = "-" if row.committed is None else f"{row.committed:,}"
        colour = "green" if row.lag == 0 else "yellow"
        cells = (row.topic, str(row.partition), committed, f"{row.end:,}", f"[{colour}]{row.lag:,}[/]")
        table.add_row(*cells, pending_text(row.pending))
    table.caption = f"group {group}, {sum(row.lag for row in rows):,} records wait"
    return table


def lag(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, once a second, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how far the workers are behind. A partition without a commit counts from its first record."""
    settings = Stack().settings
    admin = admin_client(settings)
    if as_json:
        rows = read_lag(admin, settings)
        total = sum(row.lag for row in rows)
        print_json(
            {
                "group": settings.group_id,
                "lag": total,
                "partitions": [{"group": settings.group_id, **row.document} for row in rows],
            }
        )
        return
    if not watch:
        out.print(_table(read_lag(admin, settings), settings.group_id))
        return
    with Live(_table(read_lag(admin, settings), settings.group_id), console=out, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_INTERVAL_S)
            live.update(_table(read_lag(admin, settings), settings.group_id), refresh=True)
