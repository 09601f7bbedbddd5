"""After a repeated insert: are its rows really there? On a single ClickHouse node the answer can be no.

Step 6 of the loop, for replayed ranges and retried inserts only. A node that is not replicated writes the token to its
log before the part is in place: killed in between, it drops the retry as a duplicate of rows it does not have. And a
range whose poison was mended before its replay meets its own token. Both leave rows out, and both are seen by asking
for the offsets of the range. With Replicated tables token and part are one commit in Keeper, and a replica may lag
behind its own answer, so nothing is asked there.
"""

import asyncio
from collections.abc import Sequence

import structlog

from app.codec import Version
from app.errors import Backpressure
from app.sinks.clickhouse import ClickHouseSink
from app.sinks.container import Row

log = structlog.get_logger(__name__)

SETTLE_S = 3.0  # far above what lies between token and part, a rename and an fsync
ATTEMPTS_MAX = 3  # each under a token of its own; a node that loses rows three times in a row is not well


async def restore(
    sink: ClickHouseSink, table: str, version: Version, source: tuple[str, int], rows: Sequence[Row], *, token: str
) -> None:
    """Insert those of `rows` that the table lacks. Raises Backpressure when they do not stay."""
    if sink.replicated or not rows:
        return
    for attempt in range(ATTEMPTS_MAX):
        there = await sink.offsets(table, source, rows[0].offset, rows[-1].offset)
        lost = [row for row in rows if row.offset not in there]
        if lost and not attempt:
            # An earlier try that is still running shows its token some milliseconds before its part.
            await asyncio.sleep(SETTLE_S)
            there = await sink.offsets(table, source, rows[0].offset, rows[-1].offset)
            lost = [row for row in rows if row.offset not in there]
        if not lost:
            return
        log.warning("rows of a repeated insert are not there: inserting them again", table=table, rows=len(lost))
        await sink.insert(table, version, source, lost, f"{token}:lost{attempt}")
    raise Backpressure(f"clickhouse does not keep the rows of {table}")
