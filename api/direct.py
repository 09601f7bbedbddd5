"""The short way of POST /track/...: from the socket to the endpoint, past FastAPI's layers, with the same answers.

FastAPI spends more on one request than reading, checking and producing an event takes. The endpoints are the ones of
`api/tracking.py` that /docs describes; only what lies around them is shorter. Everything else goes through FastAPI.
"""

import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api import errors, observe
from api.cors import allow_reading

Endpoint = Callable[[Request], Awaitable[Response]]
METHOD: Final = "POST"


class Direct:
    """The application that uvicorn runs: FastAPI, with a shortcut for the routes of one router."""

    def __init__(self, app: FastAPI, router: APIRouter) -> None:
        self._app = app
        self._fastapi: ASGIApp = app
        self._endpoints: dict[str, Endpoint] = {
            route.path: route.endpoint for route in router.routes if isinstance(route, APIRoute)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan."""
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" else None
        if endpoint is None or scope["method"] != METHOD:
            await self._fastapi(scope, receive, send)
            return
        began = time.perf_counter()
        scope["app"] = self._app
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR
        try:
            answer = await self._answer(endpoint, scope, receive, send)
            status = answer.status_code
            await answer(scope, receive, send)
        finally:
            observe.note(scope["path"], METHOD, status, time.perf_counter() - began)

    @staticmethod
    async def _answer(endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> Response:
        try:
            answer = await endpoint(Request(scope, receive))
        except errors.EXPECTED as error:
            answer = errors.answer(error)
        except Exception:
            await errors.internal()(scope, receive, send)
            raise  # the server logs it
        allow_reading(scope, answer)
        return answer
