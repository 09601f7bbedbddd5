"""What happened: the domain events of one change of a bill or of an occurrence.

Rules of `bills.mirror`; docs/events.md describes each event. An id is made of the change's identity and the type, so a
change that is processed again, at whatever offset, tells the same events.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import UUID, uuid5

from app.cdc import CREATE, DELETE, UPDATE, Change
from app.outputs import Emitted
from schemas import bills

NAMESPACE: Final = UUID("5b1fb0f5-4f0f-5c35-9d0c-3f6a1a3f9a51")  # of the ids of these events; never changes
# What every update touches: a change of these alone is not worth an event.
BOOKKEEPING: Final = frozenset(("version", "updated_at", "actor"))

TYPES: Final[Mapping[tuple[str, str], str]] = {
    (bills.BILLS, CREATE): bills.BILL_CREATED,
    (bills.BILLS, UPDATE): bills.BILL_UPDATED,
    (bills.BILLS, DELETE): bills.BILL_DELETED,
    (bills.OCCURRENCES, CREATE): bills.OCCURRENCE_CREATED,
    (bills.OCCURRENCES, UPDATE): bills.OCCURRENCE_UPDATED,
    (bills.OCCURRENCES, DELETE): bills.OCCURRENCE_DELETED,
}

Row = dict[str, Any]


def events(change: Change, before: Row | None, after: Row | None) -> Iterator[Emitted]:
    """The events of one change, in their order. A snapshot tells nothing new, nor a repair, which looks like one."""
    event_type = TYPES.get((change.table, change.op))
    row = before if change.op == DELETE else after
    if event_type is None or row is None or change.snapshot:
        return
    former = before if change.op == UPDATE else None
    changed = [name for name, value in row.items() if value != former[name]] if former is not None else []
    told = [name for name in changed if name not in BOOKKEEPING]
    if change.op == UPDATE and not told:
        return
    content = {
        **row,
        "bill_id": row.get("bill_id", row["id"]),
        "number": row.get("number"),
        "description": row.get("description"),
        "previous_status": former["status"] if former is not None else None,
        "row_version": row["version"],
        "lsn": change.position,
        "changed": told,
    }
    yield event(change, event_type, content)
    if change.table == bills.OCCURRENCES and "status" in told:
        yield event(change, bills.OCCURRENCE_STATUS_CHANGED, content)


def event(change: Change, event_type: str, content: Row) -> Emitted:
    """One event in the standard envelope."""
    event_id = str(uuid5(NAMESPACE, f"{change.identity}/{event_type}"))
    value = {
        "tenant_id": content["tenant_id"],
        "event_id": event_id,
        "event_type": event_type,
        "version": bills.EVENT_VERSION,
        "occurred_at": change.committed_at_ms,
        "actor": content["actor"],
        "data": content,
    }
    return Emitted(event_id, content["tenant_id"], event_type, value)
