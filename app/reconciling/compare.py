"""The comparison: tenants, months, buckets of ids, rows; and then once more, to tell a difference from a change.

First pass: a snapshot of Postgres is taken, ClickHouse is waited for until it has seen the snapshot's LSN, and both are
compared from the top down; only what differs is opened. A row that was changed after the snapshot may differ too, so
what is found is only suspected, and noted with its stamp: the newest LSN that ClickHouse has of it.

Every further pass looks at the suspects alone, with a new snapshot and a new wait. A suspect whose two sides agree by
now was a change under way. One that differs and whose stamp has not moved since the pass before *is a difference*: what
ClickHouse shows was there before the new snapshot was taken, so the transaction that made it is in the snapshot; had
the snapshot a later change of the row, ClickHouse would have seen that one too and the stamp would have moved. So both
sides show the same latest change, and must be equal. One whose stamp has moved stays a suspect for the next pass.
Nothing is locked, and no clock is trusted.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from app.reconciling import postgres, progress
from app.reconciling.bisect import opened
from app.reconciling.clickhouse import Mirrored
from app.reconciling.differences import Difference, differences
from app.reconciling.postgres import Connection, Snapshot
from app.reconciling.rows import Key
from app.reconciling.spool import NO_STAMP, Candidate, Spool
from schemas.mirrors import Mirror

TENANTS_A_SLICE: Final = 50  # asked together; bounds what either side groups, and moves the bar
CHUNK_ROWS: Final = 1_000  # suspects looked at together
PASSES_MAX: Final = 6  # a row that changes between all of them is not settled, and said so
NOTED_MAX: Final = 1_000  # differences listed one by one; the others are counted

Report = Callable[[str, int, int], None]  # what is being done, steps done, steps there are


@dataclass(slots=True)
class Verdict:
    """What a comparison found."""

    lsn: int = 0  # of the last snapshot
    tenants: int = 0
    rows: int = 0  # in Postgres, at the first snapshot
    differences: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    by_place: dict[tuple[str, str, int, str], int] = field(default_factory=dict)  # table, tenant, month, kind
    noted: list[Difference] = field(default_factory=list)
    unsettled: int = 0
    passes: int = 0

    @property
    def equal(self) -> bool:
        return not self.differences and not self.unsettled

    def note(self, found: Difference) -> None:
        self.differences += 1
        self.by_kind[found.kind] = self.by_kind.get(found.kind, 0) + 1
        place = (found.key.table, found.key.tenant_id, found.month, found.kind)
        if place in self.by_place or len(self.by_place) < NOTED_MAX:
            self.by_place[place] = self.by_place.get(place, 0) + 1
        if len(self.noted) < NOTED_MAX:
            self.noted.append(found)


@dataclass(frozen=True, slots=True)
class Sides:
    """Both databases, and what a comparison of them needs to know."""

    connection: Connection
    owner_url: str
    mirrored: Mirrored
    mirrors: Sequence[Mirror]
    topic: str
    partitions: Collection[int]
    wait_s: float
    report: Report
    ready: Callable[[], Awaitable[None]] | None = None  # what else must happen before ClickHouse is asked

    @asynccontextmanager
    async def at_one_lsn(self) -> AsyncIterator[Snapshot]:
        """A snapshot that ClickHouse has caught up with."""
        async with postgres.snapshot(self.connection) as taken:
            self.report(f"waiting until ClickHouse has seen {progress.text_of(taken.lsn)}", 0, 0)
            await progress.await_seen(
                self.mirrored, self.owner_url, self.topic, taken.lsn, self.partitions, self.wait_s
            )
            if self.ready is not None:
                await self.ready()
            yield taken

    def mirror(self, table: str) -> Mirror:
        return next(one for one in self.mirrors if one.table == table)


async def compare(sides: Sides, tenants: Sequence[str], wrong: Spool) -> Verdict:
    """Compare; `tenants` limits it. The keys of what differs go into `wrong`, for a repair."""
    verdict = Verdict()
    suspects = Spool()
    try:
        async with sides.at_one_lsn() as taken:
            verdict.lsn, verdict.passes = taken.lsn, 1
            await _suspect(sides, taken, tenants, suspects, verdict)
        await settle(sides, suspects, wrong, verdict)
    finally:
        suspects.__exit__(None, None, None)
    return verdict


async def settle(sides: Sides, suspects: Spool, wrong: Spool, verdict: Verdict) -> None:
    """The further passes: until no suspect is left, or PASSES_MAX."""
    current = suspects
    while current.count and verdict.passes < PASSES_MAX:
        left = Spool()
        async with sides.at_one_lsn() as taken:
            verdict.lsn = taken.lsn
            verdict.passes += 1
            done = 0
            for chunk in current.chunks(CHUNK_ROWS):
                await _judge(sides, taken, chunk, (left, wrong), verdict)
                done += len(chunk)
                sides.report("looking at suspects again", done, current.count)
        if current is not suspects:
            current.__exit__(None, None, None)
        current = left
    verdict.unsettled = current.count
    if current is not suspects:
        current.__exit__(None, None, None)


async def _judge(
    sides: Sides, taken: Snapshot, chunk: Sequence[Candidate], spools: tuple[Spool, Spool], verdict: Verdict
) -> None:
    left, wrong = spools
    table, tenant_id = chunk[0].key[:2]
    mirror, ids = sides.mirror(table), [one.key.id for one in chunk]
    there = await taken.rows(mirror, tenant_id, ids)
    mirrored = await sides.mirrored.rows(mirror, tenant_id, ids)
    # After the rows: a stamp that has not moved says that the rows had not either.
    stamps = await sides.mirrored.stamps(mirror, tenant_id, ids)
    for key, month, stamp in chunk:
        found = differences(key, there.get(key.id), mirrored.get(key.id, ()))
        now = stamps.get(key.id, NO_STAMP)
        months = [one.month for one in found]
        if found and now != stamp:
            # One suspect stays one, wherever the row has gone.
            left.add(Candidate(key, month if month in months else months[0], now))
            continue
        for one in found:
            if one.month == month:  # a row that is wrong in two months is suspected in both
                wrong.add(Candidate(key, month, now))
                verdict.note(one)


async def _suspect(sides: Sides, taken: Snapshot, tenants: Sequence[str], suspects: Spool, verdict: Verdict) -> None:
    """The first pass: from the top down."""
    chosen = list(tenants) or await _all_tenants(sides, taken)
    verdict.tenants = len(chosen)
    total, done = len(chosen) * len(sides.mirrors), 0
    for mirror in sides.mirrors:
        for start in range(0, len(chosen), TENANTS_A_SLICE):
            piece = chosen[start : start + TENANTS_A_SLICE]
            sides.report(f"comparing {mirror.table}", done, total)
            await _slice(sides, taken, (mirror, piece), suspects, verdict)
            done += len(piece)
    sides.report("compared", total, total)


async def _all_tenants(sides: Sides, taken: Snapshot) -> list[str]:
    known = {one async for one in taken.tenants()}
    for mirror in sides.mirrors:
        known |= await sides.mirrored.tenants(mirror.table)
    return sorted(known)


async def _slice(
    sides: Sides, taken: Snapshot, piece: tuple[Mirror, Sequence[str]], suspects: Spool, verdict: Verdict
) -> None:
    mirror, tenants = piece
    ours = await taken.groups(mirror, tenants)
    theirs = await sides.mirrored.groups(mirror, tenants)
    verdict.rows += sum(figures.rows for figures in ours.values())
    async for group, ids in opened(taken, sides.mirrored, mirror, (ours, theirs)):
        stamps = await sides.mirrored.stamps(mirror, group.tenant_id, ids)
        for one in ids:
            key = Key(mirror.table, group.tenant_id, one)
            suspects.add(Candidate(key, group.month, stamps.get(one, NO_STAMP)))
