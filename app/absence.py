"""Keeps a Bloom filter beside each partition's dedupe table, so that step 4 asks RocksDB for few ids only.

A filter lives in memory and is made from the table, in a thread, while ids are asked of RocksDB as if there were none.
What is written meanwhile goes into it too, so it lacks nothing once it is whole. It never forgets: when more ids went
in than it was made for, since others left the window or the table grew, a new one is made the same way.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
import structlog

from app.bloom import Bloom

log = structlog.get_logger(__name__)

CAPACITY_MIN: Final = 65_536  # ids: 100 KB a partition
ROOM_MAX: Final = 2_000_000  # ids: as many as are there may come before it is made anew, but not more than these
CAPACITY_MAX: Final = 32_000_000  # ids: 51 MB a partition; what is larger goes without


class _Filter:
    """One filter, and the thread's work on it; whole when that is done."""

    def __init__(self, capacity: int) -> None:
        self.bloom = Bloom(capacity)
        self.live = 0  # ids that are in the table
        self.stop = threading.Event()
        self.made: Future[None] | None = None
        self._lock = threading.Lock()  # the thread that fills it and the one that adds: numpy's `at` is not atomic

    def add(self, ids: bytes) -> None:
        with self._lock:
            before = self.bloom.count
            self.bloom.add(ids)
            self.live += self.bloom.count - before


class Absence:
    """Tells ids that no table can know. Not asked by two threads for one partition at a time."""

    def __init__(self, stored: Callable[[int], Iterator[bytes]], estimate: Callable[[int], int]) -> None:
        """`stored` gives the ids of a partition's table, several joined in each piece; `estimate` their number."""
        self._stored = stored
        self._estimate = estimate
        self._whole: dict[int, _Filter] = {}
        self._coming: dict[int, _Filter] = {}
        self._makers = ThreadPoolExecutor(1, thread_name_prefix="bloom")

    def perhaps(self, partition: int, ids: Sequence[bytes]) -> Sequence[bytes]:
        """Those ids that the table may know."""
        found = self._current(partition)
        if found is None:
            return ids
        return [ids[index] for index in np.flatnonzero(found.bloom.perhaps(b"".join(ids))).tolist()]

    def add(self, partition: int, ids: bytes) -> None:
        """Ids, joined, that are about to be written. Before they are: then no filter ever lacks one."""
        self._current(partition)
        for filters in (self._whole, self._coming):
            if (one := filters.get(partition)) is not None:
                one.add(ids)

    def remove(self, partition: int, count: int) -> None:
        """So many ids have left the table; the filter goes on saying "perhaps" of them."""
        for filters in (self._whole, self._coming):
            if (one := filters.get(partition)) is not None:
                one.live -= count

    def drop(self, partition: int) -> None:
        """Forget the partition; nothing reads its table any more when this returns."""
        self._whole.pop(partition, None)
        coming = self._coming.pop(partition, None)
        if coming is not None and coming.made is not None:
            coming.stop.set()
            if not coming.made.cancel():
                coming.made.exception()  # waits; of a table that is left, a failure is no matter

    def settle(self, partition: int) -> bool:
        """Wait for the filter that is to be. Whether there is one."""
        self._current(partition)
        if (coming := self._coming.get(partition)) is not None and coming.made is not None:
            coming.made.result()
        return self._current(partition) is not None

    def _current(self, partition: int) -> _Filter | None:
        """The whole filter, if there is one; sees to it that there will be."""
        coming, whole = self._coming.get(partition), self._whole.get(partition)
        if coming is not None and coming.made is not None and coming.made.done():
            coming.made.result()  # raises what its thread ended with: a table that cannot be read is no small thing
            whole = self._whole[partition] = self._coming.pop(partition)
        elif coming is None and whole is None:
            self._make(partition, self._estimate(partition))
        elif coming is None and whole is not None and whole.bloom.count > whole.bloom.capacity:
            self._make(partition, whole.live)
        return whole

    def _make(self, partition: int, ids: int) -> None:
        capacity = max(CAPACITY_MIN, ids + min(ids, ROOM_MAX))
        if capacity > CAPACITY_MAX:
            self._whole.pop(partition, None)
            return
        coming = self._coming[partition] = _Filter(capacity)
        coming.made = self._makers.submit(self._fill, partition, coming)

    def _fill(self, partition: int, coming: _Filter) -> None:
        began = at = time.monotonic()
        for ids in self._stored(partition):
            coming.add(ids)
            # As long again as it took: the loop shares the interpreter with this thread.
            if coming.stop.wait(time.monotonic() - at):
                return
            at = time.monotonic()
        log.info("bloom filter made", partition=partition, ids=coming.bloom.count, seconds=round(at - began, 2))
