"""Tells open pages that something of their tenant has changed in ClickHouse: one look a second for all of them.

A look asks for rows that came in during the last seconds, of the tenants that have a page open, over an index of when
rows came in. Parts of one batch appear one after the other, so looks overlap and rows seen before are left out.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from api.analytics_queries import CAME_IN, QUERY_SETTINGS
from api.errors import Refusal, unavailable
from api.reading_store import ReadingStore

LOOK_S: Final = 1.0
LOOK_BACK_MS: Final = 10_000  # an insert of many partitions is visible as a whole long before
ROWS_MAX: Final = 2_000  # of one look; more are more of the same: the page asks for all its figures again
PAGES_MAX: Final = 200  # open at one process
PAGES_OF_TENANT_MAX: Final = 20


class LiveFeed:
    """One a process; it looks only while somebody listens."""

    def __init__(self, store: ReadingStore) -> None:
        self._store = store
        self._pages: dict[str, set[asyncio.Event]] = {}
        self._seen: dict[str, set[tuple[Any, ...]]] = {}
        self._looking: asyncio.Task[None] | None = None

    @property
    def pages(self) -> int:
        """How many listen."""
        return sum(len(of_tenant) for of_tenant in self._pages.values())

    @asynccontextmanager
    async def listening(self, tenant_id: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever the tenant's rows change; whoever waits clears it."""
        of_tenant = self._pages.get(tenant_id, set())
        if self.pages >= PAGES_MAX or len(of_tenant) >= PAGES_OF_TENANT_MAX:
            raise unavailable("too_many_pages", "too many pages are open; close one, or wait", retry_after_s=10)
        changed = asyncio.Event()
        self._pages.setdefault(tenant_id, set()).add(changed)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_on())
        try:
            yield changed
        finally:
            self._pages[tenant_id].discard(changed)
            if not self._pages[tenant_id]:
                del self._pages[tenant_id]
                self._seen.pop(tenant_id, None)

    async def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking

    async def _look_on(self) -> None:
        while self._pages:
            with suppress(Refusal):  # logged by the store; the pages stay as they are until ClickHouse is back
                await self._look()
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        tenants = sorted(self._pages)
        parameters = {
            "database": self._store.database,
            "tenants": tenants,
            "since_ms": LOOK_BACK_MS,
            "limit": ROWS_MAX,
        }
        found: dict[str, set[tuple[Any, ...]]] = {tenant: set() for tenant in tenants}
        for row in await self._store.rows(CAME_IN, parameters, QUERY_SETTINGS):
            found[row["tenant_id"]].add((row["id"], row["version"], row["is_deleted"]))
        for tenant, rows in found.items():
            if tenant not in self._pages:
                continue
            if rows - self._seen.get(tenant, set()):
                for changed in self._pages[tenant]:
                    changed.set()
            self._seen[tenant] = rows
