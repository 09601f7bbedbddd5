"""Requests that nobody honest sends: too large, too deep, too many, or never finished. Over raw sockets."""

import contextlib
import gzip
import socket
from functools import cache

ASK_S = 15.0
CHUNK = b"x" * (1 << 20)
BODY_BYTES = 200 << 20
BOMB_BYTES = 64 << 20
HEADERS = 100_000
DEPTH = 100_000
HALF_OPEN = 300
CUT = 0  # no status: the connection was ended without one


def _head(key: str, *more: str) -> bytes:
    lines = ("POST /track/click HTTP/1.1", "Host: edge", f"Authorization: Bearer {key}", *more)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _exchange(port: int, head: bytes, body: bytes, body_bytes: int = 0) -> int:
    """Send, for as long as the edge takes it, and read the status of its answer."""
    with socket.create_connection(("127.0.0.1", port), ASK_S) as sock:
        with contextlib.suppress(ConnectionError, TimeoutError):
            sock.sendall(head)
            left = body_bytes or len(body)
            while left > 0:
                left -= sock.send(body[: min(left, len(body))] if body_bytes else body[len(body) - left :])
        with contextlib.suppress(ConnectionError, TimeoutError):
            answer = sock.recv(1 << 16)
            if answer.startswith(b"HTTP/1.1 "):
                return int(answer[9:12])
    return CUT


# Made once: the attacker's own work must not be what honest senders wait for.


@cache
def _bomb() -> bytes:
    return gzip.compress(bytes(BOMB_BYTES))


@cache
def _many() -> tuple[str, ...]:
    return tuple(f"X-{n}: 1" for n in range(HEADERS))


def prepare() -> None:
    """Make what takes time before the clock runs."""
    _bomb(), _many()


def huge_body(port: int, key: str) -> int:
    """200 MB, announced."""
    return _exchange(port, _head(key, f"Content-Length: {BODY_BYTES}"), CHUNK, BODY_BYTES)


def endless_body(port: int, key: str) -> int:
    """As much in pieces, without saying so."""
    piece = f"{len(CHUNK):x}\r\n".encode() + CHUNK + b"\r\n"
    return _exchange(port, _head(key, "Transfer-Encoding: chunked"), piece, BODY_BYTES)


def gzip_bomb(port: int, key: str) -> int:
    """64 kB that become 64 MB."""
    body = _bomb()
    return _exchange(port, _head(key, "Content-Encoding: gzip", f"Content-Length: {len(body)}"), body)


def many_headers(port: int, key: str) -> int:
    """A hundred thousand of them."""
    return _exchange(port, _head(key, *_many()), b"")


def deep_json(port: int, key: str) -> int:
    """Brackets within brackets."""
    body = b"[" * DEPTH + b"]" * DEPTH
    return _exchange(port, _head(key, f"Content-Length: {len(body)}"), body)


def half_open(port: int, count: int = HALF_OPEN) -> list[socket.socket]:
    """Connections that begin a request and do nothing more."""
    found = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", port), ASK_S)
        sock.sendall(b"POST /track/click HTTP/1.1\r\nHost: e")
        found.append(sock)
    return found


ATTACKS = (huge_body, endless_body, gzip_bomb, many_headers, deep_json)
