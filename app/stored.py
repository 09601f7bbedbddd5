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
from schemas.rows import Rows

IDS_IN_QUERY: Final = 500  # of at most 128 bytes: with escapes well below ClickHouse's max_query_size of 256 KiB
CONNECT_S: Final = 5
QUERY_S: Final = 300  # uniqExact over a whole table


Unique = tuple[str, ...]  # what the `unique` columns of a table's declaration hold, as texts


class EventKey(NamedTuple):
    """The unique columns of every table of events: ids are unique per tenant."""

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

    async def existing(self, table: Rows, keys: Iterable[Unique]) -> dict[Unique, int]:
        """Which of these rows the table has, by the texts of their unique columns, and their highest version or 0."""
        wanted = sorted(set(keys))
        found: dict[Unique, int] = {}
        for start in range(0, len(wanted), IDS_IN_QUERY):
            found |= await self._existing(table, wanted[start : start + IDS_IN_QUERY])
        return found

    async def counts(self, table: Rows) -> Counts:
        """The whole table as a reader sees it: of events without FINAL, of versions with it."""
        place = self._name(table) + (" FINAL" if table.version else "")
        query = f"SELECT count(), uniqExact({', '.join(table.unique)}) FROM {place}"  # nosec B608 # noqa: S608 - ours
        rows, unique = (await self._connected.query(query)).result_rows[0]
        return Counts(int(rows), int(unique))

    async def _existing(self, table: Rows, wanted: Sequence[Unique]) -> dict[Unique, int]:
        # The columns apart, not as tuples: so the primary key and the bloom filter are used. Whole keys are told below.
        texts = ", ".join(f"toString({column}) AS text_{column}" for column in table.unique)
        bound = {column: tuple(dict.fromkeys(key[n] for key in wanted)) for n, column in enumerate(table.unique)}
        query = (
            f"SELECT {texts}, {f'max({table.version})' if table.version else '0'} "  # noqa: S608 - values are bound
            f"FROM {self._name(table)} WHERE {' AND '.join(f'{column} IN %({column})s' for column in bound)} "
            f"GROUP BY {', '.join(f'text_{column}' for column in bound)}"  # nosec B608
        )
        rows = (await self._connected.query(query, bound)).result_rows
        return {key: int(row[-1]) for row in rows if (key := tuple(row[:-1])) in set(wanted)}

    def _name(self, table: Rows) -> str:
        return f"{self._settings.clickhouse_database}.{table.table}"

    @property
    def _connected(self) -> AsyncClient:
        if self._client is None:
            raise RuntimeError("Stored is used outside its `async with`")
        return self._client
