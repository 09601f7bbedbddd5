"""Around a repeated insert: which of its rows are there already, and are they all there afterwards?

Step 6 of the loop, for replayed ranges, retried inserts and partitions of which the worker remembers nothing. A
token is not enough. The server forgets it: its window is bounded and an operator can shorten it. And a node that is not
replicated writes the token to its log before the part is in place: killed in between, it drops the retry as a duplicate
of rows it does not have. So rows that are there are left out before, and rows that are not there are put back after.
A row is known by its offset and its event id: a topic that was made again has the same offsets for other events. With
Replicated tables token and part are one commit in Keeper, and a replica may lag behind its own answer, so nothing is
asked there.
"""

import asyncio
from collections.abc import Sequence

import structlog

from app.codec import PREFIX_BYTES, Version, read_datum
from app.errors import Backpressure, Poison
from app.sinks.clickhouse import ClickHouseSink
from app.sinks.container import Row
from schemas.envelope import EVENT_ID_BYTES_MAX

log = structlog.get_logger(__name__)

SETTLE_S = 3.0  # far above what lies between token and part, a rename and an fsync
LINE_CHARACTERS_MAX = 22 + 2 * EVENT_ID_BYTES_MAX + 1  # 64 bits in decimal, a tab, an event id in hex
# A topic that was made again has rows of every incarnation at one offset: far more of them than a batch has records.
STORED_BYTES_MAX = 256 << 20
ATTEMPTS_MAX = 3  # each under a token of its own; a node that loses rows three times in a row is not well


async def restore(
    sink: ClickHouseSink, table: str, version: Version, source: tuple[str, int], rows: Sequence[Row], *, token: str
) -> None:
    """Insert those of `rows` that the table lacks. Raises Backpressure when they do not stay."""
    if sink.replicated or not rows:
        return
    for attempt in range(ATTEMPTS_MAX):
        lost = await _lost(sink, table, version, source, rows)
        if lost and not attempt:
            # An earlier try that is still running shows its token some milliseconds before its part.
            await asyncio.sleep(SETTLE_S)
            lost = await _lost(sink, table, version, source, rows)
        if not lost:
            return
        log.warning("rows of a repeated insert are not there: inserting them again", table=table, rows=len(lost))
        await sink.insert(table, version, source, lost, f"{token}:lost{attempt}")
    raise Backpressure(f"clickhouse does not keep the rows of {table}")


async def lacking(
    sink: ClickHouseSink, table: str, version: Version, source: tuple[str, int], rows: list[Row]
) -> list[Row]:
    """Those of `rows` that the table lacks, before they are inserted; all of them where it cannot be told."""
    if sink.replicated or not rows or not _has_ids(version):
        return rows
    return await _lost(sink, table, version, source, rows)


async def _lost(
    sink: ClickHouseSink, table: str, version: Version, source: tuple[str, int], rows: Sequence[Row]
) -> list[Row]:
    ids = _has_ids(version)
    there = await _stored(sink, table, source, (rows[0].offset, rows[-1].offset), ids=ids)
    return [row for row in rows if (row.offset, _event_id(version, row) if ids else "") not in there]


async def _stored(
    sink: ClickHouseSink, table: str, source: tuple[str, int], ends: tuple[int, int], *, ids: bool
) -> set[tuple[int, str]]:
    """The offsets between `ends` that have a row in the table, with its event id ("" without `ids`)."""
    query = (
        f"SELECT DISTINCT _offset, {'hex(event_id)' if ids else repr('')} "  # nosec B608 # noqa: S608 - names are ours
        f"FROM {sink.database}.{table} WHERE _topic = {{topic:String}} AND _partition = {{partition:UInt32}} "
        "AND _offset BETWEEN {first:UInt64} AND {last:UInt64} FORMAT TSV"
    )
    given = {"topic": source[0], "partition": source[1], "first": ends[0], "last": ends[1]}
    text = await sink.ask(query, given, STORED_BYTES_MAX)
    if len(text) >= STORED_BYTES_MAX:
        # Cut off, it would tell rows that are there from those that are not in the wrong way.
        raise RuntimeError(f"{table} has more rows between the offsets {ends} of {source} than can be looked at")
    pairs = (line.split("\t") for line in text.splitlines())
    return {(int(offset), bytes.fromhex(event_id).decode()) for offset, event_id in pairs}


async def _last_offset(sink: ClickHouseSink, table: str, source: tuple[str, int]) -> int:
    """The highest source offset that has a row in the table, -1 when none has. Reads a column of all of it."""
    query = (
        f"SELECT max(toInt64(_offset)), count() FROM {sink.database}.{table} "  # noqa: S608 - names are ours
        "WHERE _topic = {topic:String} AND _partition = {partition:UInt32} FORMAT TSV"  # nosec B608
    )
    last, count = (await sink.ask(query, {"topic": source[0], "partition": source[1]}, LINE_CHARACTERS_MAX)).split()
    return int(last) if int(count) else -1


def _has_ids(version: Version) -> bool:
    return any(field["name"] == "event_id" for field in version.parsed["fields"])


def _event_id(version: Version, row: Row) -> str:
    """The row's event id; "" for what is no datum, which no row in the table has."""
    try:
        return str(read_datum(version, row.value[PREFIX_BYTES:])["event_id"])
    except Poison:
        return ""


class Beginnings:
    """Partitions that are read by a worker that remembers nothing of them.

    Mostly they are new, or another worker did them up to the committed offset. After a reset of the group's offsets, or
    when ClickHouse was restored from a backup that is newer than the offsets that were restored with it, they are not:
    up to the last offset that has a row, everything comes again, cut into other ranges with other tokens. ClickHouse is
    asked once a partition.
    """

    def __init__(self, tables: Sequence[str]) -> None:
        self._tables = tables
        self._ends: dict[tuple[str, int], int | None] = {}

    def add(self, tp: tuple[str, int]) -> None:
        """The partition begins."""
        self._ends[tp] = None

    async def comes_again(self, sink: ClickHouseSink, tp: tuple[str, int], first: int) -> bool:
        """Whether a range that begins at `first` may have rows in the tables. Raises Backpressure."""
        if tp not in self._ends:
            return False
        end = self._ends[tp]
        if end is None:
            lasts = [await _last_offset(sink, table, tp) for table in self._tables]
            end = self._ends[tp] = max(lasts, default=-1)
        if first > end:
            del self._ends[tp]
            return False
        return True
