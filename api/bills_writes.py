"""Bills between Postgres and the rules: load one under a lock, save what differs, and say what was written.

Everybody locks the bill first and its occurrences after it, so requests on one bill come one after the other and
never wait for each other in a circle. Versions, times and actors are the triggers' business.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from api.bills_rules import Bill, Occurrence, conflict
from api.errors import Refusal
from api.version_token import Written
from app.audit import Connection

BILL_COLUMNS: Final = (
    "id, user_id, description, category, amount, currency, due_date, recurrence, installments, status, paid_at,"
    " version, actor, created_at, updated_at"
)
OCCURRENCE_COLUMNS: Final = (
    "id, bill_id, number, user_id, category, amount, currency, due_date, recurrence, installments, status, paid_at,"
    " version, actor, created_at, updated_at"
)
# What a change may change, and as which type it is sent.
_BILL_CHANGES: Final = ("user_id", "description", "category", "amount", "due_date", "status", "paid_at")
_PART_CHANGES: Final = {
    "user_id": "text",
    "category": "text",
    "amount": "numeric",
    "due_date": "date",
    "status": "text",
    "paid_at": "timestamptz",
}

Row = Mapping[str, Any]


async def load(connection: Connection, bill_id: UUID, *, seen: int | None = None) -> Bill:
    """The bill and all its occurrences, locked. 404 when this tenant has none, 409 when it is not at version `seen`."""
    row = await connection.fetchrow(
        # Names of columns are constants of this module; every value is bound. Row security adds the tenant.
        f"SELECT {BILL_COLUMNS} FROM bills"  # nosec B608 # noqa: S608
        " WHERE tenant_id = current_tenant() AND id = $1 FOR UPDATE",
        bill_id,
    )
    if row is None:
        raise absent()
    if seen is not None and row["version"] != seen:
        raise outdated(row["version"])
    rows = await connection.fetch(
        f"SELECT {OCCURRENCE_COLUMNS} FROM bill_occurrences"  # nosec B608 # noqa: S608 - as above
        " WHERE tenant_id = current_tenant() AND bill_id = $1 ORDER BY number FOR UPDATE",
        bill_id,
    )
    return _bill(row, rows)


async def load_of_occurrence(
    connection: Connection, occurrence_id: UUID, *, seen: int | None = None
) -> tuple[Bill, Occurrence]:
    """The bill that an occurrence belongs to, locked, and the occurrence in it."""
    bill_id: UUID | None = await connection.fetchval(
        "SELECT bill_id FROM bill_occurrences WHERE tenant_id = current_tenant() AND id = $1", occurrence_id
    )
    if bill_id is None:
        raise absent()
    bill = await load(connection, bill_id)
    occurrence = next((part for part in bill.occurrences if part.id == occurrence_id), None)
    if occurrence is None:
        raise absent()
    if seen is not None and occurrence.version != seen:
        raise outdated(occurrence.version)
    return bill, occurrence


async def create(connection: Connection, bill: Bill) -> None:
    """A new bill with its occurrences."""
    names = ("id", "user_id", "description", "category", "amount", "currency", "due_date", "recurrence",
             "installments", "status", "paid_at")  # fmt: skip
    places = ", ".join(f"${number}" for number in range(1, len(names) + 1))
    await connection.execute(
        f"INSERT INTO bills (tenant_id, {', '.join(names)})"  # nosec B608 # noqa: S608 - constants
        f" VALUES (current_tenant(), {places})",
        *[getattr(bill, name) for name in names],
    )
    await connection.execute(
        "INSERT INTO bill_occurrences (tenant_id, bill_id, user_id, installments, recurrence, category, currency, id,"
        " number, amount, due_date, status)"
        " SELECT current_tenant(), $1, $2, $3, $4, $5, $6, part.* FROM"
        " unnest($7::uuid[], $8::smallint[], $9::numeric[], $10::date[], $11::text[]) AS part",
        bill.id, bill.user_id, bill.installments, bill.recurrence, bill.category, bill.currency,
        *[[getattr(p, n) for p in bill.occurrences] for n in ("id", "number", "amount", "due_date", "status")],
    )  # fmt: skip


async def save(connection: Connection, before: Bill, after: Bill) -> list[Written]:
    """Write what differs, if anything: occurrences first, then the bill; and name the last row of each table."""
    written: list[Written] = []
    former = {part.id: part for part in before.occurrences}
    changed = [part for part in after.occurrences if part != former[part.id]]
    if changed:
        columns = ", ".join(f"{name} = part.{name}" for name in _PART_CHANGES)
        arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(_PART_CHANGES.values(), 2))
        rows = await connection.fetch(
            f"UPDATE bill_occurrences AS o SET {columns} FROM unnest($1::uuid[], {arrays})"  # noqa: S608 - constants
            f" AS part(id, {', '.join(_PART_CHANGES)}) WHERE o.tenant_id = current_tenant() AND o.id = part.id"
            " RETURNING o.id, o.version",  # nosec B608
            [part.id for part in changed],
            *[[getattr(part, name) for part in changed] for name in _PART_CHANGES],
        )
        written.append(Written("bill_occurrences", rows[-1]["id"], rows[-1]["version"]))
    if any(getattr(before, name) != getattr(after, name) for name in _BILL_CHANGES):
        columns = ", ".join(f"{name} = ${number}" for number, name in enumerate(_BILL_CHANGES, 2))
        version: int = await connection.fetchval(
            f"UPDATE bills SET {columns}"  # nosec B608 # noqa: S608 - constants
            " WHERE tenant_id = current_tenant() AND id = $1 RETURNING version",
            after.id,
            *[getattr(after, name) for name in _BILL_CHANGES],
        )
        written.append(Written("bills", after.id, version))
    return written


async def delete(connection: Connection, bill: Bill) -> list[Written]:
    """The bill and its occurrences, gone. Explicitly, so that their order in the log is known."""
    rows = await connection.fetch(
        "DELETE FROM bill_occurrences WHERE tenant_id = current_tenant() AND bill_id = $1 RETURNING id, version",
        bill.id,
    )
    await connection.execute("DELETE FROM bills WHERE tenant_id = current_tenant() AND id = $1", bill.id)
    parts = [Written("bill_occurrences", row["id"], row["version"], deleted=True) for row in rows[-1:]]
    return [*parts, Written("bills", bill.id, bill.version, deleted=True)]


async def bill_row(connection: Connection, bill_id: UUID) -> Row:
    """The bill as it may be shown, or 404."""
    row: Row | None = await connection.fetchrow(
        f"SELECT {BILL_COLUMNS} FROM bills"  # nosec B608 # noqa: S608 - constants
        " WHERE tenant_id = current_tenant() AND id = $1",
        bill_id,
    )
    if row is None:
        raise absent()
    return row


async def occurrence_row(connection: Connection, occurrence_id: UUID) -> Row:
    """An occurrence as it may be shown, or 404."""
    row: Row | None = await connection.fetchrow(
        f"SELECT {OCCURRENCE_COLUMNS} FROM bill_occurrences"  # nosec B608 # noqa: S608 - constants
        " WHERE tenant_id = current_tenant() AND id = $1",
        occurrence_id,
    )
    if row is None:
        raise absent()
    return row


def absent() -> Refusal:
    """One shape for what is not there and for what is another tenant's: nobody learns which it is."""
    return Refusal(404, "not_found", "this tenant has nothing with that id")


def outdated(version: int) -> Refusal:
    """Somebody was faster."""
    text = f"it has been changed since: the current version is {version}; read it, decide, and send that version"
    return conflict("version_conflict", text, version)


def _bill(row: Row, rows: Sequence[Row]) -> Bill:
    parts = tuple(
        Occurrence(**{name: part[name] for name in ("id", "number", "version", *_PART_CHANGES)}) for part in rows
    )
    names = ("id", "currency", "recurrence", "installments", "version", *_BILL_CHANGES)
    return Bill(**{name: row[name] for name in names}, occurrences=parts)
