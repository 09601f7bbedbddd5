"""The request side of the ClickHouse stand-in: who asks, with which settings, and a body in bounded pieces.

Everything here may refuse, in ClickHouse's own words and codes, before the engine is bothered.
"""

import asyncio
import hmac
from base64 import b64decode
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from aiohttp import ClientConnectionError, ClientPayloadError, web

from infra.local.clickhouse_codec import DECODING_ERRORS, Inflater, accepted_encoding
from infra.local.clickhouse_engine import MIB, QueryFailed
from infra.local.clickhouse_sql import InsertHead, insert_head, is_insert

USER = "default"
STATEMENT_BYTES_MAX = 16 * MIB  # of SQL; rows behind an INSERT are not counted
INSERT_WHOLE_BYTES = 8 * MIB  # rows up to this size are gathered first: a slow client then holds no part open
PIECE_BYTES = 4 * MIB  # larger bodies go to the engine in pieces of this size
RECEIVE_TIMEOUT_S = 30.0  # silence of a sending client; ClickHouse's http_receive_timeout
INSERT_WORD_WITHIN = 64 << 10  # bytes; comments before the first word beyond that are not looked through
ENCODINGS = frozenset({"gzip", "deflate", "zstd", "lz4"})
URL_PARAMETERS = frozenset(
    {
        "query",
        "database",
        "default_format",
        "user",
        "password",
        "query_id",
        "session_id",
        "session_timeout",
        "session_check",
        "close_session",
        "compress",
        "decompress",
        "enable_http_compression",
        "wait_end_of_query",
        "buffer_size",
        "quota_key",
        "client_protocol_version",
        "role",
    }
)  # of the HTTP interface; every other parameter is a setting of the engine, or param_NAME


@dataclass(slots=True)
class Exchange:
    """One request on its way: what it asked for in URL and headers, and the response headers it will get."""

    request: web.Request
    statement: bytes
    database: str
    format: str
    settings: dict[str, str]
    encoding: str | None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def client_is_gone(self) -> bool:
        """True when nobody reads the answer any more."""
        return self.request.transport is None or self.request.transport.is_closing()


def refusal(code: int, name: str, text: str) -> QueryFailed:
    return QueryFailed(f"Code: {code}. DB::Exception: {text} ({name})")


def authenticate(request: web.Request, right_password: bytes) -> None:
    """User and password from headers, Basic, or the URL, in ClickHouse's order; compared in constant time."""
    user, password = request.query.get("user", USER), request.query.get("password", "")
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = b64decode(credentials, validate=True).decode().partition(":")
        except ValueError:
            user, password = "", ""
    user = request.headers.get("X-ClickHouse-User", user)
    password = request.headers.get("X-ClickHouse-Key", password)
    password_fits = not right_password or hmac.compare_digest(password.encode(), right_password)
    if not (hmac.compare_digest((user or USER).encode(), USER.encode()) and password_fits):
        text = f"{user[:64]}: Authentication failed: password is incorrect, or there is no user with such name."
        raise refusal(516, "AUTHENTICATION_FAILED", text)


def exchange_of(request: web.Request, headers: dict[str, str]) -> Exchange:
    query = request.query
    for name in ("compress", "decompress"):
        if query.get(name, "0") not in {"0", "false"}:
            text = f"{name}=1 (ClickHouse's native block framing) is not served here: use Content-Encoding"
            raise refusal(48, "NOT_IMPLEMENTED", f"{text} and Accept-Encoding with gzip, deflate, zstd or lz4")
    asks_compression = query.get("enable_http_compression", "0") not in {"0", "false"}
    settings = {name: value for name, value in query.items() if name not in URL_PARAMETERS}
    if request.method == "GET":
        settings["readonly"] = "2"  # as a server does: a link may read, never change
    return Exchange(
        request=request,
        statement=query.get("query", "").encode(),
        database=query.get("database") or request.headers.get("X-ClickHouse-Database") or "",
        format=query.get("default_format") or request.headers.get("X-ClickHouse-Format") or "TabSeparated",
        settings=settings,
        encoding=accepted_encoding(request.headers.get("Accept-Encoding", "")) if asks_compression else None,
        headers=headers,
    )


async def body_of(request: web.Request, pool: ThreadPoolExecutor) -> AsyncIterator[bytes]:
    """The decoded body in pieces of bounded size. A body that is cut short never looks complete."""
    encoding = request.headers.get("Content-Encoding", "identity").lower() or "identity"
    if encoding == "identity":
        while chunk := await _receive(request):
            yield chunk
        return
    if encoding not in ENCODINGS:
        text = f"Unknown encoding in the 'Content-Encoding' HTTP header: {encoding[:32]}; use gzip, deflate, zstd, lz4"
        raise refusal(48, "NOT_IMPLEMENTED", text)
    inflater = Inflater(encoding)
    loop = asyncio.get_running_loop()
    try:
        while chunk := await _receive(request):
            steps = inflater.feed(chunk)
            while (piece := await loop.run_in_executor(pool, next, steps, None)) is not None:
                yield piece
    except DECODING_ERRORS as error:
        raise refusal(432, "UNKNOWN_CODEC", f"The {encoding} body cannot be decompressed: {error}") from None
    if not inflater.ended:
        raise refusal(33, "CANNOT_READ_ALL_DATA", f"The {encoding} body is cut short")


async def _receive(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(RECEIVE_TIMEOUT_S):
            return await request.content.readany()
    except TimeoutError:
        raise refusal(209, "SOCKET_TIMEOUT", f"Timeout: no data for {RECEIVE_TIMEOUT_S:g} s") from None
    except (ClientPayloadError, ClientConnectionError, web.RequestPayloadError) as error:
        raise refusal(33, "CANNOT_READ_ALL_DATA", f"The request body is cut short: {error}") from None


async def whole_statement(sql: bytes, rows: AsyncIterator[bytes]) -> tuple[bytes, InsertHead | None]:
    """Read until the head of an INSERT with rows is complete, or to the end for anything else."""
    text = bytearray(sql + b"\n" if sql else b"")
    looked_at = 0
    async for piece in rows:
        text += piece
        if looked_at == 0 or len(text) > 2 * looked_at:
            looked_at = len(text)
            if (
                is_insert(bytes(text[:INSERT_WORD_WITHIN]))
                and (head := insert_head(bytes(text), complete=False)) is not None
            ):
                return bytes(text), head
        if len(text) > STATEMENT_BYTES_MAX:
            raise refusal(307, "TOO_MANY_BYTES", f"A statement has at most {STATEMENT_BYTES_MAX} bytes")
    whole = bytes(text)
    return whole, insert_head(whole, complete=True) if is_insert(whole) else None


async def gather(inline: bytes, rows: AsyncIterator[bytes]) -> AsyncIterator[tuple[bytes, bool]]:
    """Pieces for the engine, and with each whether it is all there is: the first large, the others smaller."""
    pieces, size, limit = [inline], len(inline), INSERT_WHOLE_BYTES
    async for piece in rows:
        if size + len(piece) > limit:
            yield b"".join(pieces), False
            pieces, size, limit = [], 0, PIECE_BYTES
        pieces.append(piece)
        size += len(piece)
    yield b"".join(pieces), limit == INSERT_WHOLE_BYTES
