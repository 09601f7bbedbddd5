"""What every route needs: the parts of this edge, and who is asking. The tenant comes from the key alone."""

from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from api.analytics_store import Analytics
from api.bills_store import BillsStore
from api.cors import admit_origin
from api.cursor import Cursors
from api.errors import Refusal
from api.head import header
from api.limits import Admission, InFlight, Rates
from api.page_live import LiveFeed
from api.page_session import Sessions
from api.reading_store import ReadingStore
from app.codec import Codec
from app.credentials import Credential, Credentials, Kind
from app.producer import Producer
from app.pseudonym import Pseudonymiser

BEARER: Final = "bearer "
_AN: Final[dict[Kind, str]] = {"write": "a", "read": "a", "app": "an"}


@dataclass(frozen=True, slots=True)
class Edge:
    """The parts, built once at start."""

    credentials: Credentials
    producer: Producer
    codec: Codec
    people: Pseudonymiser
    in_flight: InFlight
    admission: Admission
    rates: Rates
    store: ReadingStore
    cursors: Cursors
    analytics: Analytics
    live: LiveFeed
    sessions: Sessions
    bills: BillsStore


def edge_of(request: Request) -> Edge:
    """The parts of the process that serves this request."""
    edge: Edge = request.app.state.edge
    return edge


async def writer(request: Request, query_name: str) -> Credential:
    """Who sends: a write key as Bearer, in X-Write-Key, or in the query (a beacon can set no header)."""
    key = _bearer(request) or header(request.scope, b"x-write-key") or request.query_params.get(query_name, "")
    where = f"as 'Authorization: Bearer', in X-Write-Key or as ?{query_name}="
    return await _resolve(request, key, "write", where)


async def reader(request: Request) -> Credential:
    """Who reads: a read key as Bearer or in X-Read-Key. Never in the query: addresses end in histories and logs."""
    key = _bearer(request) or header(request.scope, b"x-read-key") or ""
    return await _resolve(request, key, "read", "as 'Authorization: Bearer' or in X-Read-Key")


async def member(request: Request) -> Credential:
    """Who keeps bills: an app key as Bearer or in X-App-Key. Write keys stand in pages and open nothing here."""
    key = _bearer(request) or request.headers.get("x-app-key", "")
    return await _resolve(request, key, "app", "as 'Authorization: Bearer' or in X-App-Key")


async def _resolve(request: Request, key: str, kind: Kind, where: str) -> Credential:
    if not key:
        raise _unauthorized("key_missing", f"send {_AN[kind]} {kind} key {where}")
    credential = await edge_of(request).credentials.resolve(key.strip())
    if credential is None:
        raise _unauthorized("key_unknown", f"the key is unknown or revoked; send {_AN[kind]} {kind} key {where}")
    if credential.kind != kind:
        raise Refusal(
            403,
            "wrong_kind_of_key",
            f"this is {_AN[credential.kind]} {credential.kind} key; here {_AN[kind]} {kind} key is needed",
        )
    admit_origin(request, credential)
    return credential


def _bearer(request: Request) -> str:
    value = header(request.scope, b"authorization") or ""
    return value[len(BEARER) :] if value[: len(BEARER)].lower() == BEARER else ""


def _unauthorized(code: str, text: str) -> Refusal:
    return Refusal(401, code, text, headers={"WWW-Authenticate": "Bearer"})
