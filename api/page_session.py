"""Who sits in front of the page: an app key, sealed into a cookie that only the page's own paths get to see.

The cookie is HttpOnly, SameSite=Strict and bound to /app, so it opens no route of the API. It holds the key itself,
sealed: each request resolves it again, and a revoked key ends the session. What changes something must come from the
page's own origin.
"""

import base64
import binascii
import struct
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from api.errors import Refusal
from app.credentials import KEY_CHARACTERS, Credential, Credentials
from app.sealing import Sealer, Unsealable

COOKIE: Final = "afluente_app"
PATH: Final = "/app"
SESSION_S: Final = 7 * 86_400  # then sign in again
COOKIE_CHARACTERS_MAX: Final = 256
_CONTEXT: Final = "session"
_ISSUED: Final = struct.Struct(">Q")


class Sessions:
    """Seals keys into cookies and opens them again."""

    def __init__(self, master_key: bytes, credentials: Credentials, clock: Callable[[], float] = time.time) -> None:
        self._sealer = Sealer(master_key, "page-session")
        self._credentials = credentials
        self._clock = clock

    async def signed_in(self, request: Request) -> Credential | None:
        """Whose page this is, or None: no cookie, an old or foreign one, a revoked key."""
        text = request.cookies.get(COOKIE, "")
        if not text or len(text) > COOKIE_CHARACTERS_MAX:
            return None
        try:
            opened = self._sealer.open(base64.urlsafe_b64decode(text), _CONTEXT)
        except (binascii.Error, ValueError, Unsealable):
            return None
        if not 0 <= self._clock() - _ISSUED.unpack_from(opened)[0] < SESSION_S:
            return None
        return await self._member(opened[_ISSUED.size :].decode())

    async def sign_in(self, request: Request, key: str, response: Response) -> bool:
        """Set the cookie on the response when this is an app key."""
        key = key.strip()
        if len(key) != KEY_CHARACTERS or not key.isascii() or await self._member(key) is None:
            return False
        box = self._sealer.seal(_ISSUED.pack(int(self._clock())) + key.encode(), _CONTEXT)
        response.set_cookie(
            COOKIE, base64.urlsafe_b64encode(box).decode(), max_age=SESSION_S, path=PATH,
            httponly=True, samesite="strict", secure=_is_https(request),
        )  # fmt: skip
        return True

    def sign_out(self, request: Request, response: Response) -> None:
        """Take the cookie back."""
        response.delete_cookie(COOKIE, path=PATH, httponly=True, samesite="strict", secure=_is_https(request))

    async def _member(self, key: str) -> Credential | None:
        credential = await self._credentials.resolve(key)
        return credential if credential is not None and credential.kind == "app" else None


def refuse_foreign(request: Request) -> None:
    """403 unless the page itself sent this: by Sec-Fetch-Site where the browser says it, else by Origin."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        own = site == "same-origin"
    else:
        own = urlsplit(request.headers.get("origin", "")).netloc == request.headers.get("host", "-")
    if not own:
        raise Refusal(403, "foreign_page", "only the page itself may ask for this")


def _is_https(request: Request) -> bool:
    # A client that lies about it gets a cookie that its own plain connection does not send.
    return "https" in {request.url.scheme, request.headers.get("x-forwarded-proto", "")}
