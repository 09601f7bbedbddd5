"""`./afluente migrate`: the tables of Postgres and ClickHouse, brought to this checkout's schema."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from app.migrate import MigrationRefused, Step
from app.migrate import migrate as bring_up_to_date
from infra.local.faults import Fault
from infra.local.stack import Stack
from infra.local.terminal import AsJson, out, print_json

COLOURS = {"applied": "green", "pending": "yellow", "known": "dim"}


def _print(steps: list[Step]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("store", "file", "state", "sha256"):
        table.add_column(title)
    for step in steps:
        table.add_row(step.store, step.file, f"[{COLOURS[step.state]}]{step.state}[/]", step.checksum[:12])
    out.print(table)


def migrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be applied, and apply nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Apply schemas/postgres and schemas/clickhouse, in order and once.

    Safe to run again and at the same time. An applied file that was edited is refused. With
    AFLUENTE_CLICKHOUSE_CLUSTER the tables are made ON CLUSTER, replicated.
    """
    try:
        steps = asyncio.run(bring_up_to_date(Stack().settings, dry_run=dry_run))
    except MigrationRefused as refusal:
        raise Fault(f"{refusal}.") from refusal
    if as_json:
        print_json({"migrations": [asdict(step) for step in steps]})
    else:
        _print(steps)
