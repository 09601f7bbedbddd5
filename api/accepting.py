"""Where connections come in: as many a turn of the event loop as wait, so that a flood keeps nobody out.

The first step of every request. libuv, uvloop's core, takes one connection a turn. Under overload a turn is long, since
everything that is ready runs in it: who comes new then waits in the kernel until the flood is over.
"""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

import structlog

ACCEPTS_A_TURN: Final = 64  # of about 50 µs each: a turn grows by 3 ms at most
PAUSE_S: Final = 0.5  # no file is left for one more connection: those that end give theirs back
NO_ROOM: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

log = structlog.get_logger(__name__)


class Listener:
    """One listening socket. `make` gives the protocol of a new connection. Closed, it accepts no more."""

    def __init__(self, listening: socket.socket, backlog: int, make: Callable[[], asyncio.Protocol]) -> None:
        self._listening = listening
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        listening.setblocking(False)
        listening.listen(backlog)
        self._loop.add_reader(listening, self._accept)

    def close(self) -> None:
        """Who waits in the kernel is refused by it; connections that are open stay."""
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
            self._listening.close()

    async def wait_closed(self) -> None:
        """Nothing is left to wait for: open connections are the server's, and it ends them."""

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                connection, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue  # it was gone before its turn came
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                log.warning("no room for a connection", error=error.strerror, pause_s=PAUSE_S)
                self._loop.remove_reader(self._listening)
                self._loop.call_later(PAUSE_S, self._go_on)
                return
            opening = self._loop.create_task(self._open(connection))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._make, connection)
        except OSError as error:  # it was gone before it was ours
            log.debug("a connection did not open", error=str(error))
            connection.close()

    def _go_on(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.add_reader(self._listening, self._accept)
