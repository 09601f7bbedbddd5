"""Which web pages may call: a tenant's allow-list of origins, checked once the key has said whose it is.

A preflight carries no credential, so it is answered alike for every origin: it grants nothing, and no cookie is ever
used. The request itself is judged: an Origin outside a tenant's list is refused before the body is read. With an empty
list writes are taken (a beacon needs no answer), but no page gets to read an answer.
"""

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import Refusal
from api.head import header
from app.credentials import Credential

ANY: Final = "*"
PREFLIGHT_AGE_S: Final = 600  # browsers cap it at 600 to 7200 s anyway
_ALLOWED: Final = "afluente.cors_origin"
_EXPOSED: Final = "Retry-After, ETag, Location, Afluente-Version-Token, Idempotency-Replayed"
_PREFLIGHT_HEADERS: Final = [
    (b"access-control-allow-methods", b"GET, POST, PATCH, DELETE"),
    (
        b"access-control-allow-headers",
        b"authorization, content-type, content-encoding, x-write-key, x-read-key, x-app-key, if-match, idempotency-key",
    ),
    (b"access-control-max-age", str(PREFLIGHT_AGE_S).encode()),
    (b"vary", b"Origin"),
    (b"content-length", b"0"),
]


def admit_origin(request: Request, credential: Credential) -> None:
    """Refuse a page the tenant does not list; let a listed one read the answer."""
    origin = header(request.scope, b"origin")
    if origin is None or not credential.cors_origins:
        return
    if origin not in credential.cors_origins and ANY not in credential.cors_origins:
        raise Refusal(403, "origin_not_allowed", "this page's origin is not in the tenant's list of origins")
    request.scope[_ALLOWED] = origin


def allow_reading(scope: Scope, answer: Response) -> None:
    """Write into an answer what `admit_origin` granted to the page that asks."""
    if header(scope, b"origin") is not None:
        _grant(scope, answer.headers)


def _grant(scope: Scope, headers: MutableHeaders) -> None:
    headers.add_vary_header("Origin")
    if _ALLOWED in scope:
        headers["Access-Control-Allow-Origin"] = scope[_ALLOWED]
        headers["Access-Control-Expose-Headers"] = _EXPOSED


class Cors:
    """Answers preflights and writes the headers that `admit_origin` granted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origin = next((value for name, value in scope["headers"] if name == b"origin"), None)
        if origin is None:
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            headers = [(b"access-control-allow-origin", origin), *_PREFLIGHT_HEADERS]
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        else:

            async def send_with_origin(sent: Message) -> None:
                if sent["type"] == "http.response.start":
                    _grant(scope, MutableHeaders(scope=sent))
                await send(sent)

            await self._app(scope, receive, send_with_origin)
