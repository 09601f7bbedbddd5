"""The stream that keeps an open page up to date: bounded in number, in time, and by the end of the edge."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.page_live import LiveFeed

BEAT_S: Final = 15.0  # a line now and then, so that nobody on the way takes the stream for dead
STREAM_S: Final = 300.0  # then the browser connects again, and the key is looked at again
TICK_S: Final = 1.0  # how soon a stream sees that the edge is ending
RETRY: Final = b"retry: 2000\n\n"  # milliseconds until the browser connects again
CHANGE: Final = b"event: change\ndata: {}\n\n"
BEAT: Final = b": beat\n\n"


class ChangeStream(StreamingResponse):
    """`change` at the beginning and whenever the tenant's figures change.

    The place among the pages is taken when the answer is sent and given back however that ends: a client that left
    before the first byte keeps none.
    """

    def __init__(
        self, live: LiveFeed, tenant_id: str, is_ending: Callable[[], bool], headers: Mapping[str, str]
    ) -> None:
        self._live = live
        self._tenant_id = tenant_id
        self._is_ending = is_ending
        super().__init__((), 200, {**headers, "X-Accel-Buffering": "no"}, "text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One answer; refused as any other while nothing of it has been sent."""
        async with self._live.listening(self._tenant_id) as changed:
            changed.set()  # whatever happened between the page and this connection
            self.body_iterator = self._events(changed)
            await super().__call__(scope, receive, send)

    async def _events(self, changed: asyncio.Event) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        until, beat = loop.time() + STREAM_S, loop.time() + BEAT_S
        yield RETRY
        while loop.time() < until and not self._is_ending():
            try:
                async with asyncio.timeout(TICK_S):
                    await changed.wait()
            except TimeoutError:
                if loop.time() >= beat:
                    beat = loop.time() + BEAT_S
                    yield BEAT
                continue
            changed.clear()
            yield CHANGE
