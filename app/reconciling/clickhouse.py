"""The ClickHouse side: the mirrors as a reader with FINAL sees them, and the stamps that tell whether a row has moved.

The day is part of a mirror's key: a row whose due date moved leaves a tombstone on the day it came from, and a ghost
is a row that is alive on two days.
"""

from collections.abc import Sequence
from typing import Any, Final, Self
from urllib.parse import urlsplit
from uuid import UUID

import clickhouse_connect
from clickhouse_connect.driver.asyncclient import AsyncClient

from app.reconciling import dialect
from app.reconciling.postgres import bounds, collected
from app.reconciling.rows import Figures, Group, MirrorRow, as_row
from app.settings import Settings
from schemas.mirrors import Mirror

CONNECT_S: Final = 5
QUERY_S: Final = 1_800
ANSWER_FORMAT: Final = {"do_not_merge_across_partitions_select_final": 1}
IDS_IN_QUERY: Final = 2_000  # of 39 characters: well below max_query_size (256 KiB)


class Mirrored:
    """One connection. `suffix` names other tables of the same shape, those of a rebuild. Use with `async with`."""

    def __init__(self, settings: Settings, suffix: str = "") -> None:
        self._settings = settings
        self._suffix = suffix
        self._client: AsyncClient | None = None

    async def __aenter__(self) -> Self:
        place = urlsplit(self._settings.clickhouse_url)
        self._client = await clickhouse_connect.get_async_client(
            host=place.hostname,
            port=place.port,
            secure=place.scheme == "https",
            username=self._settings.clickhouse_user,
            password=self._settings.clickhouse_password.get_secret_value(),
            connect_timeout=CONNECT_S,
            send_receive_timeout=QUERY_S,
            autogenerate_session_id=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    def name(self, table: str) -> str:
        """A table with its database."""
        return f"{self._settings.clickhouse_database}.{table}{self._suffix}"

    async def query(self, sql: str, given: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """The rows of one question. What is given is bound as literals by the client: a URL is too short for ids."""
        if self._client is None:
            raise RuntimeError("Mirrored is used outside its `async with`")
        found = await self._client.query(sql, given, settings=ANSWER_FORMAT)
        return [tuple(row) for row in found.result_rows]

    async def command(self, sql: str) -> None:
        """A statement without rows."""
        if self._client is None:
            raise RuntimeError("Mirrored is used outside its `async with`")
        await self._client.command(sql)

    async def tenants(self, table: str) -> set[str]:
        """Every tenant that has rows."""
        select = f"SELECT DISTINCT toString(tenant_id) FROM {self.name(table)}"  # nosec B608 # noqa: S608
        rows = await self.query(select)
        return {row[0] for row in rows}

    async def groups(self, mirror: Mirror, tenants: Sequence[str]) -> dict[Group, Figures]:
        """The figures of these tenants, by month."""
        rows = await self.query(
            f"SELECT toString(tenant_id) AS tenant, {dialect.CLICKHOUSE_MONTH} AS month,"  # nosec B608 # noqa: S608
            f" {_figures(mirror)} FROM {self.name(mirror.table)} FINAL"
            " WHERE tenant_id IN %(tenants)s GROUP BY tenant, month, currency",
            {"tenants": _uuids(tenants)},
        )
        return collected([(Group(row[0], row[1]), *row[2:]) for row in rows])

    async def buckets(self, mirror: Mirror, group: Group, digits: int) -> dict[str, Figures]:
        """The figures of one group, by the last digits of the id."""
        rows = await self.query(
            f"SELECT {dialect.clickhouse_bucket(digits)} AS bucket, {_figures(mirror)}"  # nosec B608 # noqa: S608
            f" FROM {self.name(mirror.table)} FINAL WHERE {_IN_GROUP} GROUP BY bucket, currency",
            _bounds(group),
        )
        return collected(rows)

    async def fingerprints(self, mirror: Mirror, group: Group, digits: int, buckets: Sequence[str]) -> dict[str, int]:
        """The fingerprint of every row of some buckets; of a row that is alive on two days, their sum."""
        rows = await self.query(
            f"SELECT toString(id) AS id_text, sum({dialect.clickhouse_fingerprint(mirror)})"  # nosec B608 # noqa: S608
            f" FROM {self.name(mirror.table)} FINAL"
            f" WHERE {_IN_GROUP} AND {dialect.clickhouse_bucket(digits)} IN %(buckets)s GROUP BY id_text",
            {**_bounds(group), "buckets": tuple(buckets)},
        )
        return {row[0]: row[1] for row in rows}

    async def rows(self, mirror: Mirror, tenant_id: str, ids: Sequence[str]) -> dict[str, list[MirrorRow]]:
        """Some rows by id, on every day on which they are alive."""
        found: dict[str, list[MirrorRow]] = {}
        for start in range(0, len(ids), IDS_IN_QUERY):
            rows = await self.query(
                f"SELECT {dialect.clickhouse_values(mirror)} FROM {self.name(mirror.table)} FINAL"  # noqa: S608
                " WHERE tenant_id = %(tenant)s AND id IN %(ids)s",  # nosec B608
                {"tenant": str(UUID(tenant_id)), "ids": _uuids(ids[start : start + IDS_IN_QUERY])},
            )
            for row in rows:
                made = as_row(mirror, row)
                found.setdefault(made.values["id"], []).append(made)
        return found

    async def stamps(self, mirror: Mirror, tenant_id: str, ids: Sequence[str]) -> dict[str, int]:
        """The newest LSN that each id was written with, tombstones counted: while it stays, the row has not moved."""
        found: dict[str, int] = {}
        for start in range(0, len(ids), IDS_IN_QUERY):
            rows = await self.query(
                f"SELECT toString(id) AS id_text, max(_version) FROM {self.name(mirror.table)}"  # noqa: S608
                " WHERE tenant_id = %(tenant)s AND id IN %(ids)s GROUP BY id_text",  # nosec B608
                {"tenant": str(UUID(tenant_id)), "ids": _uuids(ids[start : start + IDS_IN_QUERY])},
            )
            found |= {row[0]: row[1] for row in rows}
        return found

    async def newest(self, mirror: Mirror, tenant_id: str, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Partition and offset of the last record that each id was written from, tombstones counted."""
        found: dict[str, tuple[int, int]] = {}
        for start in range(0, len(ids), IDS_IN_QUERY):
            rows = await self.query(
                f"SELECT toString(id) AS id_text, argMax((_partition, _offset), (_version, _offset))"  # noqa: S608
                f" FROM {self.name(mirror.table)}"  # nosec B608
                " WHERE tenant_id = %(tenant)s AND id IN %(ids)s GROUP BY id_text",
                {"tenant": str(UUID(tenant_id)), "ids": _uuids(ids[start : start + IDS_IN_QUERY])},
            )
            found |= {row[0]: (row[1][0], row[1][1]) for row in rows}
        return found

    async def seen(self, topic: str) -> dict[int, int]:
        """How far each partition's reader has come: the LSN of the last heartbeat that it carried."""
        rows = await self.query(
            f"SELECT _partition, lsn FROM {self._settings.clickhouse_database}.cdc_progress FINAL"  # noqa: S608
            " WHERE _topic = %(topic)s",  # nosec B608
            {"topic": topic},
        )
        return {row[0]: row[1] for row in rows}


_IN_GROUP: Final = "tenant_id = %(tenant)s AND due_date >= toDate(%(first)s) AND due_date < toDate(%(after)s)"


def _figures(mirror: Mirror) -> str:
    checksum = dialect.clickhouse_fingerprint(mirror)
    return f"currency, count(), toString(sum(toInt64(amount * 100))), toString(sum({checksum}))"


def _uuids(texts: Sequence[str]) -> tuple[str, ...]:
    """Ids as literals: only what is a UUID gets into a statement."""
    return tuple(str(UUID(one)) for one in texts)


def _bounds(group: Group) -> dict[str, str]:
    tenant, first, after = bounds(group)
    return {"tenant": str(tenant), "first": first.isoformat(), "after": after.isoformat()}
