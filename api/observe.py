"""Counts and times every request by its route, never by its path: paths of strangers would be labels without end."""

import time
from functools import cache
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.telemetry import metrics

NO_ROUTE: Final = "none"
# Routes, methods and statuses are few, and to find a label's counter costs more than to count.
_requests: Final = cache(metrics.HTTP_REQUESTS.labels)
_seconds: Final = cache(metrics.HTTP_SECONDS.labels)


def note(route: str, method: str, status: int, seconds: float) -> None:
    """Count one request that was answered."""
    _requests(route, method, str(status)).inc()
    _seconds(route).observe(seconds)


class Observe:
    """The outermost layer: it sees the status that leaves."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def send_and_note(sent: Message) -> None:
            nonlocal status
            if sent["type"] == "http.response.start":
                status = sent["status"]
            await send(sent)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            method = scope["method"] if route != NO_ROUTE else NO_ROUTE
            note(route, method, status, time.perf_counter() - began)
