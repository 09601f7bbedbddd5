"""`./afluente rebuild`: mirrors made anew from their topic, proven equal, and swapped with the ones that are read."""

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from uuid_utils import uuid7

from app import audit
from app.reconciling import postgres, progress
from app.reconciling.clickhouse import Mirrored
from app.reconciling.compare import Sides, Verdict, compare
from app.reconciling.spool import Spool
from app.settings import Settings
from app.sinks.clickhouse import ClickHouseSink
from infra.local.commands.reconcile import PIPELINE, WAIT_S, shown
from infra.local.faults import Fault
from infra.local.reading import carry_out, confirm
from infra.local.stack import Stack
from infra.local.terminal import AsJson, out, print_hint, print_json
from schemas import mirrors
from schemas.topics import BILLS_CHANGES

if TYPE_CHECKING:
    from app.rebuilding import Rebuild

EXIT_UNEQUAL: Final = 1
ADVISORY_LOCK: Final = 0x41464C57  # "AFLW": two rebuilds would take each other's tables away

app = typer.Typer(no_args_is_help=True, help="Build ClickHouse mirrors anew from their topic and swap them in.")


@dataclass(slots=True)
class Outcome:
    """What a rebuild came to."""

    rebuild_id: str
    unlike: int = 0  # rows in which the new tables differ from those that were read
    against_postgres: Verdict | None = None
    swapped: bool = False
    swap_s: float = 0.0
    seconds: float = 0.0


@app.command()
def bills(
    *,
    cut: Annotated[
        bool, typer.Option("--cut", help="Retention has taken the topic's beginning, and a snapshot followed.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Bring the tables of before the last swap up to date, and swap back.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build and compare, do not swap.")] = False,
    wait: Annotated[float, typer.Option("--wait", min=1, help="Seconds to wait for ClickHouse to catch up.")] = WAIT_S,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> int:
    """Read bills.changes from its beginning into bills_next and bill_occurrences_next, and swap them in.

    The worker goes on meanwhile. Before the swap the new tables must equal those that are read, to the byte of every
    row's fingerprint; when they do not, or when --cut is given, they must equal Postgres at one LSN instead: then it
    was the former tables that were wrong. The former tables stay as bills_before and bill_occurrences_before.

    Exit code 0 when swapped (or, with --dry-run, when they may be), 1 when the new tables are not right.
    """
    settings = Stack().settings
    if not settings.postgres_owner_url.get_secret_value():
        raise Fault("AFLUENTE_POSTGRES_OWNER_URL is not set: a rebuild is the owner's act.")
    if not dry_run:
        confirm("Build bills and bill_occurrences anew and swap them in?", yes=yes)
    outcome, counts = carry_out(_run(settings, wait, cut=cut, rollback=rollback, dry_run=dry_run))
    right = outcome.swapped or (dry_run and _right(outcome))
    if as_json:
        against = outcome.against_postgres
        document = {**asdict(outcome), "against_postgres": against.equal if against is not None else None}
        print_json({"right": right, **document, **counts})
    else:
        _print(outcome, counts, right=right)
    return 0 if right else EXIT_UNEQUAL


async def _run(
    settings: Settings, wait_s: float, *, cut: bool, rollback: bool, dry_run: bool
) -> tuple[Outcome, dict[str, Any]]:
    # Imported here: the pipelines bring Faust along, which every other command does without.
    from agents import topology  # noqa: PLC0415
    from app import rebuilding  # noqa: PLC0415

    began = time.monotonic()
    pipeline = next(one for one in topology.pipelines(settings) if one.name == PIPELINE)
    outcome = Outcome(rebuild_id=str(uuid7()))
    suffix = rebuilding.BEFORE if rollback else rebuilding.NEXT
    sink = ClickHouseSink(settings)
    url = settings.postgres_owner_url.get_secret_value()
    try:
        async with postgres.connected(url) as connection, Mirrored(settings) as mirrored:
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", ADVISORY_LOCK):
                raise Fault("Another rebuild is running: wait for its end.")
            with shown() as report:
                work = rebuilding.Rebuild(settings, pipeline, mirrors.MIRRORS, sink, outcome.rebuild_id, report)
                await work.begin(cut_allowed=cut or rollback)
                await (work.resume(mirrored, suffix) if rollback else work.make(mirrored))
                await work.catch_up(suffix)
                outcome.unlike = await work.unlike(mirrored, suffix)
                if cut or outcome.unlike:
                    outcome.against_postgres = await _against_postgres(settings, work, suffix, wait_s)
                if _right(outcome) and not dry_run:
                    await work.catch_up(suffix)
                    outcome.swap_s = await work.swap(mirrored, suffix)
                    outcome.swapped = True
            outcome.seconds = time.monotonic() - began
            detail = {"unlike": outcome.unlike, "swapped": outcome.swapped, "rollback": rollback, **asdict(work.counts)}
            detail["rebuild_id"] = outcome.rebuild_id
            await audit.record(connection, "rebuild.run", tenant_id=None, target=PIPELINE, detail=detail)
    finally:
        await sink.close()
    return outcome, asdict(work.counts)


async def _against_postgres(settings: Settings, work: "Rebuild", suffix: str, wait_s: float) -> Verdict:
    """Compare the new tables with Postgres, once they have been read up to where the worker has seen the LSN."""
    url = settings.postgres_owner_url.get_secret_value()
    partitions = await progress.partitions_of(settings.kafka_url, BILLS_CHANGES.name, ())

    async def ready() -> None:
        await work.catch_up(suffix)

    async with postgres.connected(url) as connection, Mirrored(settings, suffix) as coming:
        await postgres.require_all_tenants(connection, [one.table for one in mirrors.MIRRORS])
        try:
            with Spool() as wrong:
                sides = Sides(
                    connection, url, coming, mirrors.MIRRORS, BILLS_CHANGES.name, partitions, wait_s, work.report, ready
                )
                return await compare(sides, (), wrong)
        except progress.Behind as behind:
            raise Fault(f"No verdict: {behind}.") from None


def _right(outcome: Outcome) -> bool:
    if outcome.against_postgres is not None:
        return outcome.against_postgres.equal
    return not outcome.unlike


def _print(outcome: Outcome, counts: dict[str, Any], *, right: bool) -> None:
    left = f", {counts['poison']:,} cannot be processed" if counts["poison"] else ""
    left += f", {counts['refused']:,} rows refused" if counts["refused"] else ""
    out.print(f"{counts['records']:,} records read, {counts['rows']:,} rows written{left}, {outcome.seconds:.1f} s")
    against = outcome.against_postgres
    if outcome.unlike:
        print_hint(f"{outcome.unlike:,} rows of the tables that were read differ from the new ones.")
    if against is not None:
        said = "equal Postgres" if against.equal else f"differ from Postgres in {against.differences:,} rows"
        out.print(f"The new tables {said} at LSN {progress.text_of(against.lsn)}.")
    if outcome.swapped:
        out.print(
            f"[green]✓[/] swapped in {outcome.swap_s * 1000:.0f} ms. The former tables are bills_before and "
            "bill_occurrences_before: `./afluente rebuild bills --rollback` brings them back."
        )
    elif right:
        out.print("[green]✓[/] equal: they may be swapped in; nothing was changed (dry run)")
    else:
        out.print("[red]✗[/] not swapped: the new tables are not what Postgres has. They stay as *_next to look at.")
