"""What ClickHouse already has: asked by the operator's commands before they send or insert anything a second time.

Beside the data path; the loop itself never asks, its tokens and its dedupe table know.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.asyncclient import AsyncClient

from app.settings import Settings

IDS_IN_QUERY: Final = 500  # of at most 128 bytes: with escapes well below ClickHouse's max_query_size of 256 KiB
CONNECT_S: Final = 5
QUERY_S: Final = 300  # uniqExact over a whole table


class EventKey(NamedTuple):
    """What is unique in every table of events: ids are unique per tenant."""

    tenant_id: str
    event_id: str


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of a table, and how many different events they are. Equal when nothing is doubled."""

    rows: int
    unique: int

    @property
    def duplicates(self) -> int:
        return self.rows - self.unique


class Stored:
    """One connection to ClickHouse. `async with Stored(settings) as stored`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
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
            # Several queries of one session would wait for each other.
            autogenerate_session_id=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    async def existing(self, table: str, keys: Iterable[EventKey]) -> set[EventKey]:
        """Which of these events the table has."""
        wanted = sorted(set(keys))
        found: set[EventKey] = set()
        for start in range(0, len(wanted), IDS_IN_QUERY):
            found |= await self._existing(table, wanted[start : start + IDS_IN_QUERY])
        return found

    async def counts(self, table: str) -> Counts:
        """The whole table as a reader without FINAL sees it."""
        query = f"SELECT count(), uniqExact(tenant_id, event_id) FROM {self._name(table)}"  # noqa: S608 - a setting
        rows, unique = (await self._connected.query(query)).result_rows[0]
        return Counts(int(rows), int(unique))

    async def _existing(self, table: str, wanted: Sequence[EventKey]) -> set[EventKey]:
        # Both columns apart, not as tuples: so the primary key and the bloom filter are used. Pairs are told below.
        query = (
            f"SELECT DISTINCT toString(tenant_id), event_id FROM {self._name(table)} "  # noqa: S608 - ids are bound
            "WHERE tenant_id IN %(tenants)s AND event_id IN %(ids)s"
        )
        tenants = tuple(dict.fromkeys(key.tenant_id for key in wanted))
        ids = tuple(dict.fromkeys(key.event_id for key in wanted))
        rows = (await self._connected.query(query, {"tenants": tenants, "ids": ids})).result_rows
        return {EventKey(*row) for row in rows} & set(wanted)

    def _name(self, table: str) -> str:
        return f"{self._settings.clickhouse_database}.{table}"

    @property
    def _connected(self) -> AsyncClient:
        if self._client is None:
            raise RuntimeError("Stored is used outside its `async with`")
        return self._client
