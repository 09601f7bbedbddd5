"""The other side of the ClickHouse sink: a real HTTP server that reads real Avro containers and refuses some rows.

It stands at the boundary only, for answers that a real engine gives rarely. What a real engine does with a container is
tested against a real engine.
"""

import asyncio
import io
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import fastavro
import orjson
from aiohttp import web

from app.settings import Settings
from app.sinks.clickhouse import ClickHouseSink

CANNOT_PARSE = "27"
AVRO_EXCEPTION = "748"
DATABASE = "afluente"

Wrong = Callable[[dict[str, Any]], bool]


@dataclass
class Server:
    """Refuses every container that holds a row it finds wrong, as ClickHouse does: the whole, with a code."""

    columns: list[str]
    wrong: Wrong = lambda _row: False
    inserted: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    probed: int = 0
    requests: list[dict[str, str]] = field(default_factory=list)
    # What to answer instead, once each: status, exception code, text.
    answers: list[tuple[int, str | None, str]] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.requests.append(query)
        self.heads.append(dict(request.headers))
        body = await request.read()
        if self.answers:
            status, code, text = self.answers.pop(0)
            heads = {} if code is None else {"X-ClickHouse-Exception-Code": code}
            return web.Response(status=status, text=text, headers=heads)
        if query["query"].startswith("DESCRIBE"):
            return await self._describe(request)
        try:
            rows = list(fastavro.reader(io.BytesIO(body)))
        except (EOFError, ValueError, IndexError, MemoryError, OverflowError):
            return web.Response(
                status=500, text="avro::Exception", headers={"X-ClickHouse-Exception-Code": AVRO_EXCEPTION}
            )
        if any(self.wrong(row) for row in rows):
            heads = {"X-ClickHouse-Exception-Code": CANNOT_PARSE}
            return web.Response(status=400, text="Code: 27. DB::Exception: Cannot parse input", headers=heads)
        if re.match(r"INSERT INTO FUNCTION null\('", query["query"]):
            self.probed += 1
        else:
            # As ClickHouse does: a token that is known adds nothing.
            self.inserted.setdefault(query["insert_deduplication_token"], rows)
        return web.Response()

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        """The columns, in several packets, as a server with a proxy in front of it sends them."""
        text = orjson.dumps({"data": [[name, "String", "", ""] for name in self.columns]})
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        for start in range(0, len(text), 200):
            await answer.write(text[start : start + 200])
            await asyncio.sleep(0)
        await answer.write_eof()
        return answer


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[ClickHouseSink]:
    """The server on a free port, and a sink that speaks to it."""
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    sink = ClickHouseSink(Settings(clickhouse_url=f"http://127.0.0.1:{port}", clickhouse_database=DATABASE))
    try:
        yield sink
    finally:
        await sink.close()
        await runner.cleanup()
