"""The ClickHouse of the embedded stack: HTTP on loopback, the engine (chdb) in this process, one request one session.

`python -m infra.local.clickhouse` serves what clickhouse-connect, curl and the worker's raw inserts use of a ClickHouse
server, on `AFLUENTE_CLICKHOUSE_PORT`, with its data in `$AFLUENTE_HOME/clickhouse`. The event loop moves bytes and
answers `/ping`; the engine works in two thread pools, so that long reads never keep an insert waiting.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import TypeVar

from aiohttp import web

from app.settings import Settings
from infra.local.clickhouse_codec import Deflater
from infra.local.clickhouse_engine import MIB, Answer, Engine, Insert, QueryFailed
from infra.local.clickhouse_request import (
    Exchange,
    authenticate,
    body_of,
    exchange_of,
    gather,
    refusal,
    whole_statement,
)
from infra.local.clickhouse_sql import (
    InsertHead,
    StatementRefused,
    insert_head,
    is_insert,
    output_clause,
    refuse_unserved_insert,
)

HOST = "127.0.0.1"
READ_THREADS = 16  # queries that run at once; more wait in line
WRITE_THREADS = 8  # inserts and everything else that changes something
IN_FLIGHT_MAX = 100  # requests in the house, ClickHouse's own default of max_concurrent_queries
ANSWER_BUFFER_BYTES = 1 * MIB  # an error before this much output still gets its own HTTP status
DISCONNECT_CHECK_S = 0.5  # how often a silent query looks whether its client is still there
DRAIN_TIMEOUT_S = 5.0  # after SIGTERM for requests under way, then their queries are killed
IDLE_CHECK_S = 5.0  # quiet for one such period: give freed memory back
BAD_REQUEST = """BAD_ARGUMENTS CANNOT_COMPILE_REGEXP CANNOT_PARSE_TEXT CANNOT_PARSE_ESCAPE_SEQUENCE
    CANNOT_PARSE_QUOTED_STRING CANNOT_PARSE_DATE CANNOT_PARSE_DATETIME CANNOT_PARSE_NUMBER CANNOT_PARSE_IPV4
    CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING CANNOT_PARSE_IPV6 CANNOT_PARSE_UUID CANNOT_PARSE_INPUT_ASSERTION_FAILED
    DUPLICATE_COLUMN ILLEGAL_COLUMN UNKNOWN_ELEMENT_IN_AST UNKNOWN_TYPE_OF_AST_NODE THERE_IS_NO_COLUMN TOO_DEEP_AST
    TOO_BIG_AST UNEXPECTED_AST_STRUCTURE SYNTAX_ERROR INCORRECT_DATA TYPE_MISMATCH
    VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE"""
NOT_FOUND = """UNKNOWN_TABLE UNKNOWN_FUNCTION UNKNOWN_IDENTIFIER UNKNOWN_TYPE UNKNOWN_STORAGE UNKNOWN_DATABASE
    UNKNOWN_SETTING UNKNOWN_DIRECTION_OF_SORTING UNKNOWN_AGGREGATE_FUNCTION UNKNOWN_FORMAT UNKNOWN_DATABASE_ENGINE
    UNKNOWN_TYPE_OF_QUERY UNKNOWN_ROLE"""
STATUS_OF_NAME = {
    **dict.fromkeys(BAD_REQUEST.split(), HTTPStatus.BAD_REQUEST),
    **dict.fromkeys(NOT_FOUND.split(), HTTPStatus.NOT_FOUND),
    "ACCESS_DENIED": HTTPStatus.FORBIDDEN,
    "AUTHENTICATION_FAILED": HTTPStatus.FORBIDDEN,
    "CANNOT_OPEN_FILE": HTTPStatus.SERVICE_UNAVAILABLE,
    "CANNOT_SCHEDULE_TASK": HTTPStatus.SERVICE_UNAVAILABLE,
    "NOT_IMPLEMENTED": HTTPStatus.NOT_IMPLEMENTED,
    "QUERY_IS_TOO_LARGE": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "SOCKET_TIMEOUT": HTTPStatus.SERVICE_UNAVAILABLE,
    "TIMEOUT_EXCEEDED": HTTPStatus.REQUEST_TIMEOUT,
}  # a server's own mapping; every other error is 500
CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "Arrow": "application/octet-stream",
}
log = logging.getLogger("afluente.clickhouse")
T = TypeVar("T")


class Server:
    """The handlers, over one engine."""

    def __init__(self, engine: Engine, password: str) -> None:
        self._engine = engine
        self._password = password.encode()
        self._host = socket.gethostname()
        self._readers = ThreadPoolExecutor(READ_THREADS, "read")
        self._writers = ThreadPoolExecutor(WRITE_THREADS, "write")
        self._in_flight = 0
        self._served = 0

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application()
        for path in ("/ping", "/replicas_status"):
            application.router.add_get(path, self.ping)
        application.router.add_get("/", self.query)
        application.router.add_post("/", self.query)
        application.router.add_get("/{path:.*}", self.unknown_path)
        application.cleanup_ctx.append(self._give_memory_back)
        return application

    async def ping(self, _: web.Request) -> web.Response:
        """Alive: answered by the event loop, whatever the engine is doing."""
        return web.Response(text="Ok.\n")

    async def unknown_path(self, request: web.Request) -> web.Response:
        """ClickHouse's own answer to a path it does not serve."""
        text = f"There is no handle {request.path}\n\nUse / or /ping for health checks.\nSend queries with POST to /\n"
        return web.Response(text=text, status=HTTPStatus.NOT_FOUND)

    async def query(self, request: web.Request) -> web.StreamResponse:
        """Any statement, in the URL, in the body, or its head in the URL and its rows in the body."""
        headers = {
            "X-ClickHouse-Server-Display-Name": self._host,
            "X-ClickHouse-Query-Id": request.query.get("query_id") or str(uuid.uuid4()),
            "X-ClickHouse-Timezone": self._engine.timezone,
        }
        self._in_flight += 1
        self._served += 1
        try:
            if self._in_flight > IN_FLIGHT_MAX:
                raise refusal(202, "TOO_MANY_SIMULTANEOUS_QUERIES", "Too many simultaneous queries. Maximum: 100")
            authenticate(request, self._password)
            return await self._answer(exchange_of(request, headers))
        except StatementRefused as error:
            return self._error(refusal(error.code, error.name, str(error)), headers)
        except QueryFailed as error:
            return self._error(error, headers)
        finally:
            self._in_flight -= 1

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        request, sql = exchange.request, exchange.statement
        rows = body_of(request, self._writers)
        if sql and is_insert(sql):
            head = insert_head(sql, complete=True)
            if head is not None:
                return await self._insert(exchange, head, sql[head.rows_at :], rows)
        sql, head = await whole_statement(sql, rows)
        if not sql.strip():
            return web.Response(text="Ok.\n", headers=exchange.headers)
        if head is not None:
            return await self._insert(exchange, head, sql[head.rows_at :], rows)
        if is_insert(sql):
            refuse_unserved_insert(sql)
        count = self._engine.statement_count(sql)
        if count > 1:
            raise refusal(62, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
        clause = output_clause(sql, exchange.format) if count else None
        if clause is not None:
            exchange.format = clause.format
            return await self._read(exchange, clause.into)
        answer = await self._work(
            self._writers,
            lambda: self._engine.execute(sql, exchange.settings, exchange.database, exchange.format),
        )
        return await self._whole(exchange, answer.body, answer)

    async def _work(self, pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, function)

    async def _insert(
        self, exchange: Exchange, head: InsertHead, inline: bytes, rows: AsyncIterator[bytes]
    ) -> web.StreamResponse:
        """Gather a small body, then insert it in one go; feed a large one piece by piece."""

        def begin() -> Insert:
            return Insert(self._engine, head.statement, head.format, exchange.settings, exchange.database)

        def whole() -> Answer:
            insert = begin()
            if gathered:
                insert.append(gathered)
            return insert.finish()

        pieces = gather(inline, rows)
        gathered, is_all = await anext(pieces)
        if is_all:
            return await self._whole(exchange, b"", await self._work(self._writers, whole))
        insert = await self._work(self._writers, begin)
        try:
            await self._work(self._writers, partial(insert.append, gathered))
            async for piece, _ in pieces:
                await self._work(self._writers, partial(insert.append, piece))
        except QueryFailed:
            raise  # append has closed the insert
        except BaseException:
            await asyncio.shield(self._work(self._writers, insert.cancel))
            raise
        return await self._whole(exchange, b"", await self._work(self._writers, insert.finish))

    async def _read(self, exchange: Exchange, into: Callable[[str], bytes]) -> web.StreamResponse:
        """Run a query with its output going into a pipe: any format, any size, back-pressure and all."""
        loop = asyncio.get_running_loop()
        reading_end, writing_end = os.pipe()
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(reading_end, fcntl.F_SETPIPE_SZ, ANSWER_BUFFER_BYTES)
        output = asyncio.StreamReader(limit=ANSWER_BUFFER_BYTES)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(reading_end, "rb", 0)
        )
        mark = exchange.settings.setdefault("log_comment", exchange.headers["X-ClickHouse-Query-Id"])

        def run() -> Answer:
            try:
                sql = into(f"/dev/fd/{writing_end}")
                return self._engine.execute(sql, exchange.settings, exchange.database, exchange.format)
            finally:
                os.close(writing_end)

        work = loop.run_in_executor(self._readers, run)
        try:
            return await self._send(exchange, output, work)
        finally:
            transport.close()
            if not work.done():
                await asyncio.shield(self._work(self._writers, lambda: self._engine.kill(mark)))
                with contextlib.suppress(QueryFailed):
                    await asyncio.shield(work)

    async def _send(
        self, exchange: Exchange, output: asyncio.StreamReader, work: asyncio.Future[Answer]
    ) -> web.StreamResponse:
        first = bytearray()
        while len(first) < ANSWER_BUFFER_BYTES:
            chunk = await _next_output(exchange, output)
            if not chunk:
                return await self._whole(exchange, bytes(first), await work)
            first += chunk
        tag = secrets.token_hex(8)
        response = web.StreamResponse(headers=exchange.headers | {"X-ClickHouse-Exception-Tag": tag})
        self._describe(exchange, response, Answer())
        encoder = Deflater(exchange.encoding) if exchange.encoding else None
        await response.prepare(exchange.request)
        chunk = bytes(first)
        while chunk:
            await response.write(await self._work(self._readers, partial(encoder.feed, chunk)) if encoder else chunk)
            chunk = await _next_output(exchange, output)
        try:
            await work
        except QueryFailed as error:
            # The status is sent, so the error goes into the body the way servers do it since 25.11, and the
            # connection is cut without the last chunk: no client can take the answer for whole.
            text = error.text.encode() + b"\n"
            block = b"\r\n__exception__\r\n%b\r\n%b%d %b\r\n__exception__\r\n" % (
                tag.encode(),
                text,
                len(text),
                tag.encode(),
            )
            await response.write(encoder.feed(block) + encoder.finish() if encoder else block)
            if exchange.request.transport is not None:
                exchange.request.transport.close()
            return response
        if encoder:
            await response.write(encoder.finish())
        await response.write_eof()
        return response

    async def _whole(self, exchange: Exchange, body: bytes, answer: Answer) -> web.StreamResponse:
        response = web.Response(headers=exchange.headers)
        self._describe(exchange, response, answer)
        if exchange.encoding and body:
            encoder = Deflater(exchange.encoding)
            body = encoder.feed(body) + encoder.finish()
        else:
            response.headers.popall("Content-Encoding", None)
        response.body = body
        return response

    def _describe(self, exchange: Exchange, response: web.StreamResponse, answer: Answer) -> None:
        figures = {
            "read_rows": answer.read_rows,
            "read_bytes": answer.read_bytes,
            "written_rows": answer.written_rows,
            "written_bytes": answer.written_bytes,
            "total_rows_to_read": answer.read_rows,
            "result_rows": answer.result_rows,
            "result_bytes": answer.written_bytes,
            "elapsed_ns": answer.elapsed_ns,
        }
        response.headers["X-ClickHouse-Summary"] = json.dumps(
            {name: str(value) for name, value in figures.items()}, separators=(",", ":")
        )
        response.headers["X-ClickHouse-Format"] = exchange.format
        response.headers["Content-Type"] = CONTENT_TYPES.get(exchange.format, "text/plain; charset=UTF-8")
        if exchange.encoding:
            response.headers["Content-Encoding"] = exchange.encoding

    def _error(self, error: QueryFailed, headers: dict[str, str]) -> web.Response:
        headers = headers | {"X-ClickHouse-Exception-Code": str(error.code)}
        text = error.text if "(version " in error.text else f"{error.text} (version {self._engine.version})"
        return web.Response(
            text=text + "\n", status=STATUS_OF_NAME.get(error.name, HTTPStatus.INTERNAL_SERVER_ERROR), headers=headers
        )

    async def _give_memory_back(self, _: web.Application) -> AsyncIterator[None]:
        async def watch() -> None:
            released = self._served
            before = self._served
            while True:
                await asyncio.sleep(IDLE_CHECK_S)
                if self._served == before != released and not self._in_flight:
                    await self._work(self._writers, self._engine.release_memory)
                    released = self._served
                before = self._served

        task = asyncio.create_task(watch())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        self._readers.shutdown()
        self._writers.shutdown()


async def _next_output(exchange: Exchange, output: asyncio.StreamReader) -> bytes:
    """The next bytes of a query's output; looks now and then whether the client is still there."""
    read = asyncio.ensure_future(output.read(ANSWER_BUFFER_BYTES))
    try:
        while not (await asyncio.wait({read}, timeout=DISCONNECT_CHECK_S))[0]:
            if exchange.client_is_gone:
                raise ConnectionResetError("the client closed the connection")
        return read.result()
    finally:
        read.cancel()


async def serve(settings: Settings) -> int:
    """Open the engine, listen, wait for SIGTERM or SIGINT, drain, close."""
    try:
        engine = Engine(settings.home / "clickhouse")
    except ValueError as error:
        log.critical("clickhouse: %s", error)
        return os.EX_UNAVAILABLE
    server = Server(engine, settings.clickhouse_password.get_secret_value())
    runner = web.AppRunner(
        server.application(),
        access_log=None,
        auto_decompress=False,
        read_bufsize=1 * MIB,
        shutdown_timeout=2 * DRAIN_TIMEOUT_S,
        keepalive_timeout=75.0,
    )
    await runner.setup()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    status = os.EX_OK
    try:
        await web.TCPSite(runner, HOST, settings.clickhouse_port).start()
        log.info("clickhouse: ready on http://%s:%d, engine %s", HOST, settings.clickhouse_port, engine.version)
        await stopped.wait()
    except OSError as error:
        log.critical("clickhouse: port %d: %s; set AFLUENTE_CLICKHOUSE_PORT", settings.clickhouse_port, error.strerror)
        status = os.EX_UNAVAILABLE
    cleanup = asyncio.ensure_future(runner.cleanup())
    if not (await asyncio.wait({cleanup}, timeout=DRAIN_TIMEOUT_S))[0]:
        await asyncio.to_thread(engine.kill_all)
    await cleanup
    engine.close()
    return status


def main() -> None:
    """Entry of `python -m infra.local.clickhouse`."""
    settings = Settings.load()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    sys.exit(asyncio.run(serve(settings)))


if __name__ == "__main__":
    main()
