"""From the socket to parsed JSON: every cap is checked before the next step may spend memory on the body."""

import json
import zlib
from typing import Any, Final, NoReturn

import orjson
from starlette.requests import Request

from api.errors import Refusal
from api.head import header
from api.limits import Hold

BODY_BYTES_MAX: Final = 1 << 20  # on the wire, of any request; also what a record of gateway.received can carry
INFLATED_BYTES_MAX: Final = 4 << 20  # 1,000 events of 4 kB; a gzip bomb ends here
# What is too large is still read, and forgotten, up to here: a client that is cut while it sends sees no answer.
DRAINED_BYTES_MAX: Final = 8 << 20
JSON_DEPTH_MAX: Final = 254  # what orjson can write again, which is how repeated names are found
GZIP_MAGIC: Final = b"\x1f\x8b"
GZIP_MEMBERS_MAX: Final = 64  # streams joined end to end; senders join a few, if any
_GZIP_WBITS: Final = 31
_PLAIN: Final = frozenset({"", "identity", "gzip"})


async def read(request: Request, hold: Hold) -> bytes:
    """The raw bytes, at most BODY_BYTES_MAX of them, counted against what is in flight as they arrive."""
    announced = header(request.scope, b"content-length") or ""
    if announced.isdecimal() and int(announced) > DRAINED_BYTES_MAX:
        _too_large(close=True)
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        # Read as Starlette's Request reads it, without its generator: a request has one chunk nearly always.
        received = await request.receive()
        if received["type"] == "http.disconnect":
            # Nobody reads this answer; it ends the request without a trace in the error log.
            raise Refusal(400, "disconnected", "the connection ended before the body")
        more = received.get("more_body", False)
        chunk = received.get("body", b"")
        size += len(chunk)
        if size <= BODY_BYTES_MAX:
            hold.take(len(chunk))
            chunks.append(chunk)
            continue
        chunks.clear()
        if size > DRAINED_BYTES_MAX:
            _too_large(close=True)
    if size > BODY_BYTES_MAX:
        _too_large()
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def inflate(raw: bytes, request: Request, hold: Hold) -> bytes:
    """The body without its gzip, recognised by its first bytes: sendBeacon cannot set Content-Encoding."""
    coding = (header(request.scope, b"content-encoding") or "").strip().lower()
    if coding not in _PLAIN:
        raise Refusal(415, "content_encoding", "Content-Encoding may be gzip or identity")
    if not raw.startswith(GZIP_MAGIC):
        return raw
    parts: list[bytes] = []
    size = 0
    try:
        while raw:
            if len(parts) == GZIP_MEMBERS_MAX:
                _not_gzip()
            member = zlib.decompressobj(_GZIP_WBITS)
            part = member.decompress(raw, INFLATED_BYTES_MAX - size + 1)
            size += len(part)
            if size > INFLATED_BYTES_MAX:
                _too_large_inflated()
            if not member.eof:
                _not_gzip()
            hold.take(len(part))
            parts.append(part)
            raw = member.unused_data
    except zlib.error:
        _not_gzip()
    return b"".join(parts)


def parse(body: bytes) -> Any:
    """Strict JSON: no NaN, no lone surrogates, no bottomless depth, no name twice in one object."""
    if not body:
        raise Refusal(400, "empty_body", "the body is empty; send a JSON object or an array of them")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, "not_json", f"the body is not strict JSON: {error.msg} at byte {error.pos}") from None
    try:
        again = orjson.dumps(document)
    except (orjson.JSONEncodeError, TypeError):
        _too_deep()
    # A repeated name is dropped by the parser and its colon with it. Only \u003a could make up for it, so bodies
    # with such an escape take the slow way too.
    if body.count(b":") != again.count(b":") or b"\\u003" in body:
        _refuse_repeated_names(body)
    return document


def _refuse_repeated_names(body: bytes) -> None:
    try:
        json.loads(body, object_pairs_hook=_without_repeats)
    except RecursionError:
        _too_deep()


def _without_repeats(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise Refusal(400, "repeated_name", "an object of the body has the same name twice")


def _too_deep() -> NoReturn:
    raise Refusal(400, "too_deep", f"the body is nested deeper than {JSON_DEPTH_MAX} levels")


def _too_large(*, close: bool = False) -> NoReturn:
    text = f"a body has at most {BODY_BYTES_MAX} bytes; split the batch, or compress it with gzip"
    raise Refusal(413, "too_large", text, headers={"Connection": "close"} if close else {})


def _too_large_inflated() -> NoReturn:
    raise Refusal(413, "too_large_inflated", f"a body has at most {INFLATED_BYTES_MAX} bytes when inflated")


def _not_gzip() -> NoReturn:
    raise Refusal(400, "not_gzip", "the body begins like gzip but is damaged or cut off")
