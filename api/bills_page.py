"""GET /app/bills: the page of a household's bills. Server-rendered; its script only spares it from loading anew.

Signing in seals an app key into a cookie of these paths alone. What is shown is the tenant's of that key; paying goes
through the same rules and transactions as the API.
"""

import hashlib
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

import orjson
from fastapi import APIRouter
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from api import bills_rules, bills_writes, body, page_words, version_token
from api.analytics_periods import read_month
from api.bills_reads import uuid_of
from api.deps import edge_of
from api.errors import Fault, Refusal
from api.page_board import View, board
from api.page_session import refuse_foreign
from api.page_stream import ChangeStream
from api.version_token import Written
from app.audit import Connection
from app.credentials import Credential
from schemas.currencies import CURRENCIES
from schemas.days import today

router: Final = APIRouter(prefix="/app", include_in_schema=False)
FORM_BYTES_MAX: Final = 1_024  # a key and its field's name
AWAY_S: Final = 5  # until a page that cannot be shown tries again
ASSET_CACHE_S: Final = 86_400  # the address of an asset changes with its content

_FOLDER: Final = Path(__file__).parent / "page"
_TEMPLATES: Final = Environment(
    loader=FileSystemLoader(_FOLDER), autoescape=select_autoescape(["html"]), undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
_ASSETS: Final = {
    name: ((_FOLDER / name).read_bytes(), kind)
    for name, kind in (("bills.css", "text/css"), ("bills.js", "text/javascript"), ("mark.svg", "image/svg+xml"))
}
_VERSION: Final = hashlib.sha256(b"".join(content for content, _ in _ASSETS.values())).hexdigest()[:12]
_SAFE: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_FRESH: Final = {**_SAFE, "Cache-Control": "no-store", "Vary": "Cookie, Accept-Language"}


@router.get("/bills")
async def bills(request: Request) -> Response:
    """The page, or the way in."""
    credential = await _signed_in(request)
    if credential is None:
        return _html("sign_in.html", 200, **_words(request), is_wrong=False)
    try:
        return await _board(request, credential, "bills.html")
    except Refusal as refusal:
        if refusal.status != HTTPStatus.SERVICE_UNAVAILABLE:
            raise
        # A person sees this one: words, and another try by itself.
        answer = _html("away.html", refusal.status, **_words(request))
        answer.headers.update({"Refresh": str(AWAY_S), "Retry-After": str(AWAY_S)})
        return answer


@router.get("/bills/board")
async def bills_board(request: Request) -> Response:
    """The part of the page that changes, for its script. With `at_least` it waits for the switch just made."""
    credential = await _member(request)
    return await _board(request, credential, "board.html")


@router.get("/bills/changes")
async def changes(request: Request) -> Response:
    """Server-sent events: `change` at the beginning and whenever the tenant's figures change."""
    credential = await _member(request)
    return ChangeStream(edge_of(request).live, credential.tenant_id, request.app.state.is_ending, _FRESH)


@router.post("/session")
async def sign_in(request: Request) -> Response:
    """An app key against a session."""
    refuse_foreign(request)
    response: Response = RedirectResponse("/app/bills", 303, _FRESH)
    key = (await _form(request)).get("key", "")
    if await edge_of(request).sessions.sign_in(request, key, response):
        return response
    return _html("sign_in.html", 401, **_words(request), is_wrong=True)


@router.post("/session/end")
async def sign_out(request: Request) -> Response:
    """Forget the session."""
    refuse_foreign(request)
    response = RedirectResponse("/app/bills", 303, {**_FRESH, "Clear-Site-Data": '"cache"'})
    edge_of(request).sessions.sign_out(request, response)
    return response


@router.post("/occurrences/{occurrence_id}/{action}")
async def switch(request: Request, occurrence_id: str, action: str) -> Response:
    """Paid or not. For the script: JSON with the version token; for a plain form: back to the page."""
    refuse_foreign(request)
    credential = await _member(request)
    edge_of(request).rates.spend(credential, 1)
    wanted = uuid_of(occurrence_id)
    if wanted is None or action not in {"pay", "unpay"}:
        raise bills_writes.absent()

    async def work(connection: Connection) -> list[Written]:
        before, part = await bills_writes.load_of_occurrence(connection, wanted)
        if (part.status == "paid") == (action == "pay"):
            return [Written("bill_occurrences", wanted, part.version)]  # somebody else was faster; it is as wanted
        if action == "pay":
            after = bills_rules.pay(before, part, datetime.now(UTC))
        else:
            after = bills_rules.unpay(before, part, today())
        return await bills_writes.save(connection, before, after)

    token = version_token.write(await edge_of(request).rows.change(credential, work))
    if "application/json" in request.headers.get("accept", ""):
        content = {"paid": action == "pay", "version_token": token}
        return Response(orjson.dumps(content), 200, _FRESH, "application/json")
    asked = {name: request.query_params[name] for name in ("month", "currency") if name in request.query_params}
    return RedirectResponse(f"/app/bills?{urlencode({**asked, 'at_least': token})}", 303, _FRESH)


@router.get("/assets/{version}/{name}")
async def asset(version: str, name: str) -> Response:
    """The style sheet and the script; `version` is a hash of both."""
    if name not in _ASSETS or version != _VERSION:
        raise Refusal(404, "not_found", "there is no such asset")
    content, kind = _ASSETS[name]
    return Response(content, 200, {**_SAFE, "Cache-Control": f"private, max-age={ASSET_CACHE_S}"}, kind)


async def _board(request: Request, credential: Credential, template: str) -> Response:
    edge_of(request).rates.spend(credential, 1)
    view, written = _view(request)
    found = await board(request, credential, view, written)
    return _html(template, 200, **found)


def _view(request: Request) -> tuple[View, tuple[Written, ...]]:
    asked = request.query_params
    month = read_month(asked["month"], "month") if asked.get("month") else today().replace(day=1)
    currency = asked.get("currency") or None
    if currency is not None and currency not in CURRENCIES:
        text = "must be an ISO 4217 code of money in use, in capitals, e.g. BRL"
        fault: Fault = {"pointer": "/query/currency", "code": "invalid_currency", "detail": text}
        raise Refusal(422, "invalid_parameters", f"currency {text}", errors=[fault])
    token = asked.get("at_least", "")
    written = version_token.read(token) if 0 < len(token) <= version_token.CHARACTERS_MAX else ()
    return View(month, currency, page_words.language(request.headers.get("accept-language", ""))), written


def _words(request: Request) -> dict[str, Any]:
    tongue = page_words.language(request.headers.get("accept-language", ""))
    return {"words": page_words.WORDS[tongue], "tongue": tongue}


async def _signed_in(request: Request) -> Credential | None:
    return await edge_of(request).sessions.signed_in(request)


async def _member(request: Request) -> Credential:
    credential = await _signed_in(request)
    if credential is None:
        raise Refusal(401, "signed_out", "sign in at /app/bills")
    return credential


async def _form(request: Request) -> dict[str, str]:
    with edge_of(request).in_flight.hold() as hold:
        raw = await body.read(request, hold)
    if len(raw) > FORM_BYTES_MAX:
        raise Refusal(413, "form_too_large", f"a form here has at most {FORM_BYTES_MAX} bytes")
    fields = parse_qs(raw.decode("ascii", "replace"), max_num_fields=8)
    return {name: values[0] for name, values in fields.items()}


def _html(template: str, status: int, **found: Any) -> Response:
    text = _TEMPLATES.get_template(template).render(version=_VERSION, **found)
    return Response(text, status, _FRESH, "text/html")
