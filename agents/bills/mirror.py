"""Mirror bills: every change of a row in Postgres becomes a version of it in ClickHouse, and an event.

Reads: bills.changes. Writes: ClickHouse bills, bill_occurrences, cdc_progress; topic bills.events. Guarantees: the
newest version of each row is alive on one day alone, in whatever order changes come and however often.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from agents.bills import columns, happened
from app.cdc import DELETE, READ, UPDATE, Change, Changed
from app.errors import Poison
from app.outputs import Outputs
from schemas.bills import BILLS, HEARTBEATS, KEYS, OCCURRENCES
from schemas.emits import BILLS_EVENTS
from schemas.rows import BILL_OCCURRENCES, CDC_PROGRESS, Rows
from schemas.rows import BILLS as BILL_ROWS

MIRRORS: Final[Mapping[str, Rows]] = {BILLS: BILL_ROWS, OCCURRENCES: BILL_OCCURRENCES}

Row = dict[str, Any]


def process(changes: Sequence[Changed]) -> Outputs:
    """Versions and events of a batch of changes; what is no whole row goes to the DLQ."""
    outputs = Outputs()
    beats: list[tuple[Changed, Row]] = []
    for one in changes:
        try:
            if one.change.table == HEARTBEATS:
                beats += [(one, row) for row in progress(one.change)]
            else:
                mirror(one, outputs)
        except Poison as poison:
            outputs.reject(one.record, poison)
    # The loop inserts tables in the order of their first row: progress is claimed when the rest is there.
    for one, row in beats:
        outputs.insert(CDC_PROGRESS, one, row)
    return outputs


def mirror(one: Changed, outputs: Outputs) -> None:
    """The versions of one row that its change leads to, and what happened. All or nothing."""
    change = one.change
    if change.op == UPDATE and change.before is None:
        raise Poison("missing_row", f"{change.table}: the former row is missing; the table needs REPLICA IDENTITY FULL")
    after = columns.read(change.table, change.after) if change.after is not None and change.op != DELETE else None
    if change.before is None:
        before = None
    elif after is None or change.after is None:
        before = columns.read(change.table, change.before)
    else:
        before = columns.read_former(change.table, change.before, change.after, after)
    if before is not None and after is not None and before["tenant_id"] != after["tenant_id"]:
        raise Poison("tenant_mismatch", f"{change.table}: an update took the row from one tenant to another")
    for row in versions(change, before, after):
        outputs.insert(MIRRORS[change.table], one, row)
    for event in happened.events(change, before, after):
        outputs.produce(BILLS_EVENTS, one, event)
    for name in columns.unknown(change.table, change.row):
        outputs.warn(f"unknown_column {change.table}.{name}")


def versions(change: Change, before: Row | None, after: Row | None) -> Iterator[Row]:
    """A tombstone where the row is no longer, and the row where it is now."""
    if before is not None and (after is None or place(change.table, before) != place(change.table, after)):
        yield version(change, before, is_deleted=1)
    if after is not None:
        yield version(change, after, is_deleted=0)


def place(table: str, row: Row) -> tuple[Any, ...]:
    """Under what ClickHouse keeps a row: its primary key, and its due date, whose month is its partition."""
    return (*(row[name] for name in KEYS[table]), row["due_date"])


def version(change: Change, row: Row, *, is_deleted: int) -> Row:
    """One row of the mirror: the position orders it among the versions of its key."""
    return {**row, "is_deleted": is_deleted, "_version": change.position, "_changed_at": change.committed_at_ms}


def progress(change: Change) -> Iterator[Row]:
    """How far its partition has come, when a heartbeat was beaten.

    One that a snapshot reads says nothing: it may travel before rows that were committed before it.
    """
    if change.op not in (READ, DELETE) and change.after is not None:
        yield {**columns.read(change.table, change.after), "lsn": change.position}
