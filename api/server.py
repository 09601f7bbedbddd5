"""The socket side of the edge: uvicorn with deadlines and caps that it lacks, so that slow clients are cut.

uvicorn times out only idle keep-alive connections. Here a request's head and body have deadlines, its head has a
size and a count, an answer has a deadline to be read, and when all places are taken the one that has kept its request
unfinished the longest makes room.
"""

import asyncio
import resource
from asyncio.events import TimerHandle
from collections import OrderedDict
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.settings import Settings
from app.telemetry import metrics

HEAD_S: Final = 5.0  # request line and headers, from the first byte (or from the connection) on
BODY_S: Final = 20.0  # 1 MiB at 50 kB/s, a poor mobile line
ANSWER_S: Final = 20.0  # the client takes nothing of the answer for so long
KEEP_ALIVE_S: Final = 30
LINGER_S: Final = 1.0  # what a refused client sends on is read and dropped for so long
HEAD_BYTES_MAX: Final = 32 << 10  # a URL of 4 kB, cookies of the same site, and room
HEADERS_MAX: Final = 100
BACKLOG: Final = 2_048
FILES_BESIDE: Final = 256  # Kafka, Postgres and ClickHouse connections, logs, libraries
DRAIN_S: Final = 10  # SIGTERM: requests in progress may end; each takes at most about 2 s


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Subclassed by `protocol_for` with the limits of this process."""

    connections_max = 1_000
    head_s = HEAD_S
    body_s = BODY_S
    answer_s = ANSWER_S
    unfinished: "OrderedDict[BoundedProtocol, None]"
    idle: "OrderedDict[BoundedProtocol, None]"

    _deadline: TimerHandle | None = None
    _answer_deadline: TimerHandle | None = None
    _head_bytes = 0
    _unparsed_bytes = 0
    _ended_here = False
    _in_head = True
    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A place is taken. When there is none, the longest idle connection or unfinished request gives its own up."""
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            victim = next(iter(self.idle), None) or next(iter(self.unfinished), self)
            victim.cut("crowded_out")
            if victim is self:
                return
        self._await_request("slow_head", self.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left running."""
        self._settle_request()
        if self._answer_deadline is not None:
            self._answer_deadline.cancel()
        super().connection_lost(exc)

    def data_received(self, received: bytes) -> None:
        """Bytes; while they are a head that does not end, they are counted."""
        if self._refused or self.transport.is_closing():
            return
        self.idle.pop(self, None)
        self._ended_here = False
        super().data_received(received)
        # The parser keeps an unfinished header to itself, so what it has swallowed is counted here. A read in which a
        # request ended is left out: nobody knows how much of it is the next head, and it is one read at most.
        if self._in_head and not self._ended_here:
            self._unparsed_bytes += len(received)
            if self._unparsed_bytes > HEAD_BYTES_MAX:
                self._refuse(431, "Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """The first byte of a request, also of the next one on a connection that was kept."""
        super().on_message_begin()
        self._in_head = True
        self._unparsed_bytes = 0
        self._head_bytes = 0
        if self._deadline is None:
            self._await_request("slow_head", self.head_s)

    def on_url(self, url: bytes) -> None:
        """A piece of the URL."""
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        super().on_header(name, value)
        self._count_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """The head is whole; now the body has its time."""
        self._in_head = False
        if self._refused or self.transport.is_closing():
            return
        self._await_request("slow_body", self.body_s)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole; what happens now is up to us, not the client."""
        self._ended_here = True
        self._settle_request()
        if not self._refused and not self.transport.is_closing() and self.cycle is not None:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is out; the connection may be kept for another request."""
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None and self._deadline is None:
            self.idle[self] = None

    def pause_writing(self) -> None:
        """The client does not take its answer."""
        super().pause_writing()
        self._answer_deadline = self.loop.call_later(self.answer_s, self.cut, "slow_answer")

    def resume_writing(self) -> None:
        """The client takes its answer."""
        super().resume_writing()
        if self._answer_deadline is not None:
            self._answer_deadline.cancel()
            self._answer_deadline = None

    def cut(self, reason: str) -> None:
        """End the connection without an answer: whoever is this slow would not read one."""
        self._settle_request()
        metrics.CONNECTIONS_CUT.labels(reason).inc()
        # Now, not when the loop gets to it: the place is free for who comes next.
        self.connections.discard(self)
        self.transport.abort()

    def _await_request(self, reason: str, seconds: float) -> None:
        self._settle_request()
        self._deadline = self.loop.call_later(seconds, self.cut, reason)
        self.unfinished[self] = None

    def _settle_request(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self.unfinished.pop(self, None)
        self.idle.pop(self, None)

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > HEAD_BYTES_MAX or len(self.headers) > HEADERS_MAX:
            self._refuse(431, "Request Header Fields Too Large")

    def _refuse(self, status: int, phrase: str) -> None:
        if self._refused:
            return
        self._settle_request()
        metrics.CONNECTIONS_CUT.labels("large_head").inc()
        body = (
            f'{{"type":"about:blank","title":"{phrase}","status":{status},"code":"head_too_large",'
            f'"message":"at most {HEADERS_MAX} headers and {HEAD_BYTES_MAX} bytes of request line and headers",'
            '"errors":[]}'
        ).encode()
        head = (
            f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        ).encode()
        self._refused = True
        self.transport.write(head + body)
        # Closed at once, with bytes of the client still unread, the answer would be lost to a reset.
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.abort)


def protocol_for(connections_max: int, **deadlines: float) -> type[BoundedProtocol]:
    """The protocol with this process's limits; `head_s`, `body_s` and `answer_s` may be set."""
    limits: dict[str, Any] = {"connections_max": connections_max, "unfinished": OrderedDict(), "idle": OrderedDict()}
    return type("LimitedProtocol", (BoundedProtocol,), {**limits, **deadlines})


def config_for(app: Any, settings: Settings, **deadlines: float) -> uvicorn.Config:
    """How uvicorn serves the edge."""
    return uvicorn.Config(
        app,
        host=settings.edge_host,
        port=settings.edge_port,
        loop="uvloop",
        http=protocol_for(settings.edge_connections_max, **deadlines),
        ws="none",
        lifespan="on",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
        access_log=False,  # request lines carry keys in their query; metrics count requests
        log_config=None,
        proxy_headers=False,  # nothing here depends on the client's address
        server_header=False,
    )


def allow_connections(connections_max: int) -> None:
    """Raise this process's limit of open files so that every connection gets one: shells often set 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + FILES_BESIDE
    if soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
