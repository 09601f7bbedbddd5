"""From what differs as a whole down to the rows: months, then buckets of ids, then ids. Only what differs is opened."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, Protocol

from app.reconciling.rows import Figures, Group
from schemas.mirrors import Mirror

BUCKET_ROWS: Final = 100  # aimed at: the rows read for one row that differs
LUMP_ROWS: Final = 20_000  # fingerprints read at once from each side
DIGITS_MAX: Final = 4  # 65,536 buckets: a month of one tenant with 6.5 million rows


class Side(Protocol):
    """What can be asked of Postgres and of ClickHouse alike."""

    async def groups(self, mirror: Mirror, tenants: Sequence[str]) -> dict[Group, Figures]: ...

    async def buckets(self, mirror: Mirror, group: Group, digits: int) -> dict[str, Figures]: ...

    async def fingerprints(
        self, mirror: Mirror, group: Group, digits: int, buckets: Sequence[str]
    ) -> dict[str, int]: ...


async def opened(
    ours: Side, theirs: Side, mirror: Mirror, figures: tuple[Mapping[Group, Figures], Mapping[Group, Figures]]
) -> AsyncIterator[tuple[Group, list[str]]]:
    """The ids of the rows that differ, group by group, in lists that memory can hold."""
    here, there = figures
    for group in sorted(here.keys() | there.keys()):
        if here.get(group) == there.get(group):
            continue
        rows = max(one.rows for one in (here.get(group), there.get(group)) if one is not None)
        digits = digits_for(rows)
        left, right = await ours.buckets(mirror, group, digits), await theirs.buckets(mirror, group, digits)
        wrong = sorted(bucket for bucket in left.keys() | right.keys() if left.get(bucket) != right.get(bucket))
        step = max(1, LUMP_ROWS * 16**digits // rows)
        for start in range(0, len(wrong), step):
            lump = wrong[start : start + step]
            mine = await ours.fingerprints(mirror, group, digits, lump)
            other = await theirs.fingerprints(mirror, group, digits, lump)
            yield group, sorted(one for one in mine.keys() | other.keys() if mine.get(one) != other.get(one))


def digits_for(rows: int) -> int:
    """How many hexadecimal digits make buckets of about BUCKET_ROWS."""
    if rows <= BUCKET_ROWS:
        return 0
    return min(DIGITS_MAX, math.ceil(math.log(rows / BUCKET_ROWS, 16)))
