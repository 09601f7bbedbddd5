"""Edges that are wrong on purpose: `FAULT_VARIANT=acks_early python -m tests.fault.edge_mutants`."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import uvicorn
from fastapi import FastAPI

from api.deps import Edge
from api.main import create_app
from api.reading_store import ReadingStore
from api.server import config_for
from app.producer import NotProduced, Producer, Record
from app.settings import Settings
from tests.fault.case import VARIANT


class SaysYesAtOnce:
    """Breaks the edge's promise: the answer does not wait for Kafka."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._tasks: set[asyncio.Task[None]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    async def send_many(self, records: Iterable[Record]) -> None:
        task = asyncio.create_task(self._send(list(records)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, records: list[Record]) -> None:
        with contextlib.suppress(NotProduced):
            await self._producer.send_many(records)


class ForgetsTheTenant:
    """Breaks the reading API: the one condition that keeps tenants apart is gone."""

    def __init__(self, store: ReadingStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def rows(self, query: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        return await self._store.rows(query.replace("tenant_id = {tenant:UUID}", "1"), parameters)


def broken(edge: Edge, variant: str) -> Edge:
    """The edge with one part replaced."""
    early: Any = SaysYesAtOnce(edge.producer)
    blind: Any = ForgetsTheTenant(edge.store)
    return {"acks_early": replace(edge, producer=early), "no_tenant_filter": replace(edge, store=blind)}[variant]


def main() -> None:
    """Serve until killed."""
    settings = Settings.load()
    app = create_app(settings)
    whole = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with whole(app) as state:
            app.state.edge = broken(app.state.edge, os.environ[VARIANT])
            yield state

    app.router.lifespan_context = lifespan
    uvicorn.Server(config_for(app, settings)).run()


if __name__ == "__main__":
    main()
