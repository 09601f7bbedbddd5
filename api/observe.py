"""Counts and times every request by its route, never by its path: paths of strangers would be labels without end."""

import time
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.telemetry import metrics

NO_ROUTE: Final = "none"


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
            metrics.HTTP_REQUESTS.labels(route, method, str(status)).inc()
            metrics.HTTP_SECONDS.labels(route).observe(time.perf_counter() - began)
