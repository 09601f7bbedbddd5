"""Records as they come off the wire, in lists: what the transport's polls are made of.

Before step 1 of the loop. aiokafka unpacks a fetched Kafka batch one record at a time, through a generator, into a
dataclass of eleven fields; half of what a worker did was that. Here a Kafka batch becomes a list of the records that
aiokafka's C extension makes of it, which have all that the loop reads: offset, timestamp, key, value, headers.
Fetching, positions, checksums and rebalances stay aiokafka's.
"""

from collections.abc import Iterable
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException


class PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """What one fetch brought of one partition, taken in lists. `next_fetch_offset` is where the next one begins."""

    next_fetch_offset: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self._isolation_level != fetcher.READ_UNCOMMITTED:
            raise NotImplementedError("records of aborted transactions are not told apart here")
        self._ready: list[Any] = []
        self._after_ready = self.next_fetch_offset

    def take(self, records_max: int | None) -> list[Any]:
        """The next records, in offset order; fewer than asked for only when these are all."""
        found: list[Any] = []
        while records_max is None or len(found) < records_max:
            if not self._ready and not self._unpack():
                break
            room = len(self._ready) if records_max is None else records_max - len(found)
            found += self._ready[:room]
            del self._ready[:room]
            self.next_fetch_offset = self._after_ready if not self._ready else found[-1].offset + 1
        return found

    def _unpack(self) -> bool:
        """Make a list of the next Kafka batch; False when there is none."""
        while self._records.has_next():
            batch = self._records.next_batch()
            if self._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"Invalid CRC - {self._tp}")
            if batch.is_control_batch:
                self.next_fetch_offset = batch.next_offset
                continue
            ready = list(batch)
            if ready and ready[0].offset < self.next_fetch_offset:
                # A fetch brings the whole Kafka batch in which its offset lies.
                ready = [record for record in ready if record.offset >= self.next_fetch_offset]
            # Compaction may have taken the last records of the batch; their offsets are passed all the same.
            self._after_ready = batch.next_offset
            if ready:
                self._ready = ready
                return True
            self.next_fetch_offset = batch.next_offset
        return False


class FetchResult(fetcher.FetchResult):  # type: ignore[misc]
    """A partition's fetch that hands out lists."""

    _partition_records: Any  # aiokafka's, made by `PartitionRecords` above; None when all is handed out

    def getall(self, max_records: int | None = None) -> list[Any]:
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return []
        found: list[Any] = self._partition_records.take(max_records)
        self._update_position()
        if max_records is None or len(found) < max_records:
            self._partition_records = None
        return found


def queue_up(fetcher: Any, served: Iterable[Any]) -> None:
    """Partitions that a poll has just emptied into its answer go behind those that still wait.

    aiokafka serves what it fetched in the order of the fetch, each partition to its end: beside a backlog, a few
    records of another partition would wait for megabytes of others.
    """
    waiting = fetcher._records  # noqa: SLF001 - its queue, an OrderedDict by partition
    for tp in served:
        if tp in waiting:
            waiting.move_to_end(tp)


def install() -> None:
    """Let aiokafka's fetcher make these. Its version is pinned exactly, and it offers no other way to say so."""
    fetcher.PartitionRecords = PartitionRecords
    fetcher.FetchResult = FetchResult
