"""What operators did with DLQ entries, in Postgres: open, replayed or discarded; each act once, and audited.

Written after the act: an entry that was produced and not marked is open still, and its second replay is a duplicate
that the dedupe step drops.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final, Literal
from uuid import UUID

import asyncpg

from app import audit
from app.dead_letters import Entry, Identity

Action = Literal["replayed", "discarded"]
OPEN: Final = "open"
STATES: Final = (OPEN, "replayed", "discarded")

LOCK_KEY: Final = 0x444C51  # "DLQ": one operator acts at a time; freed by Postgres when the process dies
ASKED_AT_ONCE: Final = 5_000  # identities in one query
CONNECT_S: Final = 10.0
AUDIT_ACTIONS: Final[dict[Action, str]] = {"replayed": "dlq.replay", "discarded": "dlq.discard"}
REASON_CHARACTERS_MAX: Final = 500


class Busy(Exception):  # noqa: N818 - a state, told to the operator
    """Another operator acts on the DLQ now."""


@dataclass(frozen=True, slots=True)
class Act:
    """What was done with an entry, by whom, when and why."""

    action: Action
    actor: str
    at: datetime
    reason: str


class Actions:
    """One connection to Postgres. Made by `actions`."""

    def __init__(self, connection: audit.Connection) -> None:
        self._connection = connection

    async def of(self, identities: Sequence[Identity]) -> dict[Identity, Act]:
        """What was done with these; those that are open are not in it."""
        found: dict[Identity, Act] = {}
        for start in range(0, len(identities), ASKED_AT_ONCE):
            some = identities[start : start + ASKED_AT_ONCE]
            rows = await self._connection.fetch(
                "SELECT a.* FROM dlq_actions a JOIN unnest($1::text[], $2::int[], $3::bigint[], $4::text[])"
                " AS w (t, p, o, i) ON topic = t AND source_partition = p AND source_offset = o AND topic_id = i",
                *(list(column) for column in zip(*some, strict=True)),
            )
            for row in rows:
                identity = Identity(row["topic"], row["source_partition"], row["source_offset"], row["topic_id"])
                found[identity] = Act(row["action"], row["actor"], row["at"], row["reason"])
        return found

    async def mark(self, entries: Iterable[Entry], action: Action, reason: str) -> int:
        """Note an action and audit it, both or neither. Returns how many were open until now."""
        actor = audit.operator()
        marked: list[Entry] = []
        async with self._connection.transaction():
            for entry in entries:
                added = await self._connection.fetchval(
                    "INSERT INTO dlq_actions (topic, source_partition, source_offset, topic_id, action, actor, reason)"
                    " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING 1",
                    *entry.identity, action, actor, reason,
                )  # fmt: skip
                if added:
                    marked.append(entry)
            await self._audit(marked, action, reason)
        return len(marked)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Keep other operators out. Raises Busy when one is at it."""
        if not await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):
            raise Busy("another operator replays or discards DLQ entries now: try again when that has ended")
        try:
            yield
        finally:
            await self._connection.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)

    async def _audit(self, entries: Sequence[Entry], action: Action, reason: str) -> None:
        """One line a tenant: row-level security lets a tenant's line in under that tenant alone."""

        def owner(entry: Entry) -> str:
            return str(tenant_of(entry) or "")

        for tenant, group in groupby(sorted(entries, key=owner), owner):
            ids = [entry.identity.text for entry in group]
            await self._connection.execute("SELECT set_config('afluente.tenant_id', $1, true)", tenant)
            await audit.record(
                self._connection,
                AUDIT_ACTIONS[action],
                tenant_id=UUID(tenant) if tenant else None,
                target=f"{len(ids)} of the DLQ",
                detail={"reason": reason, "ids": ids},
            )


def tenant_of(entry: Entry) -> UUID | None:
    """The tenant in the record's header, or None: a dead record may have a header that names nobody."""
    try:
        return UUID(entry.tenant_id)
    except ValueError:
        return None


@asynccontextmanager
async def actions(postgres_url: str) -> AsyncIterator[Actions]:
    """A connection for one command."""
    connection = await asyncpg.connect(postgres_url, timeout=CONNECT_S)
    try:
        yield Actions(connection)
    finally:
        await connection.close()
