"""An edge without walls between tenants, each missing in another place: `python -m tests.security.edge_mutants`.

Each wall has routes on which nothing else is wrong, so that what is found there is found by the check of that wall.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import structlog
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from api import tenant_store
from api.analytics_store import Analytics
from api.cursor import Cursors, Place
from api.deps import Edge
from api.errors import Refusal, problem
from api.main import create_app
from api.server import config_for
from api.tenant_store import TenantStore
from app.credentials import Credential
from app.settings import Settings
from app.telemetry import logs
from tests.fault.edge_mutants import ForgetsTheTenant

OWN_ROWS = re.compile(r"(o\.)?\btenant_id = current_tenant\(\)")
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Blind:
    """A connection that has forgotten whose rows it may see."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        if name not in {"fetch", "fetchrow", "fetchval", "execute"}:
            return found
        return lambda query, *given: found(OWN_ROWS.sub("true", query), *given)


class BlindStore:
    """Runs transactions as the owner, whom row security does not hold, without the condition in the query."""

    def __init__(self, store: TenantStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def change(self, credential: Credential, work: Callable[[Any], Awaitable[Any]]) -> Any:
        return await self._store.change(credential, lambda connection: work(Blind(connection)))

    async def look(self, credential: Credential, work: Callable[[Any], Awaitable[Any]]) -> Any:
        return await self._store.look(credential, lambda connection: work(Blind(connection)))


class CursorsOfAll:
    """Cursors of a list, whoever it belongs to."""

    def __init__(self, cursors: Cursors) -> None:
        self._cursors = cursors

    def write(self, scope: str, place: Place) -> str:
        return self._cursors.write(scope[scope.index(",") :], place)

    def read(self, scope: str, cursor: str) -> Place:
        return self._cursors.read(scope[scope.index(",") :], cursor)


class TellsForeign:
    """Says 403 instead of 404, when a payment is taken back, for an occurrence that somebody else has."""

    def __init__(self, app: ASGIApp, owner_url: str) -> None:
        self._app = app
        self._owner_url = owner_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = ID.search(scope.get("path", ""))
        if wanted and scope["path"].endswith("/unpay") and await self._is_elsewhere(UUID(wanted[0])):
            await problem(Refusal(403, "forbidden", "it is not yours"))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _is_elsewhere(self, occurrence_id: UUID) -> bool:
        connection = await asyncpg.connect(self._owner_url)
        try:
            query = "SELECT count(*) FROM bill_occurrences WHERE id = $1"
            return bool(await connection.fetchval(query, occurrence_id))
        finally:
            await connection.close()


class LogsTheKey:
    """Breaks the rule of the logs: what a request carries is written down."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            structlog.get_logger(__name__).info("request", headers=str(scope["headers"]))
        await self._app(scope, receive, send)


async def broken(edge: Edge, settings: Settings) -> Edge:
    """The edge without its tenant conditions in ClickHouse and Postgres, and with cursors for everybody."""
    blind: Any = ForgetsTheTenant(edge.store)
    pool = await tenant_store.connect(settings.postgres_owner_url.get_secret_value())
    rows: Any = BlindStore(TenantStore(pool))
    cursors: Any = CursorsOfAll(edge.cursors)
    return replace(edge, store=blind, analytics=Analytics(blind, settings), rows=rows, cursors=cursors)


def main() -> None:
    """Serve until killed."""
    settings = Settings.load()
    logs.configure(settings.log_level)
    app = create_app(settings)
    whole = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with whole(app) as state:
            app.state.edge = await broken(app.state.edge, settings)
            yield state

    app.router.lifespan_context = lifespan
    served = LogsTheKey(TellsForeign(app, settings.postgres_owner_url.get_secret_value()))
    uvicorn.Server(config_for(served, settings)).run()


if __name__ == "__main__":
    main()
