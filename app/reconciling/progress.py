"""Waiting until ClickHouse has seen an LSN, partition by partition.

Debezium sends transactions in the order of their commits. A heartbeat written after a snapshot was taken therefore
follows, in its partition, everything that the snapshot sees; and the pipeline makes a batch's rows durable before it
says how far its heartbeat came. So when the heartbeat's LSN is at or past the snapshot's, the rows are there.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Final

from aiokafka.partitioner import murmur2

from app import source
from app.reconciling import postgres
from app.reconciling.clickhouse import Mirrored

POLL_S: Final = 0.1
BEAT_EVERY_S: Final = 5.0  # a heartbeat that travelled before the connector was up never arrives: write another
_POSITIVE: Final = 0x7FFFFFFF

Told = Callable[[str], None]


class Behind(TimeoutError):  # noqa: N818 - a state of the pipeline
    """ClickHouse has not seen the LSN in time: nothing can be said about equality."""


def partition_of(tenant_id: str, partitions: int) -> int:
    """Where the changes of a tenant travel: Kafka's own rule for records with a key."""
    return int((murmur2(tenant_id.encode()) & _POSITIVE) % partitions)


async def partitions_of(bootstrap: str, topic: str, tenants: Collection[str]) -> set[int]:
    """The partitions that carry these tenants; all of them when none is named."""
    there = await asyncio.to_thread(source.partitions, bootstrap, topic)
    if not tenants:
        return {tp.partition for tp in there}
    return {partition_of(one, len(there)) for one in tenants}


def text_of(lsn: int) -> str:
    """An LSN as Postgres writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


async def await_seen(  # noqa: PLR0917 - one wait, and all it depends on
    mirrored: Mirrored, url: str, topic: str, lsn: int, partitions: Collection[int], timeout_s: float
) -> None:
    """Return when every partition has seen `lsn`. Raises Behind, which says which has not and how far it is."""
    deadline = time.monotonic() + timeout_s
    beaten_at = -BEAT_EVERY_S
    while True:
        if time.monotonic() - beaten_at >= BEAT_EVERY_S:
            if not await postgres.beat(url):
                raise LookupError("cdc_heartbeats is empty: `./afluente cdc apply` fills it")
            beaten_at = time.monotonic()
        seen = await mirrored.seen(topic)
        late = sorted(one for one in partitions if seen.get(one, -1) < lsn)
        if not late:
            return
        if time.monotonic() > deadline:
            raise Behind(_explanation(topic, lsn, late, seen, timeout_s))
        await asyncio.sleep(POLL_S)


def _explanation(topic: str, lsn: int, late: list[int], seen: dict[int, int], timeout_s: float) -> str:
    places = ", ".join(
        f"{one} (at {text_of(seen[one])})" if one in seen else f"{one} (no heartbeat yet)" for one in late
    )
    return (
        f"after {timeout_s:g} s ClickHouse has not seen LSN {text_of(lsn)} in partition {places} of {topic}: "
        "this is lag, not a difference. `./afluente cdc status` shows the connector, `./afluente lag` the worker"
    )
