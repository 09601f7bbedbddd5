"""Rows of one tenant in Postgres: a pool for them, transactions that see no others, and an answer in bounded time.

Key lookups have another pool, so that no load on rows holds up an event. A transaction runs as a task of
its own: a server that hangs is not waited for, its connection is thrown away, and the sender learns that nobody knows
whether the change was made; with an Idempotency-Key the same request may simply be sent again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import asyncpg
import structlog

from api.errors import Refusal, unavailable
from app.audit import Connection
from app.credentials import Credential, Pool
from app.postgres import GONE

POOL_MAX: Final = 8  # connections an edge; a transaction holds one for some 10 ms
CONNECT_S: Final = 1.0
ACQUIRE_S: Final = 1.0  # then the pool is too busy for one request more
ANSWER_S: Final = 2.0  # in all, as everywhere at the edge
STATEMENT_MS: Final = 1_500
LOCK_MS: Final = 1_000  # another request works on the same rows; they take some 10 ms each
IDLE_MS: Final = 5_000  # an edge that died within a transaction lets go of its locks

_SESSION: Final = {
    "application_name": "afluente-rows",
    "statement_timeout": str(STATEMENT_MS),
    "lock_timeout": str(LOCK_MS),
    "idle_in_transaction_session_timeout": str(IDLE_MS),
}
# Postgres is away, ending, full or read-only: it may be back soon. Anything else is a fault of ours.
_AWAY: Final = (
    *GONE,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
)
_CONTENDED: Final = (asyncpg.LockNotAvailableError, asyncpg.TransactionRollbackError)

T = TypeVar("T")
Work = Callable[[Connection], Awaitable[T]]

log = structlog.get_logger(__name__)


async def connect(url: str) -> Pool:
    """A pool that does not need Postgres to be there yet."""
    return await asyncpg.create_pool(
        url, min_size=0, max_size=POOL_MAX, timeout=CONNECT_S, command_timeout=ANSWER_S, server_settings=_SESSION
    )


class TenantStore:
    """Runs transactions of one tenant over the pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._running: set[asyncio.Task[Any]] = set()

    async def change(self, credential: Credential, work: Work[T]) -> T:
        """Run a change. What it raises rolls it back."""
        return await self._bounded(_Run(self._pool, credential.tenant_id, credential.actor), work)

    async def look(self, credential: Credential, work: Work[T]) -> T:
        """Run a read."""
        return await self._bounded(_Run(self._pool, credential.tenant_id, ""), work)

    async def apart(self, work: Work[T]) -> T:
        """Run what belongs to no tenant: row security shows it no rows, so it can only call functions."""
        return await self._bounded(_Run(self._pool, "", ""), work)

    async def _bounded(self, run: "_Run", work: Work[T]) -> T:
        task = asyncio.ensure_future(run.transaction(work))
        self._running.add(task)
        task.add_done_callback(self._forget)
        done, _ = await asyncio.wait({task}, timeout=ANSWER_S)
        if not done:
            if run.abandon():
                # After a failover all lead nowhere, not this one alone: idle ones are replaced before use.
                await self._pool.expire_connections()
            task.cancel()
            raise _away("deadline")
        try:
            return task.result()
        except TimeoutError:
            raise _away("timeout") from None
        except _CONTENDED as error:
            log.info("rows: a lock was not to be had", error=type(error).__name__)
            raise unavailable("contended", "others change the same rows now. Send the same request again.") from None
        except _AWAY as error:
            raise _away(type(error).__name__) from None

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also when nobody waited for it any more


class _Run:
    """One transaction and the connection it is on, so that it can be given up."""

    def __init__(self, pool: Pool, tenant_id: str, actor: str) -> None:
        self._pool = pool
        self._tenant_id = tenant_id
        self._actor = actor
        self._connection: Connection | None = None

    async def transaction(self, work: Work[T]) -> T:
        try:
            connection = await self._pool.acquire(timeout=ACQUIRE_S)
        except TimeoutError:
            raise unavailable("busy", "too many requests for rows at this edge. Send the same request again.") from None
        try:
            self._connection = connection
            async with connection.transaction():
                await connection.execute(
                    "SELECT set_config('afluente.tenant_id', $1, true), set_config('afluente.actor', $2, true)",
                    self._tenant_id, self._actor,
                )  # fmt: skip
                return await work(connection)
        finally:
            self._connection = None
            await self._pool.release(connection)

    def abandon(self) -> bool:
        """Close the connection under the transaction: its server may never answer again. Whether there was one."""
        if self._connection is None:
            return False
        self._connection.terminate()
        return True


def _away(error: str) -> Refusal:
    log.warning("rows: postgres did not answer", error=error)
    text = (
        "Postgres did not answer in time, so it is not known whether the change was made."
        " Send the same request again, with the same Idempotency-Key."
    )
    return unavailable("rows_unavailable", text)
