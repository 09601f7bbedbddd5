"""How connections come in, on real sockets: all that wait, until the listener is closed or no file is left."""

import asyncio
import contextlib
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from api.accepting import ACCEPTS_A_TURN, Listener

BACKLOG = 256


class Site:
    """A listener, and the protocols that it made."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()
        self.made: list[asyncio.Protocol] = []
        self.listener = Listener(self._listening, BACKLOG, self._make)
        self.clients: list[socket.socket] = []

    def _make(self) -> asyncio.Protocol:
        protocol = asyncio.Protocol()
        self.made.append(protocol)
        return protocol

    def connect(self, count: int) -> None:
        """So many clients, complete for the kernel although the loop has not turned."""
        self.clients += [socket.create_connection(self.address) for _ in range(count)]

    async def until(self, count: int) -> None:
        """So many are accepted."""
        async with asyncio.timeout(10):
            while len(self.made) < count:  # noqa: ASYNC110 - a protocol is made without a word
                await asyncio.sleep(0)


@asynccontextmanager
async def listening() -> AsyncIterator[Site]:
    """Until the test is over."""
    site = Site()
    try:
        yield site
    finally:
        site.listener.close()
        for client in site.clients:
            client.close()


@contextmanager
def no_files_left() -> Iterator[None]:
    """Nothing can be opened in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = os.dup(0)
    os.close(highest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_all_who_wait_are_let_in_within_a_few_turns() -> None:
    """A turn takes many connections: under overload, when turns are long, nobody waits for one turn each."""
    async with listening() as site:
        site.connect(2 * ACCEPTS_A_TURN - 1)
        turns = 0
        loop = asyncio.get_running_loop()
        while len(site.made) < len(site.clients) and turns < 10:
            turns += 1
            turned = loop.create_future()
            loop.call_soon(turned.set_result, None)
            await turned
        assert len(site.made) == len(site.clients)


async def test_who_leaves_before_its_turn_harms_nobody() -> None:
    """A client that resets its connection while it waits is gone, and the next one is let in."""
    async with listening() as site:
        gone = socket.create_connection(site.address)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        site.connect(1)
        await site.until(1)


async def test_closed_it_refuses() -> None:
    """Who comes after the end is told so by the kernel, and closing twice is closing."""
    async with listening() as site:
        site.connect(1)
        await site.until(1)
        site.listener.close()
        with pytest.raises(ConnectionRefusedError):
            site.connect(1)


async def test_who_finds_no_file_left_is_let_in_later() -> None:
    """A process without files to open goes on accepting when it has some again."""
    async with listening() as site:
        site.connect(3)
        with no_files_left():
            for _ in range(10):
                await asyncio.sleep(0)
            assert not site.made
        with contextlib.suppress(TimeoutError):
            await site.until(3)
        assert len(site.made) == 3
