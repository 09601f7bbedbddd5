"""The same figures of bills from both ends: from ClickHouse as a reader sees them, and from Postgres, to the cent."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import clickhouse_connect
from clickhouse_connect.driver.asyncclient import AsyncClient

from app.settings import Settings

CONNECT_S: Final = 10.0
SETTLED: Final = "status <> 'cancelled'"


class Place(NamedTuple):
    """What a line of figures is about."""

    tenant_id: str
    label: str  # a month or a category
    currency: str


class Figure(NamedTuple):
    """Occurrences, what they come to and what of it is paid, in hundredths."""

    occurrences: int
    due: int
    paid: int


Figures = dict[Place, Figure]
MONTH: Final = ("left(toString(due_date), 7)", "to_char(due_date, 'YYYY-MM')")
CATEGORY: Final = ("category", "category")


class Ends:
    """Both databases. `await Ends.of(settings)`, then `close`."""

    def __init__(self, settings: Settings, clickhouse: AsyncClient, postgres: "asyncpg.Connection[Any]") -> None:
        self._database = settings.clickhouse_database
        self._clickhouse = clickhouse
        self._postgres = postgres

    @classmethod
    async def of(cls, settings: Settings) -> "Ends":
        """Connected."""
        client = await clickhouse_connect.get_async_client(
            dsn=settings.clickhouse_url,
            username=settings.clickhouse_user,
            password=settings.clickhouse_password.get_secret_value(),
            autogenerate_session_id=False,
        )
        url = settings.postgres_owner_url.get_secret_value()
        return cls(settings, client, await asyncpg.connect(url, timeout=CONNECT_S))

    async def close(self) -> None:
        """Both connections."""
        await self._clickhouse.close()
        await self._postgres.close()

    async def mirrored(self, label: tuple[str, str], tenants: Sequence[str]) -> Figures:
        """From ClickHouse."""
        rows = await self._clickhouse.query(
            f"SELECT toString(tenant_id) AS tenant, {label[0]} AS label, currency, count(),"  # noqa: S608
            " sum(toInt64(amount * 100)), sumIf(toInt64(amount * 100), status = 'paid')"
            f" FROM {self._database}.bill_occurrences FINAL WHERE {SETTLED} AND tenant_id IN %(tenants)s"
            " GROUP BY tenant, label, currency",
            {"tenants": tuple(str(UUID(one)) for one in tenants)},
        )
        return {Place(*row[:3]): Figure(*row[3:]) for row in rows.result_rows}

    async def written(self, label: tuple[str, str], tenants: Sequence[str]) -> Figures:
        """From Postgres."""
        rows = await self._postgres.fetch(
            f"SELECT tenant_id::text, {label[1]}, currency, count(*), sum(amount * 100)::bigint,"  # noqa: S608
            " coalesce(sum(amount * 100) FILTER (WHERE status = 'paid'), 0)::bigint FROM bill_occurrences"
            f" WHERE {SETTLED} AND tenant_id = ANY($1::uuid[]) GROUP BY 1, 2, 3",
            [UUID(one) for one in tenants],
        )
        return {Place(*row[:3]): Figure(*row[3:]) for row in rows}

    async def versions(self, ids: Sequence[UUID]) -> dict[UUID, int]:
        """The versions of some occurrences as a query finds them now."""
        if not ids:
            return {}
        rows = await self._clickhouse.query(
            f"SELECT toString(id) AS text, max(version) FROM {self._database}.bill_occurrences"  # noqa: S608
            " WHERE id IN %(ids)s GROUP BY text",
            {"ids": tuple(str(one) for one in ids)},
        )
        return {UUID(row[0]): int(row[1]) for row in rows.result_rows}

    async def equal(self, tenants: Sequence[str]) -> bool:
        """Months and categories, all of them, and there are some."""
        for label in (MONTH, CATEGORY):
            theirs, ours = await self.mirrored(label, tenants), await self.written(label, tenants)
            if theirs != ours or not ours:
                return False
        return True
