"""`./afluente dlq list|show|replay|discard`: the records that could not be processed, and what is done with them."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from app import dead_letters, source
from app.dead_letter_actions import OPEN, REASON_CHARACTERS_MAX, STATES, Act, actions
from app.dead_letters import CHUNK_RECORDS, Entry, Found, Identity, Selection
from app.producer import Producer
from app.settings import Settings
from app.stored import Stored
from infra.local.faults import Fault
from infra.local.reading import bar, carry_out, confirm
from infra.local.stack import Stack
from infra.local.terminal import AsJson, out, print_hint, print_json
from infra.local.when import TIME_HELP, milliseconds, shown
from schemas.rows import EVENT, Rows

PRODUCE_TIMEOUT_MS: Final = 30_000
RATE_DEFAULT: Final = 1_000  # a worker takes a hundred times that; live traffic should not notice
RATE_MAX: Final = 100_000
LIMIT_DEFAULT: Final = 50
ERROR_SHOWN_CHARACTERS: Final = 120

app = typer.Typer(
    no_args_is_help=True,
    help="Dead letters: records that could not be processed. Look, fix the cause, replay; or discard.",
    epilog=(
        "[bold]Examples[/]\n\n./afluente dlq list --reason unknown_event --from 24h\n\n"
        "./afluente dlq show gateway.received/2/1041 --body\n\n"
        "./afluente dlq replay --reason unknown_event --dry-run\n\n"
        "./afluente dlq discard gateway.received/2/1041 --why 'a test of the gateway'"
    ),
)

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="As `dlq list` prints them.")]
Pipeline = Annotated[str, typer.Option("--pipeline", help="Died in this pipeline.")]
Reason = Annotated[str, typer.Option("--reason", help="Died for this reason.")]
Tenant = Annotated[str, typer.Option("--tenant", help="Of this tenant (its id).")]
Since = Annotated[str, typer.Option("--from", help=f"Died at this time or later. {TIME_HELP}")]
Until = Annotated[str, typer.Option("--to", help="Died before this time.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=dead_letters.SELECTED_MAX, help="At most so many.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show which, and do nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass(frozen=True, slots=True)
class Listed:
    """What was found, with what was done about it."""

    entries: list[Entry]
    acts: dict[Identity, Act]
    unreadable: int

    def state(self, entry: Entry) -> str:
        return self.acts[entry.identity].action if entry.identity in self.acts else OPEN

    def in_state(self, state: str) -> list[Entry]:
        return [entry for entry in self.entries if state in {"", self.state(entry)}]


@app.command("list")
def list_(
    *,
    pipeline: Pipeline = "",
    reason: Reason = "",
    tenant: Tenant = "",
    since: Since = "",
    until: Until = "",
    state: Annotated[str, typer.Option("--state", help="open, replayed, discarded, or all.")] = OPEN,
    limit: Limit = LIMIT_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Show dead records, the latest first."""
    if state not in {*STATES, "all"}:
        raise Fault(f"--state {state!r}: allowed are {', '.join(STATES)} and all.")
    settings = Stack().settings
    listed = carry_out(_listed(settings, _selection((), pipeline, reason, tenant, (since, until))))
    wanted = listed.in_state("" if state == "all" else state)
    latest = sorted(wanted, key=lambda entry: entry.died_at_ms, reverse=True)[:limit]
    _hint_unreadable(listed)
    if as_json:
        print_json({"entries": [_document(entry, listed) for entry in latest], "found": len(wanted)})
    elif not wanted:
        states = Counter(map(listed.state, listed.entries))
        others = ", ".join(f"{count:,} {name}" for name, count in states.items()) or "nothing at all"
        out.print(f"[green]✓[/] No {'' if state == 'all' else state + ' '}dead records here (found: {others}).")
    else:
        out.print(_table(latest, listed))
        reasons = Counter(entry.reason for entry in wanted).most_common()
        out.print(f"{len(latest):,} of {len(wanted):,}: " + ", ".join(f"{r} {n:,}" for r, n in reasons), style="dim")


@app.command()
def show(
    entry_id: Annotated[str, typer.Argument(metavar="ID", help="As `dlq list` prints it.")],
    body: Annotated[bool, typer.Option("--body", help="The value too: it may hold personal data.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show one dead record: why it died, its headers, and its value with --body."""
    settings = Stack().settings
    document = carry_out(_shown(settings, *_identities((entry_id,)), body=body))
    if as_json:
        print_json(document)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in document.items():
        if name not in {"headers", "value"}:
            table.add_row(name, escape(str(value)))
    for header in document["headers"]:
        table.add_row(f"header {escape(header['name'])}", escape(header["value"]))
    out.print(table)
    if body:
        out.print_json(data=document["value"], default=str)
    else:
        print_hint("The value is not shown: it may hold personal data. --body shows it.")


@app.command("replay")
def replay_(
    ids: Ids = None,
    *,
    pipeline: Pipeline = "",
    reason: Reason = "",
    tenant: Tenant = "",
    since: Since = "",
    until: Until = "",
    limit: Limit = dead_letters.SELECTED_MAX,
    rate: Annotated[int, typer.Option(min=1, max=RATE_MAX, help="Records a second.")] = RATE_DEFAULT,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Put open dead records back on their source topic, as they were. Fix what killed them first.

    Each takes effect once, however often this is run or killed. One that ClickHouse has by now is marked and not sent.
    One that fails again is a new entry. Status 1 when Kafka does not confirm: run it again.
    """
    settings = Stack().settings
    selection = _selection(ids or (), pipeline, reason, tenant, (since, until))
    chosen = carry_out(_open(settings, selection, limit))
    counts = {"selected": len(chosen), "replayed": 0, "already_stored": 0}
    if chosen and not dry_run:
        confirm(f"Replay {len(chosen):,} dead records?", yes=yes)
        counts |= carry_out(_replay(settings, chosen, rate))
    _tell(counts, chosen, "would be replayed" if dry_run else "replayed", as_json=as_json)


@app.command()
def discard(
    ids: Ids = None,
    *,
    pipeline: Pipeline = "",
    reason: Reason = "",
    tenant: Tenant = "",
    since: Since = "",
    until: Until = "",
    limit: Limit = dead_letters.SELECTED_MAX,
    why: Annotated[str, typer.Option("--why", help="Why they will never be replayed; kept in the audit.")] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Close open dead records for good. They stay in Kafka until its retention ends; --why says the reason."""
    if not 1 <= len(why.strip()) <= REASON_CHARACTERS_MAX:
        raise Fault(f"--why is needed: why these are given up, in 1 to {REASON_CHARACTERS_MAX} characters.")
    settings = Stack().settings
    selection = _selection(ids or (), pipeline, reason, tenant, (since, until))
    if selection == Selection():
        raise Fault("Say which: ids, or --pipeline, --reason, --tenant, --from, --to.")
    chosen = carry_out(_open(settings, selection, limit))
    counts = {"selected": len(chosen), "discarded": 0}
    if chosen and not dry_run:
        confirm(f"Discard {len(chosen):,} dead records for good?", yes=yes)
        counts["discarded"] = carry_out(_discard(settings, chosen, why.strip()))
    _tell(counts, chosen, "would be discarded" if dry_run else "discarded", as_json=as_json)


# -- what they do


def _selection(ids: Sequence[str], pipeline: str, reason: str, tenant: str, between: tuple[str, str]) -> Selection:
    since, until = between
    return Selection(
        pipeline=pipeline,
        reason=reason,
        tenant_id=tenant.lower(),
        since_ms=milliseconds(since, "--from") if since else None,
        until_ms=milliseconds(until, "--to") if until else None,
        ids=_identities(ids),
    )


def _identities(ids: Sequence[str]) -> tuple[Identity, ...]:
    try:
        return tuple(Identity.parse(text) for text in ids)
    except dead_letters.Unreadable as error:
        raise Fault(f"{error}.") from None


async def _listed(settings: Settings, selection: Selection) -> Listed:
    with bar("reading the DLQ") as report:
        found: Found = await asyncio.to_thread(dead_letters.select, settings.kafka_url, selection, report)
    async with actions(settings.postgres_url.get_secret_value()) as book:
        acts = await book.of([entry.identity for entry in found.entries])
    return Listed(found.entries, acts, found.unreadable)


async def _open(settings: Settings, selection: Selection, limit: int) -> list[Entry]:
    """The open entries that are meant, oldest first. An id that names none, or one that is closed, is a Fault."""
    listed = await _listed(settings, selection)
    for wanted in selection.ids:
        named = [entry for entry in listed.entries if wanted.names(entry.identity)]
        if len(named) != 1:
            full = ", ".join(entry.identity.text for entry in named) or "none that the other selectors take"
            raise Fault(f"{wanted.text.rstrip('@')} names {len(named)} entries: {full}.")
        act = listed.acts.get(named[0].identity)
        if act is not None:
            raise Fault(f"{named[0].identity.text} was {act.action} by {act.actor} at {act.at:%Y-%m-%dT%H:%M:%SZ}.")
    _hint_unreadable(listed)
    return listed.in_state(OPEN)[:limit]


async def _shown(settings: Settings, wanted: Identity, *, body: bool) -> dict[str, Any]:
    listed = await _listed(settings, Selection(ids=(wanted,)))
    if len(listed.entries) != 1:
        named = ", ".join(entry.identity.text for entry in listed.entries) or "nothing"
        raise Fault(f"{wanted.text.rstrip('@')} names {named} in the DLQ; `./afluente dlq list --state all` shows ids.")
    entry = listed.entries[0]

    def read() -> source.SourceRecord:
        at = entry.place_offset
        return source.as_record(next(source.read(settings.kafka_url, entry.place, (at, at)))[0])

    record = await asyncio.to_thread(read)
    headers = [{"name": name, "value": (value or b"").decode("utf-8", "replace")} for name, value in record.headers]
    document = _document(entry, listed) | {"key": (record.key or b"").decode("utf-8", "replace"), "headers": headers}
    if body:
        document["value"] = dead_letters.view(entry.schema, record.value)
    return document


async def _replay(settings: Settings, chosen: Sequence[Entry], rate: int) -> dict[str, int]:
    """Produce, then mark: killed between the two, the next run produces again and the dedupe step drops that."""
    # Imported here: the pipelines bring Faust along, which every other command does without.
    from agents import topology  # noqa: PLC0415

    # A table of events knows its ids. A mirror knows versions, and takes a change again without harm.
    tables = {one.name: [rows for rows in one.writes if rows.unique == EVENT] for one in topology.pipelines(settings)}
    replayed = already = 0
    producer = Producer(settings.kafka_url, timeout_ms=PRODUCE_TIMEOUT_MS, client_id="afluente-dlq-replay")
    try:
        async with actions(settings.postgres_url.get_secret_value()) as book, Stored(settings) as stored, book.alone():
            with bar("replaying") as report:
                chunks = dead_letters.originals(settings.kafka_url, chosen, min(CHUNK_RECORDS, rate))
                began = time.monotonic()
                while chunk := await asyncio.to_thread(lambda: list(islice(chunks, 1))):
                    there = await _already_stored(stored, tables, [entry for entry, _ in chunk[0]])
                    # Another operator may have acted since the list was made: under the lock it is looked at again.
                    acted = await book.of([entry.identity for entry, _ in chunk[0]])
                    fresh = [(entry, record) for entry, record in chunk[0] if entry.identity not in acted]
                    sent = [(entry, record) for entry, record in fresh if entry.identity not in there]
                    await producer.send_many([record for _, record in sent])
                    replayed += await book.mark([entry for entry, _ in sent], "replayed", "")
                    stored_now = [entry for entry, _ in fresh if entry.identity in there]
                    already += await book.mark(stored_now, "replayed", "ClickHouse has the event: not sent")
                    report(replayed + already, len(chosen))
                    await asyncio.sleep(max(0.0, began + replayed / rate - time.monotonic()))
    finally:
        await producer.close()
    return {"replayed": replayed, "already_stored": already}


async def _already_stored(stored: Stored, tables: dict[str, list[Rows]], entries: Sequence[Entry]) -> set[Identity]:
    """The entries whose event is in every table of their pipeline.

    A later delivery brought it, maybe so long ago that the dedupe step would not know it any more.
    """
    there: set[Identity] = set()
    for pipeline in {entry.pipeline for entry in entries}:
        some = [entry for entry in entries if entry.pipeline == pipeline]
        if not tables.get(pipeline):
            continue
        known = [await stored.existing(table, [entry.event for entry in some]) for table in tables[pipeline]]
        there |= {entry.identity for entry in some if all(entry.event in found for found in known)}
    return there


async def _discard(settings: Settings, chosen: Sequence[Entry], why: str) -> int:
    async with actions(settings.postgres_url.get_secret_value()) as book, book.alone():
        return sum(
            [
                await book.mark(chosen[start : start + CHUNK_RECORDS], "discarded", why)
                for start in range(0, len(chosen), CHUNK_RECORDS)
            ]
        )


# -- how they speak


def _document(entry: Entry, listed: Listed) -> dict[str, Any]:
    fields = asdict(entry)
    identity, place = entry.identity, entry.place
    del fields["identity"], fields["place"], fields["place_offset"], fields["died_at_ms"], fields["source_timestamp_ms"]
    act = listed.acts.get(identity)
    return {
        "id": identity.text,
        "state": listed.state(entry),
        **fields,
        "died_at": shown(entry.died_at_ms),
        "produced_at": shown(entry.source_timestamp_ms),
        "dlq": f"{place.topic}/{place.partition}/{entry.place_offset}",
        "action": asdict(act) if act is not None else None,
    }


def _table(entries: Sequence[Entry], listed: Listed) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("id", "died", "state", "reason", "tenant", "event", "bytes", "error"):
        table.add_column(title, justify="right" if title == "bytes" else "left", overflow="fold")
    short = Counter(entry.identity[:3] for entry in listed.entries)
    for entry in entries:
        # The topic id is needed only where a topic was re-created.
        name = entry.identity.text if short[entry.identity[:3]] > 1 else entry.identity.text.partition("@")[0]
        cells = (entry.reason, entry.tenant_id, entry.event_id, f"{entry.value_bytes:,}")
        error = entry.error[:ERROR_SHOWN_CHARACTERS]
        table.add_row(name, shown(entry.died_at_ms), listed.state(entry), *map(escape, (*cells, error)))
    return table


def _hint_unreadable(listed: Listed) -> None:
    if listed.unreadable:
        print_hint(f"{listed.unreadable:,} records of the DLQ were not written by a worker: left out.")


def _tell(counts: dict[str, int], chosen: Sequence[Entry], verb: str, *, as_json: bool) -> None:
    if as_json:
        print_json({**counts, "ids": [entry.identity.text for entry in chosen]})
    elif not chosen:
        out.print("[green]✓[/] No open dead records are meant: nothing to do.")
    elif verb.startswith("would"):
        reasons = Counter(entry.reason for entry in chosen)
        out.print(f"{len(chosen):,} {verb}: " + ", ".join(f"{name} {count:,}" for name, count in reasons.items()))
    else:
        others = f", {counts['already_stored']:,} were in ClickHouse already" if counts.get("already_stored") else ""
        out.print(f"[green]✓[/] {counts[verb]:,} {verb}{others}")
