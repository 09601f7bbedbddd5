"""Reading back from ClickHouse: one client, bound parameters only, every query under a tenant and a time limit."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import clickhouse_connect
import orjson
import structlog
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError

from api.errors import Refusal, unavailable
from app.settings import Settings

QUERY_S: Final = 10  # one page or summary reads a sorted range: far below it
CONNECT_S: Final = 2
CONNECTIONS_MAX: Final = 16
_SETTINGS: Final = {
    "date_time_output_format": "iso",
    "output_format_json_quote_decimals": 1,
    "output_format_json_quote_64bit_integers": 0,
    "max_execution_time": QUERY_S,
}

log = structlog.get_logger(__name__)


class ReadingStore:
    """Connects at the first read: the edge starts, and takes events, without ClickHouse."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.database = settings.clickhouse_database
        self._client: AsyncClient | None = None
        self._connecting = asyncio.Lock()

    async def rows(
        self, query: str, parameters: Mapping[str, Any], settings: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """The rows of a query, or 503. `parameters` are bound by the server, never pasted into the text."""
        try:
            async with asyncio.timeout(QUERY_S + CONNECT_S):
                client = await self._connected()
                found = await client.raw_query(
                    query, dict(parameters), settings={**_SETTINGS, **(settings or {})}, fmt="JSONEachRow"
                )
        except (ClickHouseError, aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("clickhouse did not answer a read", error=type(error).__name__, detail=str(error)[:300])
            raise _unreadable() from None
        return [orjson.loads(line) for line in found.splitlines()]

    async def ping(self) -> None:
        """Raises when ClickHouse does not answer."""
        if not await (await self._connected()).ping():
            raise ConnectionError("ping failed")

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def _connected(self) -> AsyncClient:
        async with self._connecting:
            if self._client is None:
                url = urlsplit(self._settings.clickhouse_url)
                self._client = await clickhouse_connect.get_async_client(
                    host=url.hostname,
                    port=url.port,
                    secure=url.scheme == "https",
                    username=self._settings.clickhouse_user,
                    password=self._settings.clickhouse_password.get_secret_value(),
                    connect_timeout=CONNECT_S,
                    send_receive_timeout=QUERY_S,
                    connector_limit=CONNECTIONS_MAX,
                )
            return self._client


def _unreadable() -> Refusal:
    return unavailable("reads_unavailable", "what was stored cannot be read now; writing is not affected")
