"""Record batches: runs of records of one partition, cut by rows, bytes and time, or exactly, for a replay.

Sits between the transport, which feeds records in offset order, and the loop, which takes one batch at a time.
Pure: time is an argument.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from schemas.envelope import Headers

RECORD_OVERHEAD_BYTES = 500  # Python objects around one record (tuple, headers, ints): measured, not its wire size


class TP(NamedTuple):
    """A topic partition; equal, as a tuple, to Faust's and aiokafka's."""

    topic: str
    partition: int


class Record(Protocol):
    """What the spine reads of a Kafka record; aiokafka's `ConsumerRecord` is one."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
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


def record_bytes(record: Record) -> int:
    """What a record costs in memory, in bytes: its value, its key, and the objects around them."""
    return len(record.value or b"") + len(record.key or b"") + RECORD_OVERHEAD_BYTES


class Accumulator:
    """The records of one partition that have been fetched and not yet taken, in offset order."""

    def __init__(self, tp: TP, bounds: Bounds) -> None:
        self.tp = tp
        self.bounds = bounds
        self.size_bytes = 0
        self._records: deque[Record] = deque()
        # Last offset and time of each poll that still has records here: what remains after a cut is as old as it is.
        self._polls: deque[tuple[int, float]] = deque()
        self._replay: tuple[int, int] | None = None
        self._last_offset = -1

    def __len__(self) -> int:
        return len(self._records)

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
        self._records.extend(records)
        self._polls.append((records[-1].offset, now))
        self._last_offset = records[-1].offset
        self.size_bytes += sum(map(record_bytes, records))

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
        return len(self._records) >= self.bounds.rows_max or self.size_bytes >= self.bounds.bytes_max

    def due_at(self) -> float | None:
        """The time at which `cut` gives a batch without more records coming, or None when it never does."""
        if self._replay is not None:
            return self._polls[0][1] if self._last_offset >= self._replay[1] else None
        if not self._records:
            return None
        oldest_at = self._polls[0][1]
        return oldest_at if self._over() else oldest_at + self.bounds.linger_s

    def cut(self, now: float) -> RecordBatch | None:
        """The next batch, when it is full, old enough, or complete as a replay; else None."""
        due = self.due_at()
        if due is None or due > now:
            return None
        if self._replay is not None:
            return self._cut_replay(now)
        taken: list[Record] = []
        size = 0
        while self._records and len(taken) < self.bounds.rows_max:
            step = record_bytes(self._records[0])
            if taken and size + step > self.bounds.bytes_max:
                break
            taken.append(self._records.popleft())
            size += step
        return self._batch(taken, size, taken[0].offset, taken[-1].offset, replayed=False)

    def _cut_replay(self, now: float) -> RecordBatch | None:
        assert self._replay is not None
        first, last = self._replay
        self._replay = None
        taken: list[Record] = []
        while self._records and self._records[0].offset <= last:
            taken.append(self._records.popleft())
        size = sum(map(record_bytes, taken))
        if not taken:
            # Retention or compaction has passed the whole range: nothing is left to replay.
            return self.cut(now)
        # The bounds stay those of the first attempt although offsets may have holes: the token is made of them.
        return self._batch(taken, size, first, last, replayed=True)

    def _batch(self, taken: list[Record], size: int, first: int, last: int, *, replayed: bool) -> RecordBatch:
        self.size_bytes -= size
        while self._polls and self._polls[0][0] <= taken[-1].offset:
            self._polls.popleft()
        return RecordBatch(self.tp, first, last, taken, replayed=replayed)
