"""How far ClickHouse has seen Postgres, for one tenant, and waiting until it has seen a given write.

Every change of a tenant travels through one partition of bills.changes, in order, and so do the heartbeats between
them: the heartbeat that has arrived says that everything committed before it has. It is read before the figures, so
figures are at least as new as the `as_of` beside them.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, TypedDict
from uuid import UUID

from aiokafka.partitioner import murmur2

from api.analytics_queries import PROGRESS, QUERY_SETTINGS, SEEN
from api.reading_store import ReadingStore
from api.version_token import Written

WAIT_S: Final = 2.0  # the longest a request waits for its own write
PAUSES_S: Final = (0.02, 0.04, 0.08, 0.15)  # between two looks; then the last one again
WAITERS_MAX: Final = 16  # look at once in one process; more stand in line, within their two seconds
TOPIC: Final = "bills.changes"
_POSITIVE: Final = 0x7FFFFFFF  # Java's toPositive, as Kafka's own partitioner
_NOTHING: Final = UUID(int=0)


class AsOf(TypedDict):
    """Everything that Postgres committed up to here is in the figures."""

    lsn: str
    time: str


def partition_of(tenant_id: str, partitions: int) -> int:
    """The partition of bills.changes that carries a tenant."""
    return int(murmur2(tenant_id.encode()) & _POSITIVE) % partitions


def lsn_text(lsn: int) -> str:
    """As Postgres writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


class Freshness:
    """One a process. `partitions`: how many bills.changes has."""

    def __init__(self, store: ReadingStore, partitions: int) -> None:
        self._store = store
        self._partitions = partitions
        self._looking = asyncio.Semaphore(WAITERS_MAX)

    async def as_of(self, tenant_id: str) -> AsOf | None:
        """How far the tenant's partition is, or None before the first heartbeat has come through."""
        parameters = {
            "database": self._store.database,
            "topic": TOPIC,
            "partition": partition_of(tenant_id, self._partitions),
        }
        rows = await self._store.rows(PROGRESS, parameters, QUERY_SETTINGS)
        return AsOf(lsn=lsn_text(rows[0]["lsn"]), time=rows[0]["at"]) if rows else None

    async def caught_up(self, tenant_id: str, written: Sequence[Written]) -> bool:
        """True as soon as ClickHouse has these rows, at these versions or later ones; False after WAIT_S."""
        until = time.monotonic() + WAIT_S
        wanted = [_parameters(self._store.database, tenant_id, pair) for pair in _pairs(written)]
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + WAIT_S), self._looking:
                look = 0
                while wanted:
                    wanted = [one for one in wanted if not await self._is_there(one)]
                    pause = PAUSES_S[min(look, len(PAUSES_S) - 1)]
                    if wanted and time.monotonic() + pause >= until:
                        return False
                    if wanted:
                        await asyncio.sleep(pause)
                    look += 1
        except TimeoutError:
            return False
        return True

    async def _is_there(self, parameters: dict[str, Any]) -> bool:
        row = (await self._store.rows(SEEN, parameters, QUERY_SETTINGS))[0]
        # A write of one table leaves the other one's question empty: version 0 of an id nobody has.
        return all(row[name] or not parameters[f"{name}_version"] for name in ("bill", "occurrence"))


def _pairs(written: Sequence[Written]) -> list[dict[str, Written]]:
    """Rows side by side, one of each table: they share a query."""
    bills = [one for one in written if one.table == "bills"]
    occurrences = [one for one in written if one.table == "bill_occurrences"]
    pairs: list[dict[str, Written]] = []
    for index in range(max(len(bills), len(occurrences))):
        sides = (("bill", bills), ("occurrence", occurrences))
        pairs.append({name: rows[index] for name, rows in sides if index < len(rows)})
    return pairs


def _parameters(database: str, tenant_id: str, pair: dict[str, Written]) -> dict[str, Any]:
    parameters: dict[str, Any] = {"database": database, "tenant": tenant_id}
    for name in ("bill", "occurrence"):
        row = pair.get(name)
        parameters[name] = row.id if row else _NOTHING
        parameters[f"{name}_version"] = row.version if row else 0
        parameters[f"{name}_deleted"] = int(row.deleted) if row else 0
    return parameters
