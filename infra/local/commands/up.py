"""`./afluente up`: from an empty folder to a stack that takes events, with a line for each step on the way."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from infra.local import jars
from infra.local.backup_manifest import refuse_cut_off
from infra.local.environment import current_environ, misspelt
from infra.local.parts import BY_NAME, EXTRAS, SERVICES, USUAL
from infra.local.stack import Progress as PartUp
from infra.local.stack import Stack
from infra.local.terminal import AsJson, err, out, print_hint, print_json

TITLE_WIDTH = 12


def line(title: str, seconds: float, rest: str = "") -> str:
    """One finished step."""
    return f"[green]✓[/] {title:<{TITLE_WIDTH}} {seconds:6.1f} s  [dim]{rest}[/]"


def bring_jars(group: str) -> str:
    """Makes sure that a group of jars is there, and says what that took."""
    wanting = jars.missing(group)
    if not wanting:
        return "checked"
    if not err.is_terminal:
        err.print(f"  fetching {len(wanting)} jars for {group}, {sum(jar.size for jar in wanting) / 1e6:.0f} MB …")
        return f"{jars.ensure(group)} fetched and checked"
    columns = (TextColumn("  jars"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    # On stderr and gone when done: stdout keeps the one line.
    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("jars", total=sum(jar.size for jar in wanting))
        count = jars.ensure(group, lambda size: progress.advance(bar, size))
    return f"{count} fetched and checked"


def bring_up(stack: Stack, names: Sequence[str], *, quiet: bool = False) -> list[dict[str, object]]:
    """Starts these parts and returns one row a finished step; prints each as it comes unless quiet."""
    rows: list[dict[str, object]] = []

    def step(title: str, began: float, rest: str) -> None:
        rows.append({"name": title.lower(), "title": title, "seconds": round(time.monotonic() - began, 2)})
        if not quiet:
            out.print(line(title, time.monotonic() - began, rest))

    def report(part: PartUp) -> None:
        rows.append(asdict(part))
        if not quiet:
            out.print(line(part.title, part.seconds, part.address + (" (was up)" if part.was_up else "")))

    began = time.monotonic()
    stack.prepare()
    step("Environment", began, str(stack.home.root))
    for group in [BY_NAME[name].jars for name in names if BY_NAME.get(name) and BY_NAME[name].jars]:
        began = time.monotonic()
        step("Jars", began, f"{group}: {bring_jars(group)}")
    stack.up(names, report)
    return rows


def up(
    only: Annotated[
        str, typer.Option("--only", metavar="NAME[,NAME]", help=f"Start these alone: {', '.join(SERVICES)}.")
    ] = "",
    cdc: Annotated[
        bool | None,
        typer.Option(
            "--cdc/--no-cdc", help="With Kafka Connect and Debezium; the choice holds until the other is made."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start the stack on this machine, or bring back what is missing from it. Running it twice is harmless.

    Ports and places come from the environment: AFLUENTE_HOME (.afluente), AFLUENTE_EDGE_PORT (8000),
    AFLUENTE_KAFKA_PORT (9092), AFLUENTE_POSTGRES_PORT (55432), AFLUENTE_CLICKHOUSE_PORT (8123),
    AFLUENTE_WORKER_PORT (8081); with --cdc AFLUENTE_CONNECT_PORT (8083) and AFLUENTE_WATCH_PORT (8084).
    The first start writes secrets and ports to local.env in that home.
    """
    stack = Stack()
    refuse_cut_off(stack.home)
    for hint in misspelt(current_environ()):
        print_hint(f"note: {hint}")
    began = time.monotonic()
    extras = EXTRAS if stack.chosen_cdc(cdc) else ()
    names = [name.strip() for name in only.split(",") if name.strip()] if only else [*USUAL, *extras]
    rows = bring_up(stack, names, quiet=as_json)
    if as_json:
        print_json({"seconds": round(time.monotonic() - began, 2), "steps": rows, **stack.status()})
        return
    out.print(f"Up in {time.monotonic() - began:.1f} s. `./afluente status` shows it, `./afluente down` stops it.")
