"""`./afluente replay`: source records once more through a pipeline, for rows that ClickHouse lost."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import asyncpg
import typer
from rich.table import Table
from uuid_utils import uuid7

from app import audit
from app.settings import Settings
from app.sinks.clickhouse import ClickHouseSink
from app.stored import Stored
from infra.local.faults import Fault
from infra.local.reading import bar, carry_out, confirm
from infra.local.stack import Stack
from infra.local.terminal import AsJson, out, print_hint, print_json
from infra.local.when import TIME_HELP, milliseconds, shown

if TYPE_CHECKING:
    from app.replaying import Outcome, Plan

EXIT_WRONG: Final = 1
CONNECT_S: Final = 10.0


def replay(
    *,
    pipeline: Annotated[str, typer.Option("--pipeline", help="Its name, e.g. tracking.collect.")],
    since: Annotated[str, typer.Option("--from", help=f"Kafka timestamps from here on. {TIME_HELP}")],
    until: Annotated[str, typer.Option("--to", help="And before this; now when left out.")] = "",
    partition: Annotated[int | None, typer.Option(min=0, help="This partition alone.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what is missing, restore nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Restore rows that are missing in ClickHouse, from the source topic.

    Runs the pipeline's own steps over the records of that time and inserts the events that the table does not have.
    Rows that are there stay as they are, also when the pipeline would write them differently today; rows that were
    deleted on purpose come back. Records that the worker has not committed yet are left to it, dead ones to
    [bold]dlq replay[/]. Ends with status 1 when ClickHouse refuses a row or has more duplicates than before.
    """
    settings = Stack().settings
    now_ms = time.time_ns() // 1_000_000
    window = (milliseconds(since, "--from"), milliseconds(until, "--to") if until else now_ms)
    if window[0] >= window[1]:
        raise Fault(f"--from ({shown(window[0])}) must be before --to ({shown(window[1])}).")
    replay_id = str(uuid7())
    chosen, outcome = carry_out(_run(settings, (pipeline, *window, partition), replay_id, dry_run=dry_run, yes=yes))
    document = _document(chosen, outcome, replay_id, dry_run=dry_run)
    if as_json:
        print_json(document)
    else:
        _print(chosen, outcome, document)
    if outcome.doubled or outcome.refused:
        raise typer.Exit(EXIT_WRONG)


async def _run(
    settings: Settings, asked: tuple[str, int, int, int | None], replay_id: str, *, dry_run: bool, yes: bool
) -> "tuple[Plan, Outcome]":
    # Imported here: the pipelines bring Faust along, which every other command does without.
    from agents import topology  # noqa: PLC0415
    from app import replaying  # noqa: PLC0415

    name, since_ms, until_ms, partition = asked
    known = {one.name: one for one in topology.pipelines(settings)}
    if name not in known:
        raise Fault(f"There is no pipeline {name!r}: there are {', '.join(known)}.")
    chosen = await replaying.plan(settings, known[name], replaying.Window(since_ms, until_ms), partition)
    if not dry_run:
        confirm(_question(chosen), yes=yes)
        await _audit(settings, replay_id, chosen, {"state": "started"})
    sink = ClickHouseSink(settings)
    try:
        async with Stored(settings) as stored:
            with bar("replaying") as report:
                work = replaying.Replay(chosen, sink, stored, replay_id)
                outcome = await work.run(settings.kafka_url, report, dry_run=dry_run)
    finally:
        await sink.close()
    if not dry_run:
        counts = {"missing": outcome.missing, "refused": outcome.refused, "doubled": outcome.doubled}
        await _audit(settings, replay_id, chosen, {"state": "ended", **counts})
    return chosen, outcome


async def _audit(settings: Settings, replay_id: str, chosen: "Plan", detail: dict[str, Any]) -> None:
    window = {"from": shown(chosen.window.since_ms), "to": shown(chosen.window.until_ms)}
    offsets = {str(tp.partition): span for tp, span in chosen.spans.items()}
    connection = await asyncpg.connect(settings.postgres_url.get_secret_value(), timeout=CONNECT_S)
    try:
        whole = {"replay_id": replay_id, **window, "offsets": offsets, **detail}
        await audit.record(connection, "replay.run", tenant_id=None, target=chosen.pipeline.name, detail=whole)
    finally:
        await connection.close()


def _question(chosen: "Plan") -> str:
    tables = ", ".join(rows.table for rows in chosen.pipeline.writes)
    return f"Read {chosen.records:,} records of {chosen.pipeline.reads.name} and restore what {tables} lacks?"


def _document(chosen: "Plan", outcome: "Outcome", replay_id: str, *, dry_run: bool) -> dict[str, Any]:
    return {
        "replay_id": replay_id,
        "pipeline": chosen.pipeline.name,
        "from": shown(chosen.window.since_ms),
        "to": shown(chosen.window.until_ms),
        "dry_run": dry_run,
        "records": chosen.records,
        "left_to_worker": chosen.waiting,
        "partitions": {str(tp.partition): {"first": a, "last": b} for tp, (a, b) in chosen.spans.items()},
        **asdict(outcome),
        "restored": 0 if dry_run else outcome.missing - outcome.refused,
        "doubled": outcome.doubled,
    }


def _print(chosen: "Plan", outcome: "Outcome", document: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("table", "count() before", "after", "uniqExact before", "after", "duplicates"):
        table.add_column(title, justify="left" if title == "table" else "right")
    for name, before in outcome.before.items():
        after = outcome.after[name]
        colour = "green" if after.duplicates <= before.duplicates else "red"
        cells = (f"{before.rows:,}", f"{after.rows:,}", f"{before.unique:,}", f"{after.unique:,}")
        table.add_row(name, *cells, f"[{colour}]{after.duplicates:,}[/]")
    out.print(table)
    left = f", {outcome.dead:,} are in the DLQ" if outcome.dead else ""
    left += f", {outcome.duplicates:,} duplicates" if outcome.duplicates else ""
    left += f", {outcome.poison:,} cannot be processed" if outcome.poison else ""
    out.print(f"{chosen.records:,} records read, {outcome.processed:,} processed{left}")
    if document["dry_run"]:
        out.print(f"[yellow]{outcome.missing:,}[/] rows are missing; nothing was restored (dry run)")
    else:
        out.print(f"[green]{document['restored']:,}[/] rows restored, {outcome.present:,} were there")
    if outcome.refused:
        print_hint(f"ClickHouse refuses {outcome.refused:,} rows: they are still missing.")
    if chosen.waiting:
        print_hint(f"{chosen.waiting:,} records are not committed yet and are left to the worker.")
