"""`./afluente demo bills`: bills over HTTP and by hand into Postgres, by CDC into ClickHouse, equal to the cent.

Starts what does not run, Kafka Connect with Debezium too. Three tenants make, pay, edit, cancel and delete bills, psql
writes past the API, and then the figures of both databases stand side by side.
"""

import asyncio
import random
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Any, Final
from uuid import UUID

import httpx
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app import credentials
from app.settings import Settings
from infra.local import postgres
from infra.local.commands.up import bring_up
from infra.local.faults import Fault
from infra.local.parts import USUAL
from infra.local.record import living_supervisor
from infra.local.stack import Stack
from infra.local.terminal import AsJson, err, out, print_fault, print_json
from loadtest import bills_traffic
from loadtest.bills_figures import CATEGORY, MONTH, Ends, Figure, Figures, Place

TENANTS: Final = ("aurora", "birch", "cedar")
SEED: Final = 7
CONVERGE_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.1
REQUEST_TIMEOUT_S: Final = 20.0
NOTHING: Final = Figure(0, 0, 0)


@dataclass(slots=True)
class Shown:
    """What the demo saw."""

    names: dict[str, str] = field(default_factory=dict)  # tenant id -> name
    done: Counter[str] = field(default_factory=Counter)
    converged_s: float | None = None  # from the last commit to equal figures
    months: tuple[Figures, Figures] = ({}, {})  # as ClickHouse, and as Postgres says
    categories: tuple[Figures, Figures] = ({}, {})

    @property
    def right(self) -> bool:
        pairs = (self.months, self.categories)
        return self.converged_s is not None and all(theirs == ours and ours for theirs, ours in pairs)


def bills(
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards.")] = False,
    as_json: AsJson = False,
) -> int:
    """Prove change data capture on this machine: bills by HTTP and by psql, and both databases equal to the cent.

    Exit code 0 only if every month and category of every tenant is the same in ClickHouse and in Postgres. A stack
    that did not run before is stopped again at the end; its data stays in AFLUENTE_HOME until [bold]clean[/].
    """
    stack = Stack()
    was_up = living_supervisor(stack.home) is not None
    began = time.monotonic()
    try:
        stack.chosen_cdc(choice=True)
        bring_up(stack, [*USUAL, "connect"], quiet=as_json)
        try:
            shown = asyncio.run(_live(stack.settings))
        except (httpx.HTTPError, bills_traffic.RefusedByEdge) as error:
            raise Fault(f"{type(error).__name__}: {error}") from None
    finally:
        if not was_up and not keep:
            _say("Stopping the stack …")
            stack.down()
    if as_json:
        print_json(document(shown, time.monotonic() - began))
    else:
        _print(shown, time.monotonic() - began)
    return 0 if shown.right else 1


async def _live(settings: Settings) -> Shown:
    shown = Shown()
    pool = await credentials.connect(settings.postgres_url.get_secret_value())
    limits = httpx.Limits(max_connections=len(TENANTS))
    address = f"http://127.0.0.1:{settings.edge_port}"
    keys: list[UUID] = []
    try:
        directory = credentials.Credentials(pool, settings.master_key_bytes)
        async with httpx.AsyncClient(
            base_url=address, limits=limits, timeout=REQUEST_TIMEOUT_S, trust_env=False
        ) as client:
            households = []
            for number, name in enumerate(TENANTS):
                tenant_id = await directory.create_tenant(f"demo-{name}-{uuid.uuid4().hex[:8]}")
                key_id, key = await directory.create_key(tenant_id, "app")
                keys.append(key_id)
                chance = random.Random(SEED + number)  # nosec B311 # noqa: S311 - what is bought is no secret
                households.append(bills_traffic.Household(name, str(tenant_id), client, key, chance))
            _say(f"{len(TENANTS)} tenants make, pay, edit, cancel and delete bills over HTTP …")
            async with asyncio.TaskGroup() as group:
                for household in households:
                    group.create_task(household.live())
            _say("psql writes a few rows past the API …")
            by_hand = await asyncio.to_thread(
                bills_traffic.by_hand,
                postgres.binary("psql"), settings.postgres_url.get_secret_value(), households[0].tenant_id,
            )  # fmt: skip
        for household in households:
            shown.names[household.tenant_id] = household.name
            shown.done += household.done
        shown.done["statement by psql"] = by_hand
        await _converge(settings, shown)
        for key_id in keys:
            await directory.revoke_key(key_id)
    finally:
        await pool.close()
    return shown


async def _converge(settings: Settings, shown: Shown) -> None:
    """Look at both ends until they say the same; the clock starts at the last commit."""
    began = time.monotonic()
    tenants = [*shown.names]
    ends = await Ends.of(settings)
    columns = (TextColumn("{task.description:<48}"), BarColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
            bar = progress.add_task("comparing", total=None)
            while time.monotonic() - began < CONVERGE_TIMEOUT_S:
                theirs, ours = await ends.mirrored(MONTH, tenants), await ends.written(MONTH, tenants)
                equal = sum(theirs.get(place) == figure for place, figure in ours.items())
                progress.update(
                    bar, description=f"{equal} of {len(ours)} months are equal", completed=equal, total=len(ours)
                )
                if await ends.equal(tenants):
                    shown.converged_s = time.monotonic() - began
                    break
                await asyncio.sleep(POLL_S)
        shown.months = (await ends.mirrored(MONTH, tenants), await ends.written(MONTH, tenants))
        shown.categories = (await ends.mirrored(CATEGORY, tenants), await ends.written(CATEGORY, tenants))
    finally:
        await ends.close()


def _say(text: str) -> None:
    err.print(text, style="dim")


def document(shown: Shown, seconds: float) -> dict[str, Any]:
    """All of it as one JSON document. Money in hundredths."""

    def lines(pair: tuple[Figures, Figures], label: str) -> list[dict[str, Any]]:
        theirs, ours = pair
        return [
            {
                "tenant": shown.names[place.tenant_id],
                label: place.label,
                "currency": place.currency,
                "clickhouse": theirs.get(place, NOTHING)._asdict(),
                "postgres": ours.get(place, NOTHING)._asdict(),
            }
            for place in sorted(theirs.keys() | ours.keys(), key=lambda one: _order(shown, one))
        ]

    return {
        "right": shown.right,
        "converged_s": None if shown.converged_s is None else round(shown.converged_s, 2),
        "done": dict(shown.done),
        "months": lines(shown.months, "month"),
        "categories": lines(shown.categories, "category"),
        "seconds": round(seconds, 1),
    }


def _order(shown: Shown, place: Place) -> tuple[str, str, str]:
    return shown.names[place.tenant_id], place.label, place.currency


def _print(shown: Shown, seconds: float) -> None:
    for title, pair in (("month", shown.months), ("category", shown.categories)):
        out.print(_table(shown, title, pair))
    out.print(", ".join(f"{what} {count:,}" for what, count in shown.done.items()), style="dim")
    if shown.converged_s is None:
        print_fault(
            f"Not equal {CONVERGE_TIMEOUT_S:.0f} s after the last commit: `./afluente reconcile bills` names rows."
        )
    else:
        out.print(
            f"[green]✓ equal to the cent[/] {shown.converged_s:.1f} s after the last commit; {seconds:.1f} s in all"
        )


def _table(shown: Shown, title: str, pair: tuple[Figures, Figures]) -> Table:
    theirs, ours = pair
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    for name in ("tenant", title, ""):
        table.add_column(name)
    for name in ("due, ClickHouse", "due, Postgres", "paid, ClickHouse", "paid, Postgres", ""):
        table.add_column(name, justify="right")
    before = ""
    for place in sorted(theirs.keys() | ours.keys(), key=lambda one: _order(shown, one)):
        left, right = theirs.get(place, NOTHING), ours.get(place, NOTHING)
        name = shown.names[place.tenant_id]
        mark = "[green]=[/]" if left == right else "[red]≠[/]"
        cells = (_money(left.due), _money(right.due), _money(left.paid), _money(right.paid))
        table.add_row(name if name != before else "", place.label, place.currency, *cells, mark)
        before = name
    return table


def _money(hundredths: int) -> str:
    return f"{hundredths // 100:,}.{hundredths % 100:02}"
