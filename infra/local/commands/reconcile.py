"""`./afluente reconcile`: do Postgres and ClickHouse hold the same? And if not, which rows, and mend them."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import prometheus_client
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app import audit
from app.producer import Producer
from app.reconciling import postgres, progress, repair
from app.reconciling.clickhouse import Mirrored
from app.reconciling.compare import Report, Sides, Verdict, compare
from app.reconciling.differences import KINDS, Difference
from app.reconciling.spool import Spool
from app.settings import Settings
from app.telemetry import metrics
from infra.local.faults import Fault
from infra.local.reading import carry_out
from infra.local.stack import Stack
from infra.local.terminal import AsJson, err, out, print_fault, print_hint, print_json
from schemas import mirrors
from schemas.topics import BILLS_CHANGES

PIPELINE: Final = "bills.mirror"
EXIT_DIFFERENT: Final = 1
EXIT_FAULT: Final = 3  # 2 is a wrong command line
WAIT_S: Final = 120.0
EVERY_MIN_S: Final = 10.0
SHOWN_MAX: Final = 50
KIND_WIDTH: Final = max(map(len, KINDS))
TABLE_WIDTH: Final = max(len(one.table) for one in mirrors.MIRRORS)
ADVISORY_LOCK: Final = 0x41464C56  # "AFLV": two repairs at once would undo nothing, but report each other's work

app = typer.Typer(no_args_is_help=True, help="Compare Postgres and ClickHouse row by row, at one LSN, and mend.")


@dataclass(frozen=True, slots=True)
class Run:
    """One comparison, and what was done about it. `after` is the verdict of the verification."""

    verdict: Verdict
    seconds: float
    repaired: repair.Repaired | None = None
    after: Verdict | None = None

    @property
    def final(self) -> Verdict:
        return self.after or self.verdict


@app.command()
def bills(
    *,
    tenant: Annotated[str, typer.Option("--tenant", metavar="ID", help="This tenant alone.")] = "",
    mend: Annotated[
        bool, typer.Option("--repair", help="Send what differs through the topic again; then verify.")
    ] = False,
    wait: Annotated[float, typer.Option("--wait", min=1, help="Seconds to wait for ClickHouse to catch up.")] = WAIT_S,
    every: Annotated[
        float | None,
        typer.Option("--every", min=EVERY_MIN_S, metavar="SECONDS", help="Go on, once in so many seconds."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Where --port listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Serve /metrics there; 0 = do not.")] = 0,
    metrics_file: Annotated[
        Path | None, typer.Option("--metrics-file", help="Write the metrics there, for a textfile collector.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Compare bills and bill_occurrences of Postgres with their mirrors in ClickHouse, by tenant, month and row.

    Both are compared at one LSN, so a difference is a difference and not lag: rows that change meanwhile are looked at
    again until they stand still. Each row that differs is named with its kind: missing, extra, old_version, changed,
    ghost (alive on a day it has left), newer_version. Crosses tenants, so it needs AFLUENTE_POSTGRES_OWNER_URL.

    Exit code 0 when both are equal (after --repair: are equal now), 1 when rows differ, 3 when no verdict was reached.
    """
    try:
        settings = Stack().settings
        if port:
            prometheus_client.start_http_server(port, host, registry=metrics.REGISTRY)
        while True:
            began = time.monotonic()
            status = _one(settings, _tenants(tenant), wait, mend=mend, as_json=as_json)
            if metrics_file is not None:
                prometheus_client.write_to_textfile(str(metrics_file), metrics.REGISTRY)
            if every is None:
                return status
            time.sleep(max(0.0, every - (time.monotonic() - began)))
    except (Fault, OSError) as fault:
        print_fault(str(fault))
        return EXIT_FAULT


def _one(settings: Settings, tenants: list[str], wait_s: float, *, mend: bool, as_json: bool) -> int:
    try:
        run = carry_out(_run(settings, tenants, wait_s, mend=mend))
    except (
        Fault
    ) as fault:  # with --every the next attempt may find everything well; the metric says since when it fails
        print_fault(str(fault))
        return EXIT_FAULT
    _count(run)
    if as_json:
        print_json(document(run))
    else:
        _print(run)
    if run.final.differences:
        return EXIT_DIFFERENT
    return EXIT_FAULT if run.final.unsettled else 0


def _tenants(tenant: str) -> list[str]:
    try:
        return [str(UUID(tenant))] if tenant else []
    except ValueError:
        raise Fault(f"--tenant {tenant!r} is no tenant id: `./afluente tenant list` shows them.") from None


async def _run(settings: Settings, tenants: list[str], wait_s: float, *, mend: bool) -> Run:
    url = settings.postgres_owner_url.get_secret_value()
    if not url:
        raise Fault("AFLUENTE_POSTGRES_OWNER_URL is not set: comparing crosses tenants, which only the owner may.")
    began = time.monotonic()
    with ExitStack() as spools, shown() as report:
        async with postgres.connected(url) as connection, Mirrored(settings) as mirrored:
            await postgres.require_all_tenants(connection, [one.table for one in mirrors.MIRRORS])
            try:
                partitions = await progress.partitions_of(settings.kafka_url, BILLS_CHANGES.name, tenants)
                sides = Sides(
                    connection, url, mirrored, mirrors.MIRRORS, BILLS_CHANGES.name, partitions, wait_s, report
                )
                wrong = spools.enter_context(Spool())
                verdict = await compare(sides, tenants, wrong)
                if not (mend and wrong.count):
                    return Run(verdict, time.monotonic() - began)
                repaired = await _repair(settings, sides, wrong, verdict)
                touched = sorted({chunk[0].key.tenant_id for chunk in wrong.chunks(1)})
                after = await compare(sides, touched, spools.enter_context(Spool()))
            except progress.Behind as behind:
                raise Fault(f"No verdict: {behind}.") from None
    return Run(verdict, time.monotonic() - began, repaired, after)


async def _repair(settings: Settings, sides: Sides, wrong: Spool, verdict: Verdict) -> repair.Repaired:
    async with postgres.connected(sides.owner_url) as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", ADVISORY_LOCK):
            raise Fault("Another repair is running: wait for its end, then compare again.")
        detail = {"lsn": verdict.lsn, "kinds": verdict.by_kind}
        await audit.record(connection, "reconcile.start", tenant_id=None, target=PIPELINE, detail=detail)
        producer = Producer(settings.kafka_url, timeout_ms=repair.PRODUCE_TIMEOUT_MS, client_id=repair.CLIENT_ID)
        try:
            return await repair.repair(sides, wrong, producer, lambda a, b: sides.report("sending rows again", a, b))
        finally:
            await producer.close()


@contextmanager
def shown() -> Iterator[Report]:
    """A bar on stderr that says what is being done; nothing stays of it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def report(doing: str, done: int, total: int) -> None:
            bar.update(task, description=doing, completed=done, total=total or None)

        yield report


def _count(run: Run) -> None:
    final = run.final
    for kind in KINDS:
        metrics.RECONCILE_DIFFERENCES.labels(PIPELINE, kind).set(final.by_kind.get(kind, 0))
    metrics.RECONCILE_UNSETTLED.labels(PIPELINE).set(final.unsettled)
    metrics.RECONCILE_SECONDS.labels(PIPELINE).set(run.seconds)
    metrics.RECONCILE_LAST_SUCCESS.labels(PIPELINE).set_to_current_time()


def document(run: Run) -> dict[str, Any]:
    """The run as one JSON document."""
    return {
        "equal": run.final.equal,
        "pipeline": PIPELINE,
        "seconds": round(run.seconds, 2),
        **_verdict(run.verdict),
        "repaired": asdict(run.repaired) if run.repaired else None,
        "after": _verdict(run.after) if run.after else None,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "lsn": progress.text_of(verdict.lsn),
        "tenants": verdict.tenants,
        "rows": verdict.rows,
        "passes": verdict.passes,
        "differences": verdict.differences,
        "unsettled": verdict.unsettled,
        "kinds": verdict.by_kind,
        "places": [
            {"table": table, "tenant_id": tenant, "month": month, "kind": kind, "rows": rows}
            for (table, tenant, month, kind), rows in sorted(verdict.by_place.items())
        ],
        "listed": [_difference(one) for one in verdict.noted],
    }


def _difference(found: Difference) -> dict[str, Any]:
    def values(side: Any) -> dict[str, Any] | None:
        return {name: side.values[name] for name in found.fields or ("version",)} if side is not None else None

    return {
        "table": found.key.table,
        "tenant_id": found.key.tenant_id,
        "id": found.key.id,
        "month": found.month,
        "kind": found.kind,
        "fields": found.fields,
        "postgres": values(found.postgres),
        "clickhouse": values(found.clickhouse),
    }


def _print(run: Run) -> None:
    verdict = run.verdict
    for one in verdict.noted[:SHOWN_MAX]:
        # Lines, not a table: ids are to be copied whole, however narrow the window is.
        place = f"{one.key.table:<{TABLE_WIDTH}} {one.month // 100}-{one.month % 100:02} {one.key.id}"
        fields = f"  ({', '.join(one.fields)})" if one.fields else ""
        out.print(f"[red]{one.kind:<{KIND_WIDTH}}[/] {place}  tenant {one.key.tenant_id}{fields}", soft_wrap=True)
    if verdict.differences > SHOWN_MAX:
        print_hint(f"{verdict.differences - SHOWN_MAX:,} more; --json lists the first {len(verdict.noted):,}.")
    out.print(_line(verdict, run.seconds))
    if run.repaired is not None:
        sent = run.repaired
        out.print(
            f"sent again: {sent.rows:,} rows, {sent.tombstones:,} tombstones; "
            f"{sent.held:,} held by a transaction, {sent.agreed:,} equal by then"
        )
        if sent.ahead:
            print_hint(
                f"{sent.ahead:,} rows carry an LSN in ClickHouse that Postgres has not reached (was it put back, or "
                "made anew?): no repair wins over them. Take a snapshot, then `./afluente rebuild bills`."
            )
    if run.after is not None:
        out.print(_line(run.after, run.seconds))


def _line(verdict: Verdict, seconds: float) -> str:
    where = f"{verdict.rows:,} rows of {verdict.tenants:,} tenants at LSN {progress.text_of(verdict.lsn)}"
    unsettled = f", {verdict.unsettled:,} rows would not stand still" if verdict.unsettled else ""
    if verdict.differences:
        kinds = ", ".join(f"{kind} {rows:,}" for kind, rows in sorted(verdict.by_kind.items()))
        return f"[red]✗ {verdict.differences:,} differences[/] ({kinds}{unsettled}); {where}, {seconds:.1f} s"
    mark = "[yellow]?[/] no verdict" if verdict.unsettled else "[green]✓ equal[/]"
    return f"{mark}{unsettled}: {where}, {seconds:.1f} s"
