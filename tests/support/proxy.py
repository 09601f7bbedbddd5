"""A TCP proxy that breaks connections on purpose, between any two parts: its faults are switched while it runs.

One listener on loopback in front of one address, on an event loop in a thread of its own. A `Fault` holds for the
connections that are open and for those to come, from the moment it is set.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

HOST = "127.0.0.1"
CHUNK_BYTES = 64 << 10
CALL_S = 10.0
LINGER_ZERO = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close sends a reset
LOOK_S = 0.02  # how often a blocked direction looks whether it may go on


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the line. The default is a line that works.

    `cut_after_bytes` counts what one connection has sent to the server; what comes then is a reset for both.
    `drop_answers`: what the server answers is swallowed, then the client is reset: it was done, and nobody is told.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_a_second: int = 0  # 0: as fast as it comes
    slice_bytes: int = 0  # pieces of this size, each its own packet; 0: as they come
    blackhole: bool = False  # accepted, and nothing moves in either direction
    half_open: bool = False  # what the client sends arrives, what the server answers does not; nobody closes
    refuse: bool = False  # new connections are reset
    cut_after_bytes: int = 0  # 0: never
    drop_answers: bool = False
    keep_open: bool = False  # a side that says goodbye is not heard: the other finds out by itself


WELL = Fault()


class _Line:
    """One connection: two pumps, and what has passed."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.sent_bytes = 0

    def reset(self) -> None:
        """End both sides at once, without a goodbye."""
        for writer in (self.client, self.server):
            sock: socket.socket | None = writer.get_extra_info("socket")
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
            writer.transport.abort()


class Proxy:
    """Listens from the moment it is made. `fault` says what is wrong now; `connections` counts those ever made."""

    def __init__(self, port_behind: int, port: int = 0, seed: int = 0) -> None:
        self.port_behind = port_behind
        self.connections = 0
        self.answers_dropped = 0
        self._fault = WELL
        self._random = random.Random(seed)
        self._lines: set[_Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._accept, HOST, port))
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def open_lines(self) -> int:
        return len(self._lines)

    def set(self, fault: Fault) -> None:
        """From now on, for old connections and new ones."""
        self._fault = fault

    @contextmanager
    def broken(self, fault: Fault) -> Iterator[None]:
        """While the body runs."""
        self.set(fault)
        try:
            yield
        finally:
            self.set(WELL)

    def reset_all(self) -> int:
        """Reset every open connection; how many there were."""
        lines = list(self._lines)
        self._loop.call_soon_threadsafe(lambda: [line.reset() for line in lines])
        return len(lines)

    def close(self) -> None:
        """Stop listening and end every connection."""
        self.reset_all()
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_S)
        self._loop.close()

    def _choose(self) -> int:
        """The port behind a new connection."""
        return self.port_behind

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_S)

    async def _stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        line: _Line | None = None
        try:
            if self._fault.refuse:
                _Line(writer, writer).reset()
                return
            behind, server = await asyncio.open_connection(HOST, self._choose())
            line = _Line(writer, server)
            self._lines.add(line)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(line, reader, server, upstream=True))
                group.create_task(self._pump(line, behind, writer, upstream=False))
        except* (OSError, ConnectionError):
            pass  # either side has gone: the other is told below
        finally:
            if line is not None:
                self._lines.discard(line)
                line.server.transport.abort()
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pump(
        self, line: _Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, upstream: bool
    ) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await self._hold(upstream=upstream)
            fault = self._fault
            if upstream:
                line.sent_bytes += len(chunk)
                if fault.cut_after_bytes and line.sent_bytes > fault.cut_after_bytes:
                    line.reset()
                    return
            elif fault.drop_answers:
                self.answers_dropped += 1
                line.reset()
                return
            if fault.latency_s or fault.jitter_s:
                wander = self._random.uniform(-fault.jitter_s, fault.jitter_s)
                await asyncio.sleep(max(0.0, fault.latency_s + wander))
            await self._write(writer, chunk, fault)
        while self._fault.keep_open:  # noqa: ASYNC110 - set by a thread
            await asyncio.sleep(LOOK_S)
        # One side says goodbye: the other hears it once what is on the way has arrived.
        if writer.can_write_eof():
            with contextlib.suppress(OSError):
                writer.write_eof()

    async def _hold(self, *, upstream: bool) -> None:
        """Wait while nothing may pass this way."""
        while self._fault.blackhole or (self._fault.half_open and not upstream):  # noqa: ASYNC110 - set by a thread
            await asyncio.sleep(LOOK_S)

    async def _write(self, writer: asyncio.StreamWriter, chunk: bytes, fault: Fault) -> None:
        size = fault.slice_bytes or len(chunk)
        for start in range(0, len(chunk), size):
            piece = chunk[start : start + size]
            writer.write(piece)
            await writer.drain()
            if fault.bytes_a_second:
                await asyncio.sleep(len(piece) / fault.bytes_a_second)
            elif fault.slice_bytes:
                await asyncio.sleep(0)  # a packet of its own


class Proxies:
    """Several proxies that are broken together, as in front of a cluster."""

    def __init__(self, *proxies: Proxy) -> None:
        self.all = proxies

    @contextmanager
    def broken(self, fault: Fault) -> Iterator[None]:
        """While the body runs, on every line."""
        with contextlib.ExitStack() as stack:
            for proxy in self.all:
                stack.enter_context(proxy.broken(fault))
            yield

    def close(self) -> None:
        for proxy in self.all:
            proxy.close()
