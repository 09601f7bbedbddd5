"""How an edge leaves its balancer: it says so first, goes on serving, then lets go of one connection after the other.

The answer of /health/ready turns to 503 with SIGTERM, and for `edge_drain_s` nothing else changes: a balancer learns of
it. Then every answer says `Connection: close`, so that a client that keeps its connection knows before it sends the
next request on it. What is idle after that is closed, what is in progress is answered, and the process ends.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Final, cast

import structlog
import uvicorn

from api.accepting import Listener

# A client that keeps a connection and sends less often than this may meet its end on the way: HTTP leaves that open for
# every server, and the sender sends again. Long enough for one request of all that are busy.
LETTING_GO_S: Final = 5.0
LOOK_S: Final = 0.1  # how often uvicorn looks whether it is to end
AT_ONCE: Final = 2  # signals: whoever sends a second one does not want to wait
CLOSE: Final = (b"connection", b"close")

log = structlog.get_logger(__name__)


class DrainingServer(uvicorn.Server):
    """uvicorn, which by itself takes one connection a turn, and closes idle ones when told to end."""

    def __init__(self, config: uvicorn.Config, drain_s: float) -> None:
        super().__init__(config)
        self._drain_s = drain_s  # 0: nobody balances, so nobody has to be told
        self._signals = 0
        self.is_letting_go = False

    @property
    def is_draining(self) -> bool:
        """Whether a signal has come: from now on this edge is not ready."""
        return self.should_exit

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A first signal begins the end; one more means at once."""
        self._signals += 1
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen on these sockets, or on what the configuration says."""
        listening = [self.config.bind_socket()] if sockets is None else sockets
        await super().startup(sockets=[])
        make = partial(
            cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class),
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state,
        )  # fmt: skip
        # All that uvicorn does with its servers is to close them.
        self.servers = cast("Any", [Listener(one, self.config.backlog, make) for one in listening])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called when the process is to end: everything that comes before the socket closes."""
        if self._drain_s:
            log.info("draining", seconds=self._drain_s, connections=len(self.server_state.connections))
            await self._serve_on(self._drain_s, lambda: False)
            self.is_letting_go = True
            self.config.encoded_headers.append(CLOSE)
            await self._serve_on(LETTING_GO_S, lambda: not self.server_state.connections)
            log.info("drained", connections=len(self.server_state.connections))
        self.is_letting_go = True
        await super().shutdown(sockets)

    async def _serve_on(self, seconds: float, is_done: Callable[[], bool]) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._signals < AT_ONCE and not is_done():
            await self.on_tick(0)  # the date and the headers that every answer carries
            await asyncio.sleep(LOOK_S)
