"""How an edge ends, on a real socket: it serves on, lets go of connections, and a second signal means at once."""

import asyncio
import http.client
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from api.draining import LETTING_GO_S, DrainingServer
from infra.local.ports import free_port

DRAIN_S = 0.5
SOON_S = 0.45  # uvicorn itself takes two tenths
Server = tuple[DrainingServer, http.client.HTTPConnection, "asyncio.Task[None]"]


async def nothing(_scope: dict[str, Any], _receive: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """The smallest application."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


@asynccontextmanager
async def serving(drain_s: float) -> AsyncIterator[Server]:
    """A server and one kept connection to it."""
    config = uvicorn.Config(nothing, port=free_port(), lifespan="off", log_config=None)
    server = DrainingServer(config, drain_s)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    connection = http.client.HTTPConnection("127.0.0.1", config.port, timeout=5)
    try:
        assert await asked(connection) is None
        yield server, connection, serving
    finally:
        connection.close()
        server.handle_exit(signal.SIGTERM, None)
        server.handle_exit(signal.SIGTERM, None)
        # uvicorn raises the signals that it got once more for whoever started it.
        before = signal.signal(signal.SIGTERM, lambda _number, _frame: None)
        await serving
        signal.signal(signal.SIGTERM, before)


async def asked(connection: http.client.HTTPConnection) -> str | None:
    """One request on the kept connection; the answer's Connection header."""

    def ask() -> str | None:
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        return answer.getheader("connection")

    return await asyncio.to_thread(ask)


async def test_it_serves_while_it_drains_and_then_lets_go() -> None:
    """A kept connection is served as before for the delay, and ends with an answer that says so."""
    async with serving(DRAIN_S) as (server, connection, task):
        server.handle_exit(signal.SIGTERM, None)
        assert server.is_draining
        assert not server.is_letting_go
        assert await asked(connection) is None
        await asyncio.sleep(DRAIN_S + 0.2)
        assert server.is_letting_go
        assert await asked(connection) == "close"
        async with asyncio.timeout(SOON_S):
            await asyncio.shield(task)


async def test_an_idle_connection_does_not_hold_it_for_ever() -> None:
    """Who keeps a connection and says nothing is let go at the end of the time."""
    async with serving(0.1) as (server, _, task):
        server.handle_exit(signal.SIGTERM, None)
        async with asyncio.timeout(0.1 + LETTING_GO_S + 1.0):
            await asyncio.shield(task)


@pytest.mark.parametrize(("drain_s", "signals"), [(0.0, 1), (60.0, 2)])
async def test_it_ends_at_once_when_told_so(drain_s: float, signals: int) -> None:
    """No delay without a balancer, and none for whoever asks twice."""
    async with serving(drain_s) as (server, _, task):
        for _ in range(signals):
            server.handle_exit(signal.SIGTERM, None)
        async with asyncio.timeout(SOON_S):
            await asyncio.shield(task)
