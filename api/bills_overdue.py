"""Open becomes overdue when the day is over: swept in the background of each edge, and by `./afluente bills overdue`.

Stored, not computed at reading: then the change travels to ClickHouse like any other, and every reader sees the same.
Several sweeps at once are harmless: they pass over what another one holds.
"""

import asyncio
from typing import Final

import asyncpg
import structlog

from api.bills_store import BillsStore
from api.errors import Refusal

EVERY_S: Final = 60.0
BILLS_MAX: Final = 100  # one transaction: some 50 ms, far below the deadline of a statement

log = structlog.get_logger(__name__)


async def sweep(store: BillsStore, bills_max: int = BILLS_MAX) -> int:
    """Turn all that is due, some bills at a time; how many bills that were."""
    turned = 0
    while True:
        count = await store.sweep(bills_max)
        turned += count
        if count < bills_max:
            return turned


class Sweep:
    """The sweep of one edge, once a minute."""

    def __init__(self, store: BillsStore, every_s: float = EVERY_S) -> None:
        self._store = store
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                if turned := await sweep(self._store):
                    log.info("bills turned overdue", bills=turned)
            except (Refusal, asyncpg.PostgresError) as error:
                # Away, or not migrated yet: the next minute tries again.
                log.warning("bills: no sweep", error=type(error).__name__, detail=str(error)[:200])
            await asyncio.sleep(self._every_s)
