"""The Postgres side: one snapshot and its LSN, and everything asked of it.

The snapshot is the owner's, since it crosses tenants. Its LSN is read by the statement that takes it, and so is at or
behind the commit of every transaction that it sees.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import date
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg

from app.reconciling import dialect
from app.reconciling.rows import Figures, Group, MirrorRow, as_row, next_month
from schemas.mirrors import Mirror

Connection: TypeAlias = "asyncpg.Connection[Any]"

CONNECT_S: Final = 10.0
# A slice of tenants is read whole: 10 million rows take minutes on a small machine.
QUERY_S: Final = 1_800.0
TENANTS_PREFETCH: Final = 5_000
LSN: Final = "(pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"


class NotTheOwner(LookupError):  # noqa: N818 - told to an operator
    """Row-level security hides tenants from this role: a comparison with it would find them missing."""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """A connection as the role that owns the tables."""
    connection = await asyncpg.connect(url, timeout=CONNECT_S, command_timeout=QUERY_S)
    try:
        yield connection
    finally:
        await connection.close()


async def require_all_tenants(connection: Connection, tables: Sequence[str]) -> None:
    """The role sees every tenant: it owns the tables, or a policy lets it."""
    owned = await connection.fetch(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename = ANY($1)"
        " AND pg_has_role(tableowner, 'MEMBER')",
        list(tables),
    )
    if missing := set(tables) - {str(row[0]) for row in owned}:
        names = ", ".join(sorted(missing))
        raise NotTheOwner(f"{names}: this needs the role that owns them, in AFLUENTE_POSTGRES_OWNER_URL")


class Snapshot:
    """One REPEATABLE READ transaction. `lsn` lies at or behind everything it sees."""

    def __init__(self, connection: Connection, lsn: int) -> None:
        self._connection = connection
        self.lsn = lsn

    async def tenants(self) -> AsyncIterator[str]:
        """Every tenant there is, in order."""
        async for row in self._connection.cursor("SELECT id::text FROM tenants ORDER BY id", prefetch=TENANTS_PREFETCH):
            yield str(row[0])

    async def groups(self, mirror: Mirror, tenants: Sequence[str]) -> dict[Group, Figures]:
        """The figures of these tenants, by month."""
        figures = _FIGURES.format(dialect.postgres_fingerprint(mirror))
        rows = await self._connection.fetch(
            f"SELECT tenant_id::text, {dialect.POSTGRES_MONTH}, {figures}"  # nosec B608 # noqa: S608
            f" FROM {mirror.table} WHERE tenant_id = ANY($1::uuid[]) GROUP BY 1, 2, 3",
            [UUID(one) for one in tenants],
        )
        return collected([(Group(row[0], row[1]), *row[2:]) for row in rows])

    async def buckets(self, mirror: Mirror, group: Group, digits: int) -> dict[str, Figures]:
        """The figures of one group, by the last digits of the id."""
        figures = _FIGURES.format(dialect.postgres_fingerprint(mirror))
        rows = await self._connection.fetch(
            f"SELECT {dialect.postgres_bucket(digits)}, {figures}"  # nosec B608 # noqa: S608
            f" FROM {mirror.table} WHERE {_IN_GROUP} GROUP BY 1, 2",
            *bounds(group),
        )
        return collected([tuple(row) for row in rows])

    async def fingerprints(self, mirror: Mirror, group: Group, digits: int, buckets: Sequence[str]) -> dict[str, int]:
        """The fingerprint of every row of some buckets."""
        rows = await self._connection.fetch(
            f"SELECT id::text, {dialect.postgres_fingerprint(mirror)} FROM {mirror.table}"  # nosec B608 # noqa: S608
            f" WHERE {_IN_GROUP} AND {dialect.postgres_bucket(digits)} = ANY($4)",
            *bounds(group),
            list(buckets),
        )
        return {row[0]: row[1] for row in rows}

    async def rows(self, mirror: Mirror, tenant_id: str, ids: Sequence[str]) -> dict[str, MirrorRow]:
        """Some rows by id."""
        return await rows_of(self._connection, mirror, tenant_id, ids)


# Every name and expression in these statements is ours; what comes from outside is bound.
_FIGURES: Final = f"currency, count(*), sum((amount * 100)::bigint)::text, (sum({{}}) % {dialect.SUM_MODULUS})::text"
_IN_GROUP: Final = "tenant_id = $1 AND due_date >= $2 AND due_date < $3"


async def rows_of(
    connection: Connection, mirror: Mirror, tenant_id: str, ids: Sequence[str], locking: str = ""
) -> dict[str, MirrorRow]:
    """Some rows by id, locked when `locking` says so."""
    found = await connection.fetch(
        f"SELECT {dialect.postgres_values(mirror)} FROM {mirror.table}"  # nosec B608 # noqa: S608
        f" WHERE tenant_id = $1 AND id = ANY($2::uuid[]) {locking}",
        UUID(tenant_id),
        [UUID(one) for one in ids],
    )
    rows = [as_row(mirror, tuple(row)) for row in found]
    return {row.values["id"]: row for row in rows}


@asynccontextmanager
async def snapshot(connection: Connection) -> AsyncIterator[Snapshot]:
    """Take one now."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        yield Snapshot(connection, int(await connection.fetchval(f"SELECT {LSN}")))


async def beat(url: str) -> int:
    """Write every heartbeat now, so that nobody has to wait for Debezium's own. Returns how many there are."""
    async with connected(url) as connection:
        return len(await connection.fetch("UPDATE cdc_heartbeats SET at = clock_timestamp() RETURNING tenant_id"))


def collected(rows: Sequence[tuple[Any, ...]]) -> dict[Any, Figures]:
    """Rows of (place, currency, count, cents, checksum) as the figures of each place."""
    found: dict[Any, Figures] = {}
    for place, currency, count, cents, checksum in rows:
        before = found.get(place, Figures(0, (), 0))
        sums = tuple(sorted((*before.cents, (currency, int(cents)))))
        found[place] = Figures(before.rows + count, sums, (before.checksum + int(checksum)) % dialect.SUM_MODULUS)
    return found


def bounds(group: Group) -> tuple[UUID, date, date]:
    """A group as the bounds of its rows."""
    after = next_month(group.month)
    return UUID(group.tenant_id), date(group.month // 100, group.month % 100, 1), date(after // 100, after % 100, 1)
