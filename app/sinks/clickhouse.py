"""The ClickHouse sink: one insert a table, schema version and batch, named by its range so that a retry adds nothing.

Last stop of an event, step 6 of the loop. Rows travel as one block of an Avro object container: a datum is copied,
not decoded, and gets its topic, partition and offset appended, which is valid since an Avro record is the
concatenation of its fields. When the server refuses a block, the rows it objects to are found by asking it again
with parts of the block and no table behind, after those that are no datum at all; they go to the DLQ and the rest
is inserted under the same token.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import aiohttp
import orjson

from app.codec import Version
from app.errors import Backpressure, Poison
from app.settings import Settings
from app.sinks.container import SOURCE_FIELDS, Row, broken_rows, container, container_header

CODE_HEADER: Final = "X-ClickHouse-Exception-Code"
ANSWER_BYTES_MAX: Final = 64 << 10  # an insert answers nothing, a refusal some lines, a table its columns

# One batch = one block = one entry in the deduplication log: the block bounds must never split it.
BLOCK_ROWS_MAX: Final = 1_048_576
PARTITIONS_MAX: Final = 2_400  # every month that a Date has: one bill of 480 installments alone reaches into 480
INSERT_SETTINGS: Final = {
    "insert_deduplicate": "1",
    "async_insert": "0",
    "max_partitions_per_insert_block": str(PARTITIONS_MAX),
    "wait_end_of_query": "1",
    "max_insert_block_size": str(BLOCK_ROWS_MAX),
    "max_block_size": str(BLOCK_ROWS_MAX),
    "min_insert_block_size_rows": str(BLOCK_ROWS_MAX),
    "min_insert_block_size_bytes": str(1 << 30),
}

# Codes of ClickHouse's ErrorCodes.cpp: a disk that is full or takes no writes; what passes by itself; what speaks of
# the rows. All else is ours.
DISK_CODES: Final = frozenset({75, 76, 172, 204, 243, 294, 424, 586})
RETRY_CODES: Final = DISK_CODES | frozenset(
    {3, 159, 164, 173, 198, 202, 203, 209, 210, 225, 236, 241, 242, 252, 285, 286, 319, 394, 425, 439, 745, 999}
)
ROW_CODES: Final = frozenset(
    {6, 25, 26, 27, 32, 33, 38, 41, 53, 69, 70, 72, 117, 130, 131, 190, 321, 349, 376, 407, 441, 467, 748, 1000, 1001}
)
# Of a library below: what Avro and a disk that takes no writes have in common.
LIBRARY_CODES: Final = frozenset({1000, 1001})


class Refused(Exception):  # noqa: N818 - internal: the rows, not the server, are at fault
    """The server does not take this block because of what is in it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"code {code}: {text}")
        self.code = code
        self.text = text


class ClickHouseSink:
    """One kept-alive HTTP connection pool to one server. `insert` is durable when it returns."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.clickhouse_url
        self.database = settings.clickhouse_database
        self._headers = {"X-ClickHouse-User": settings.clickhouse_user}
        if password := settings.clickhouse_password.get_secret_value():
            self._headers["X-ClickHouse-Key"] = password
        # The client must wait longer than the server: a client that gives up first cannot know what happened.
        self._timeout = aiohttp.ClientTimeout(total=settings.clickhouse_timeout_s, connect=5)
        self.replicated = bool(settings.clickhouse_cluster)
        self._containers: dict[str, bytes] = {}
        self._structures: dict[str, dict[str, str]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def insert(
        self, table: str, version: Version, source: tuple[str, int], rows: Sequence[Row], token: str
    ) -> list[tuple[int, Poison]]:
        """Insert `rows` of (topic, partition) `source`. Returns (offset, reason) of those that can never be inserted.

        Raises Backpressure when the server is away, busy or out of space, RuntimeError when it refuses us for a
        reason that is not in the rows (no such table, no such column, no access).
        """
        if version.name not in self._containers:
            self._containers[version.name] = container_header(version)
        header = self._containers[version.name]
        refusal: Refused | None = None
        # A datum with bytes too many shifts the rows behind it, and is refused for that; behind the last row is none.
        if not broken_rows(version, rows[-1:]):
            try:
                await self._post(table, version, container(header, *source, rows), token)
            except Refused as error:
                refusal = error
            else:
                return []
        # Half a datum borrows from its neighbour: such rows must go before the server can be asked about others.
        bad = broken_rows(version, rows)
        if not bad and refusal is not None:
            # The table may have been altered since it was last looked at: rows are judged by what it is now.
            self._structures.pop(table, None)
            if refusal.code in LIBRARY_CODES and await self._parses(table, version, source, rows):
                raise Backpressure(f"clickhouse code {refusal.code}, of none of the rows")
            bad = await self._refused(table, version, source, rows, refusal)
        good = [row for row in rows if row.offset not in bad]
        later = await self.insert(table, version, source, good, token) if good else []
        return [*bad.items(), *later]

    async def ask(self, query: str, given: Mapping[str, object], bytes_max: int) -> str:
        """The answer to a query with bound parameters. Raises as `insert` does."""
        parameters = {"query": query, **{f"param_{name}": str(value) for name, value in given.items()}}
        return await self._request(parameters, b"", bytes_max)

    async def _parses(self, table: str, version: Version, source: tuple[str, int], rows: Sequence[Row]) -> bool:
        """Whether the server takes these rows where nothing is kept."""
        try:
            await self._post(table, version, container(self._containers[version.name], *source, rows), token=None)
        except Refused:
            return False
        return True

    async def _refused(
        self, table: str, version: Version, source: tuple[str, int], rows: Sequence[Row], refusal: Refused
    ) -> dict[int, Poison]:
        """Which rows the server objects to, by halving the block until single rows are left."""
        if len(rows) == 1:
            return {rows[0].offset: Poison("refused_by_clickhouse", refusal.text)}
        bad: dict[int, Poison] = {}
        middle = len(rows) // 2
        for half in (rows[:middle], rows[middle:]):
            try:
                body = container(self._containers[version.name], *source, half)
                await self._post(table, version, body, token=None)
            except Refused as narrower:
                bad |= await self._refused(table, version, source, half, narrower)
        if not bad:
            raise RuntimeError(f"ClickHouse refuses a block for {table} but none of its rows: {refusal}")
        return bad

    async def _post(self, table: str, version: Version, body: bytes, token: str | None) -> None:
        """Insert a container; with no token, let the server parse it against the table and keep nothing."""
        names = [field["name"] for field in (*version.parsed["fields"], *SOURCE_FIELDS)]
        if token is None:
            structure = await self._structure(table, names)
            parameters = {"query": f"INSERT INTO FUNCTION null({structure}) FORMAT Avro"}
        else:
            parameters = {"query": f"INSERT INTO {self.database}.{table} ({', '.join(names)}) FORMAT Avro"}
            parameters |= INSERT_SETTINGS | {"insert_deduplication_token": token}
        await self._request(parameters, body)

    async def _structure(self, table: str, names: list[str]) -> str:
        """The columns `names` of a table as ClickHouse's quoted structure text."""
        if table not in self._structures:
            query = f"DESCRIBE TABLE {self.database}.{table} FORMAT JSONCompact"
            rows = orjson.loads(await self._request({"query": query}, b""))["data"]
            self._structures[table] = {row[0]: row[1] for row in rows}
        text = ", ".join(f"{name} {self._structures[table][name]}" for name in names)
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    async def _request(self, parameters: dict[str, str], body: bytes, bytes_max: int = ANSWER_BYTES_MAX) -> str:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, headers=self._headers)
        try:
            async with self._session.post(self._url, params=parameters, data=body) as answer:
                text = await _text(answer, bytes_max)
                code = answer.headers.get(CODE_HEADER)
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Backpressure(f"clickhouse {type(error).__name__}") from error
        if status == 200 and code is None:
            return text
        raise _failure(status, code, text)


async def _text(answer: aiohttp.ClientResponse, bytes_max: int) -> str:
    """The answer's text up to a limit; one `read` gives only what the first packet brought."""
    found = bytearray()
    async for chunk in answer.content.iter_any():
        found += chunk
        if len(found) >= bytes_max:
            break
    return found[:bytes_max].decode("utf-8", "replace")


def _failure(status: int, code: str | None, text: str) -> Exception:
    number = int(code) if code is not None and code.isdigit() else 0
    if number in ROW_CODES:
        return Refused(number, text)
    if number in RETRY_CODES or (number == 0 and status in {429, 500, 502, 503, 504}):
        return Backpressure(f"clickhouse code {number} status {status}")
    return RuntimeError(f"ClickHouse refuses us with code {number}, status {status}: {text[:500]}")
