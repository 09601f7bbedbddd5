"""How an edge ends, on a real socket: it serves on, lets go of connections, and a second signal means at once."""

import asyncio
import http.client
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from api.draining import LETTING_GO_S, DrainingServer
from infra.local.ports import free_port
from tests.support.children import poll

DRAIN_S = 1.0
SOON_S = 2.0  # uvicorn itself takes two tenths on an idle machine


async def nothing(_scope: dict[str, Any], _receive: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """The smallest application."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


class Ending:
    """A server in a thread, where signals are ours to give, and one kept connection to it."""

    def __init__(self, drain_s: float) -> None:
        port = free_port()
        application: Any = nothing
        self.server = DrainingServer(uvicorn.Config(application, port=port, lifespan="off", log_config=None), drain_s)
        self._thread = threading.Thread(target=lambda: asyncio.run(self.server.serve()))
        self._thread.start()
        poll(lambda: self.server.started, "the server listens")
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)

    def ask(self) -> str | None:
        """One request on the kept connection; the answer's Connection header."""
        self.connection.request("GET", "/")
        answer = self.connection.getresponse()
        answer.read()
        return answer.getheader("connection")

    def signal(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)

    def ends_within(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()


@contextmanager
def serving(drain_s: float) -> Iterator[Ending]:
    """Until the test is over."""
    ending = Ending(drain_s)
    try:
        yield ending
    finally:
        ending.signal()
        ending.signal()
        ending.connection.close()
        assert ending.ends_within(SOON_S)


def test_it_serves_while_it_drains_and_then_lets_go() -> None:
    """A kept connection is served as before for the delay, and ends with an answer that says so."""
    with serving(DRAIN_S) as ending:
        assert ending.ask() is None
        ending.signal()
        assert ending.server.is_draining
        assert not ending.server.is_letting_go
        assert ending.ask() is None
        poll(lambda: ending.server.is_letting_go, "the delay is over")
        assert ending.ask() == "close"
        assert ending.ends_within(SOON_S)


def test_an_idle_connection_does_not_hold_it_for_ever() -> None:
    """Who keeps a connection and says nothing is let go at the end of the time."""
    with serving(0.1) as ending:
        assert ending.ask() is None
        ending.signal()
        assert ending.ends_within(LETTING_GO_S + SOON_S)


@pytest.mark.parametrize(("drain_s", "signals"), [(0.0, 1), (60.0, 2)])
def test_it_ends_at_once_when_told_so(drain_s: float, signals: int) -> None:
    """No delay without a balancer, and none for whoever asks twice."""
    with serving(drain_s) as ending:
        assert ending.ask() is None
        for _ in range(signals):
            ending.signal()
        assert ending.ends_within(SOON_S)
