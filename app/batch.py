"""Record batches: runs of records of one partition, cut by rows, bytes and time, or exactly, for a replay.

Sits between the transport, which feeds records in offset order, and the loop, which takes one batch at a time.
Pure: time is an argument.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from schemas.envelope import Headers

# An insert costs the server as much as thousands of rows, whatever its size: with small batches of many partitions it
# does little else, and all of them wait.
LINGER_SHARE = 2.0
LINGER_S_MAX = 1.0  # also after an outage, when carrying took minutes
RECORD_OVERHEAD_BYTES = 500  # Python objects around one record (tuple, headers, ints): measured, not its wire size


class TP(NamedTuple):
    """A topic partition; equal, as a tuple, to Faust's and aiokafka's."""

    topic: str
    partition: int


class Record(Protocol):
    """What the spine reads of a Kafka record; aiokafka's `DefaultRecord` is one."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Records of one partition in offset order, never empty. `replayed`: the bounds came from a pending range."""

    tp: TP
    first: int
    last: int
    records: Sequence[Record]
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """When a batch is full. Rows and bytes cap it; `linger_s` is how long its oldest record may wait."""

    rows_max: int
    bytes_max: int
    linger_s: float


def records_bytes(records: Sequence[Record]) -> int:
    """What records cost in memory, in bytes: their values, their keys, and the objects around them."""
    sizes = [len(record.value or b"") + len(record.key or b"") for record in records]
    return sum(sizes) + RECORD_OVERHEAD_BYTES * len(sizes)


@dataclass(slots=True)
class _Poll:
    """What one poll brought and is not taken yet: what remains after a cut is as old as it is."""

    records: list[Record]
    size_bytes: int
    at: float


class Accumulator:
    """The records of one partition that have been fetched and not yet taken, in offset order."""

    def __init__(self, tp: TP, bounds: Bounds) -> None:
        self.tp = tp
        self.bounds = bounds
        self.linger_s = bounds.linger_s
        self.size_bytes = 0
        self._rows = 0
        self._polls: deque[_Poll] = deque()
        self._replay: tuple[int, int] | None = None
        self._last_offset = -1

    def __len__(self) -> int:
        return self._rows

    def took(self, seconds: float) -> None:
        """How long the last batch was carried: the next one waits in proportion, a busy server gets larger ones."""
        self.linger_s = max(self.bounds.linger_s, min(LINGER_S_MAX, seconds * LINGER_SHARE))

    def replay(self, first: int, last: int) -> None:
        """Cut the next batch exactly at `first..last`, however many polls that takes."""
        self._replay = (first, last)

    def add(self, records: Sequence[Record], now: float) -> None:
        """Append what a poll returned. Raises ValueError when offsets go back: the topic is another one now."""
        if not records:
            return
        if records[0].offset <= self._last_offset:
            raise ValueError(
                f"{self.tp.topic}[{self.tp.partition}] went back from offset {self._last_offset} "
                f"to {records[0].offset}: the topic was re-created or its log truncated"
            )
        poll = _Poll(list(records), records_bytes(records), now)
        self._polls.append(poll)
        self._last_offset = records[-1].offset
        self._rows += len(poll.records)
        self.size_bytes += poll.size_bytes

    @property
    def replaying(self) -> bool:
        """The next batch is a replay that must be completed before anything else."""
        return self._replay is not None

    @property
    def full(self) -> bool:
        """No more should be fetched until a batch is taken."""
        if self._replay is not None:
            # A pending range must be completed whatever its size: it was within bounds when it was opened.
            return self._last_offset >= self._replay[1] and self._over()
        return self._over()

    def _over(self) -> bool:
        return self._rows >= self.bounds.rows_max or self.size_bytes >= self.bounds.bytes_max

    def due_at(self) -> float | None:
        """The time at which `cut` gives a batch without more records coming, or None when it never does."""
        if self._replay is not None:
            return self._polls[0].at if self._last_offset >= self._replay[1] else None
        if not self._polls:
            return None
        oldest_at = self._polls[0].at
        return oldest_at if self._over() else oldest_at + self.linger_s

    def cut(self, now: float) -> RecordBatch | None:
        """The next batch, when it is full, old enough, or complete as a replay; else None."""
        due = self.due_at()
        if due is None or due > now:
            return None
        if self._replay is not None:
            return self._cut_replay(now)
        taken: list[Record] = []
        size = 0
        # Whole polls are taken without looking at each record; only the one that does not fit is.
        while self._polls and len(taken) < self.bounds.rows_max:
            poll = self._polls[0]
            count = len(poll.records)
            if len(taken) + count > self.bounds.rows_max or size + poll.size_bytes > self.bounds.bytes_max:
                count = self._room(poll, self.bounds.rows_max - len(taken), self.bounds.bytes_max - size, bool(taken))
            if not count:
                break
            size += self._take(count, taken)
        return RecordBatch(self.tp, taken[0].offset, taken[-1].offset, taken)

    @staticmethod
    def _room(poll: _Poll, rows: int, size_max: int, some_taken: bool) -> int:
        """How many of the poll's first records still fit; one at least, when nothing is taken yet."""
        size = 0
        for count, record in enumerate(poll.records[:rows]):
            size += records_bytes((record,))
            if size > size_max and (some_taken or count):
                return count
        return min(rows, len(poll.records))

    def _cut_replay(self, now: float) -> RecordBatch | None:
        assert self._replay is not None
        first, last = self._replay
        self._replay = None
        taken: list[Record] = []
        while self._polls and self._polls[0].records[0].offset <= last:
            self._take(bisect_right(self._polls[0].records, last, key=lambda record: record.offset), taken)
        if not taken:
            # Retention or compaction has passed the whole range: nothing is left to replay.
            return self.cut(now)
        # The bounds stay those of the first attempt although offsets may have holes: the token is made of them.
        return RecordBatch(self.tp, first, last, taken, replayed=True)

    def _take(self, count: int, taken: list[Record]) -> int:
        """Move the first `count` records of the oldest poll into `taken`; returns their bytes."""
        poll = self._polls[0]
        if count == len(poll.records):
            self._polls.popleft()
            size, part = poll.size_bytes, poll.records
        else:
            part = poll.records[:count]
            size = records_bytes(part)
            del poll.records[:count]
            poll.size_bytes -= size
        taken += part
        self._rows -= count
        self.size_bytes -= size
        return size
