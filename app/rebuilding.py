"""Mirrors built anew from their topic, beside the ones that are read, and swapped with them in one step.

Beside the loop, with its steps inspect, process and write. The worker goes on: what it writes while this runs is read
from the topic here too, and what it was writing at the very moment of the swap went into the former table, so it is
read once more behind the swap. A mirror's rows replace themselves by LSN: reading a record twice changes nothing.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import Message
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from app import progress, source
from app.batch import TP, RecordBatch
from app.dedup import first_carriers
from app.errors import Backpressure, Poison
from app.migrate import SCHEMAS, placeholders, read_migrations, render
from app.ownership import describe
from app.pipeline import Loop, Pipeline, Work
from app.ranges import Range, token
from app.reconciling.bisect import opened
from app.reconciling.clickhouse import Mirrored
from app.settings import Settings
from app.sinks.clickhouse import ClickHouseSink
from schemas.mirrors import Mirror

NEXT: Final = "_next"  # the tables that are being built
BEFORE: Final = "_before"  # the tables that were read until the swap: the way back
# A block makes a part for each month in it, so blocks are large.
BLOCK_RECORDS: Final = 50_000
NEAR_RECORDS: Final = 2_000  # so few behind the worker is as near as a moving end lets us come
ROUNDS_MAX: Final = 50
RETRY_FIRST_S: Final = 0.25
RETRY_MAX_S: Final = 5.0
RETRY_STOP_S: Final = 60.0
TENANTS_A_SLICE: Final = 50

Report = Callable[[str, int, int], None]


class Cut(LookupError):  # noqa: N818 - told to an operator
    """Retention has taken the beginning of the topic."""


class Watched(LookupError):  # noqa: N818 - told to an operator
    """Something hangs on the table itself, which a swap would leave at the former one."""


@dataclass(slots=True)
class Counts:
    """What was read."""

    records: int = 0
    duplicates: int = 0
    poison: int = 0
    rows: int = 0
    refused: int = 0


@dataclass(slots=True)
class Rebuild:
    """One rebuild. `positions` says, by partition, from where on the topic has not been read into the tables."""

    settings: Settings
    pipeline: Pipeline
    mirrors: Sequence[Mirror]
    sink: ClickHouseSink
    rebuild_id: str
    report: Report
    counts: Counts = field(default_factory=Counts)
    positions: dict[int, int] = field(default_factory=dict)
    topic_id: str = ""
    blocks: int = 0

    @property
    def topic(self) -> str:
        return self.pipeline.reads.name

    async def begin(self, *, cut_allowed: bool) -> None:
        """Look at the topic and choose where to begin. Raises Cut when its beginning is gone."""
        bootstrap = self.settings.kafka_url
        self.topic_id = (await asyncio.to_thread(describe, bootstrap, {self.topic}))[self.topic]
        places = await asyncio.to_thread(source.partitions, bootstrap, self.topic)
        bounds = await asyncio.to_thread(source.bounds, bootstrap, places)
        self.positions = {tp.partition: low for tp, (low, _) in bounds.items()}
        cut = {tp.partition: low for tp, (low, _) in bounds.items() if low}
        if cut and not cut_allowed:
            where = ", ".join(f"{partition} begins at {low}" for partition, low in sorted(cut.items()))
            raise Cut(
                f"{self.topic} does not reach back to its beginning (partition {where}): rows that have not changed "
                "since would be missing. Take a snapshot (`./afluente cdc snapshot`), then rebuild with --cut: the new "
                "tables are then compared with Postgres before they are swapped in"
            )

    async def make(self, mirrored: Mirrored) -> None:
        """Empty tables of the same shape, from the same files as the first ones."""
        for mirror in self.mirrors:
            await self.require_unwatched(mirrored, mirror)
            await mirrored.command(f"DROP TABLE IF EXISTS {self._name(mirror, NEXT)} {self._everywhere} SYNC")
            for statement in statements(self.settings, mirror.table, NEXT, self.rebuild_id):
                await mirrored.command(statement)

    async def require_unwatched(self, mirrored: Mirrored, mirror: Mirror) -> None:
        """No materialized view reads what is inserted into the table: it would stay with the former one."""
        rows = await mirrored.query(
            "SELECT arrayStringConcat(dependencies_table, ', ') FROM system.tables"
            " WHERE database = %(database)s AND name = %(name)s AND notEmpty(dependencies_table)",
            {"database": self.settings.clickhouse_database, "name": mirror.table},
        )
        if rows:
            raise Watched(f"{mirror.table} feeds {rows[0][0]}, which a swap would leave at the former table")

    async def resume(self, mirrored: Mirrored, suffix: str) -> None:
        """Begin where the tables of that suffix end: the offsets of a partition come into a table in order."""
        for mirror in self.mirrors:
            rows = await mirrored.query(
                f"SELECT _partition, max(_offset) FROM {self._name(mirror, suffix)}"  # nosec B608 # noqa: S608
                " WHERE _topic = %(topic)s GROUP BY _partition",
                {"topic": self.topic},
            )
            reached = {row[0]: row[1] + 1 for row in rows}
            for partition, low in self.positions.items():
                self.positions[partition] = min(low, reached[partition]) if low and partition in reached else low

    async def catch_up(self, suffix: str = NEXT) -> None:
        """Read until hardly anything is left that the worker has made durable."""
        for _ in range(ROUNDS_MAX):
            ends = await self._committed()
            behind = sum(max(0, end - self.positions[partition]) for partition, end in ends.items())
            if not behind:
                return
            await self.read(ends, suffix)
            if behind < NEAR_RECORDS:
                return

    async def read(self, ends: dict[int, int], suffix: str) -> None:
        """Read each partition up to before its end into the tables of that suffix."""
        total = sum(max(0, end - self.positions[partition]) for partition, end in ends.items())
        done = 0
        for partition, end in sorted(ends.items()):
            start = self.positions[partition]
            if start >= end:
                continue
            chunks = blocks(source.read(self.settings.kafka_url, TP(self.topic, partition), (start, end - 1)))
            while found := await asyncio.to_thread(next, chunks, None):
                await self.carry(TP(self.topic, partition), [source.as_record(one) for one in found], suffix)
                done += len(found)
                self.report(f"reading {self.topic}", done, total)
            self.positions[partition] = end

    async def carry(self, tp: TP, records: Sequence[source.SourceRecord], suffix: str) -> None:
        """One block through the steps of the loop that make rows."""
        first, last = records[0].offset, records[-1].offset
        span = Range(self.topic_id, *tp, first, last, self.pipeline.version)
        work = Work(span, RecordBatch(tp, first, last, records, replayed=True))
        work.good, work.dead = self.pipeline.form.inspect(records)
        kept, _ = first_carriers([one.key for one in work.good], [one.record.offset for one in work.good], {})
        work.kept = [work.good[index] for index in kept]
        outputs = self.pipeline.process(self.pipeline.form.events(work.kept))
        self.counts.records += len(records)
        self.counts.poison += len(work.dead) + len(outputs.rejected)
        self.counts.duplicates += len(work.good) - len(work.kept)
        wanted = {mirror.table for mirror in self.mirrors}
        for table, version, rows in Loop.blocks(work, outputs):
            if table.table not in wanted:
                continue
            self.blocks += 1
            # Each block has a name that no insert ever had.
            name = token(self.pipeline.name, table.table, version.id, span, f"{self.rebuild_id}-{self.blocks}")
            place = (tp.topic, tp.partition)
            refused: list[tuple[int, Poison]] = await _patiently()(
                self.sink.insert, f"{table.table}{suffix}", version, place, rows, name
            )
            self.counts.rows += len(rows) - len(refused)
            self.counts.refused += len(refused)

    async def swap(self, mirrored: Mirrored, suffix: str = NEXT) -> float:
        """Exchange the tables, then read what the worker was writing meanwhile. Returns the seconds of the exchange.

        Every insert that went into a former table had begun before the exchange, so its records lie before the end of
        the topic as it is right behind it.
        """
        began = time.monotonic()
        for mirror in self.mirrors:
            both = f"{self._name(mirror, '')} AND {self._name(mirror, suffix)}"
            await mirrored.command(f"EXCHANGE TABLES {both} {self._everywhere}")
        seconds = time.monotonic() - began
        places = [TP(self.topic, partition) for partition in self.positions]
        bounds = await asyncio.to_thread(source.bounds, self.settings.kafka_url, places)
        await self.read({tp.partition: high for tp, (_, high) in bounds.items()}, "")
        if suffix != BEFORE:
            for mirror in self.mirrors:
                former, kept = self._name(mirror, suffix), self._name(mirror, BEFORE)
                await mirrored.command(f"DROP TABLE IF EXISTS {kept} {self._everywhere} SYNC")
                await mirrored.command(f"RENAME TABLE {former} TO {kept} {self._everywhere}")
        return seconds

    async def unlike(self, mirrored: Mirrored, suffix: str = NEXT) -> int:
        """Rows in which the new tables differ from those that are read, changes not yet read here left out."""
        async with Mirrored(self.settings, suffix) as coming:
            count = 0
            for mirror in self.mirrors:
                tenants = sorted(await mirrored.tenants(mirror.table) | await coming.tenants(mirror.table))
                for start in range(0, len(tenants), TENANTS_A_SLICE):
                    self.report(f"comparing {mirror.table}", start, len(tenants))
                    count += await self._unlike(mirrored, coming, mirror, tenants[start : start + TENANTS_A_SLICE])
            return count

    async def _unlike(self, mirrored: Mirrored, coming: Mirrored, mirror: Mirror, tenants: Sequence[str]) -> int:
        figures = (await mirrored.groups(mirror, tenants), await coming.groups(mirror, tenants))
        count = 0
        async for group, ids in opened(mirrored, coming, mirror, figures):
            newest = await mirrored.newest(mirror, group.tenant_id, ids)
            known = [one for one in ids if one not in newest or newest[one][1] < self.positions[newest[one][0]]]
            count += len(known)
        return count

    async def _committed(self) -> dict[int, int]:
        places = {TP(self.topic, partition) for partition in self.positions}
        found = await progress.read(self.settings.kafka_url, self.settings.group_id, places)
        return {tp.partition: offset for tp, (offset, _) in found.items() if offset >= 0}

    def _name(self, mirror: Mirror, suffix: str) -> str:
        return f"{self.settings.clickhouse_database}.{mirror.table}{suffix}"

    @property
    def _everywhere(self) -> str:
        return placeholders(self.settings)["on_cluster"]


def statements(settings: Settings, table: str, suffix: str, rebuild_id: str) -> list[str]:
    """What the migrations say to one table, said to another; on a cluster with a place of its own in Keeper."""
    place = re.compile(rf"^(CREATE TABLE(?: IF NOT EXISTS)?|ALTER TABLE)\s+{settings.clickhouse_database}\.{table}\b")
    found = []
    for migration in read_migrations(SCHEMAS / "clickhouse"):
        for statement in render(migration, settings):
            if place.search(statement):
                renamed = place.sub(rf"\1 {settings.clickhouse_database}.{table}{suffix}", statement)
                found.append(renamed.replace("/{table}'", f"/{table}-{rebuild_id}'"))
    return found


def blocks(chunks: Iterator[list[Message]]) -> Iterator[list[Message]]:
    """Lists of BLOCK_RECORDS from lists of any size, the last one shorter."""
    gathered: list[Message] = []
    for chunk in chunks:
        gathered += chunk
        if len(gathered) >= BLOCK_RECORDS:
            yield gathered
            gathered = []
    if gathered:
        yield gathered


def _patiently() -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception_type(Backpressure),
        wait=wait_random_exponential(multiplier=RETRY_FIRST_S, max=RETRY_MAX_S),
        stop=stop_after_delay(RETRY_STOP_S),
        reraise=True,
    )
