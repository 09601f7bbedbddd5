"""Deduplication by event id: step 4 of the loop decides, step 7 remembers, and a lost table is rebuilt from Kafka.

The table maps an event id to the offset that first carried it. An equal offset is a redelivery of the same record
(keep), a lower one means the id came before (drop): so the replay of a range takes the same decisions as its first
attempt. What the table holds is a function of the source topic and its DLQ, so these are its changelog.
"""

import hashlib
import shutil
import struct
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import faust
from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition
from rocksdict import WriteBatch

from app.batch import TP
from app.dlq import SOURCE_OFFSET, SOURCE_PARTITION, SOURCE_TOPIC
from schemas.envelope import HEADER_ID, HEADER_TENANT, header

KEY_BYTES = 16  # 128 bits of a cryptographic hash: no collision by chance, none by a tenant's design
APPLIED_KEY = b"\x00applied"  # shorter than any event key, so that it can never be one
OFFSET = struct.Struct(">q")

# One RocksDB a partition: these are small so that dozens of partitions fit one worker.
BLOCK_CACHE_BYTES = 8 << 20
WRITE_BUFFER_BYTES = 8 << 20
WRITE_BUFFERS = 2
OPEN_FILES_MAX = 64
BLOOM_BITS = 10  # 1 % false positives: a new id almost never reads the disk

REBUILD_POLL_RECORDS = 10_000
REBUILD_POLL_S = 1.0
REBUILD_STALL_S = 60.0  # no record for so long while some are missing: the broker is away, start over

HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class SeenTable:
    """Declares a dedupe table: its name, and for how long at least an id is known."""

    name: str
    window_hours: int


@dataclass(frozen=True, slots=True)
class Applied:
    """Up to where, in which incarnation of the topic, the local state is ahead of or equal to the commit."""

    topic_id: str
    offset: int

    def encode(self) -> bytes:
        return OFFSET.pack(self.offset) + self.topic_id.encode()

    @classmethod
    def decode(cls, raw: bytes | None) -> "Applied | None":
        if raw is None:
            return None
        return cls(raw[OFFSET.size :].decode(), OFFSET.unpack_from(raw)[0])


def event_key(tenant: bytes, event_id: bytes) -> bytes:
    """The table's key of one event: ids are unique per tenant, so the tenant is part of it."""
    return hashlib.blake2b(tenant + b"/" + event_id, digest_size=KEY_BYTES).digest()


def first_carriers(
    keys: Sequence[bytes], offsets: Sequence[int], known: Mapping[bytes, int]
) -> tuple[list[int], dict[bytes, int]]:
    """Which of these records are the first to carry their id, and what to remember of them.

    `keys` and `offsets` are parallel, in offset order; `known` is the table. Returns the indices to keep and the
    ids that are new, with their offsets.
    """
    kept: list[int] = []
    fresh: dict[bytes, int] = {}
    for index, key in enumerate(keys):
        first = known.get(key)
        if first is None:
            if key in fresh:
                continue
            fresh[key] = offsets[index]
        elif first < offsets[index]:
            continue
        kept.append(index)
    return kept, fresh


class Seen(faust.Table[bytes, bytes]):
    """A Faust table in RocksDB, one database a partition, read and written a batch at a time.

    It stays outside Faust's table manager: that would give it a changelog topic and a recovery of its own, and the
    source topic already is both.
    """

    def __init__(self, app: Any, declared: SeenTable) -> None:
        super().__init__(
            app,
            name=declared.name,
            store="rocksdb://",
            key_type=bytes,
            value_type=bytes,
            partitions=1,
            options={
                "ttl": declared.window_hours * HOUR_S,
                "block_cache_size": BLOCK_CACHE_BYTES,
                "write_buffer_size": WRITE_BUFFER_BYTES,
                "max_write_buffer_number": WRITE_BUFFERS,
                "max_open_files": OPEN_FILES_MAX,
                "bloom_filter_size": BLOOM_BITS,
            },
        )
        self.window_s = declared.window_hours * HOUR_S

    def _database(self, partition: int) -> Any:
        # Faust's store gives no access to a batch, so it is asked for the database behind it.
        return self._store_of._db_for_partition(partition)  # noqa: SLF001

    @property
    def _store_of(self) -> Any:
        return self.data

    def known(self, partition: int, keys: Sequence[bytes]) -> dict[bytes, int]:
        """The first offset of those keys that the table has."""
        found = self._database(partition).get(list(keys))
        return {key: OFFSET.unpack_from(raw)[0] for key, raw in zip(keys, found, strict=True) if raw is not None}

    def applied(self, partition: int) -> Applied | None:
        return Applied.decode(self._database(partition).get(APPLIED_KEY))

    def remember(self, partition: int, fresh: Mapping[bytes, int], applied: Applied) -> None:
        """Write the new ids and the applied offset in one atomic batch."""
        writes = WriteBatch(raw_mode=True)
        for key, offset in fresh.items():
            writes.put(key, OFFSET.pack(offset))
        writes.put(APPLIED_KEY, applied.encode())
        self._database(partition).write(writes)

    def forget(self, partition: int) -> None:
        """Delete the partition's state: it belongs to another incarnation of the topic."""
        self.release(partition)
        shutil.rmtree(self._store_of.partition_path(partition), ignore_errors=True)

    def release(self, partition: int) -> None:
        """Close the partition's database, so that another worker on this machine may open it."""
        database = self._store_of._dbs.pop(partition, None)  # noqa: SLF001
        if database is not None:
            database.close()


@dataclass(frozen=True, slots=True)
class Gap:
    """The source offsets `first..last` whose ids the local table lacks."""

    tp: TP
    topic_id: str
    first: int
    last: int
    dlq: str


def rebuild(bootstrap: str, gap: Gap, table: Seen, stop: threading.Event) -> int:
    """Read the gap from the source topic into the table; returns the number of records read. Runs in a thread.

    Records that went to the DLQ are left out: their ids were never taken, and a replay after a fix must pass.
    Raises KafkaException when the broker fails us, InterruptedError when `stop` is set.
    """
    poisoned = dead_offsets(bootstrap, gap.dlq, gap.tp, stop)
    read = 0
    for records in _read(bootstrap, gap.tp, (gap.first, gap.last), stop, since_s=table.window_s):
        keys: list[bytes] = []
        offsets: list[int] = []
        for offset, headers in records:
            tenant, event_id = header(headers, HEADER_TENANT), header(headers, HEADER_ID)
            if offset not in poisoned and tenant is not None and event_id is not None:
                keys.append(event_key(tenant, event_id))
                offsets.append(offset)
        _, fresh = first_carriers(keys, offsets, table.known(gap.tp.partition, keys) if keys else {})
        table.remember(gap.tp.partition, fresh, Applied(gap.topic_id, records[-1][0]))
        read += len(records)
    table.remember(gap.tp.partition, {}, Applied(gap.topic_id, gap.last))
    return read


def dead_offsets(bootstrap: str, dlq: str, tp: TP, stop: threading.Event) -> set[int]:
    """The offsets of `tp` that are in its DLQ."""
    found: set[int] = set()
    topic, partition = tp.topic.encode(), str(tp.partition).encode()
    for source in _partitions(bootstrap, dlq):
        for records in _read(bootstrap, source, (0, None), stop):
            for _, headers in records:
                fields = dict(headers)
                if fields.get(SOURCE_TOPIC) == topic and fields.get(SOURCE_PARTITION) == partition:
                    found.add(int(fields[SOURCE_OFFSET]))
    return found


def _partitions(bootstrap: str, topic: str) -> list[TP]:
    consumer = _consumer(bootstrap)
    try:
        found = consumer.list_topics(topic, timeout=REBUILD_STALL_S).topics[topic]
        return [TP(topic, partition) for partition in found.partitions]
    finally:
        consumer.close()


def _read(
    bootstrap: str, tp: TP, bounds: tuple[int, int | None], stop: threading.Event, since_s: float | None = None
) -> Iterable[list[tuple[int, list[tuple[str, bytes]]]]]:
    """Lists of (offset, headers) of the records in `bounds`, both ends included (None: up to the end now)."""
    first, last = bounds
    consumer = _consumer(bootstrap)
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(*tp), timeout=REBUILD_STALL_S)
        end = high if last is None else min(last + 1, high)
        start = max(first, low, _offset_at(consumer, tp, since_s, high) if since_s is not None else 0)
        consumer.assign([TopicPartition(tp.topic, tp.partition, start)])
        idle_s = 0.0
        while start < end:
            if stop.is_set():
                raise InterruptedError
            records: list[Any] = consumer.consume(REBUILD_POLL_RECORDS, REBUILD_POLL_S)
            for record in records:
                if record.error():
                    raise KafkaException(record.error())
            rows = [(record.offset(), record.headers() or []) for record in records if record.offset() < end]
            idle_s = 0.0 if records else idle_s + REBUILD_POLL_S
            if rows:
                yield rows
            # Past a hole at the end (compaction, control records) the position moves on without a record.
            at: Any = consumer.position([TopicPartition(*tp)])[0].offset
            start = max(at, records[-1].offset() + 1 if records else start)
            if idle_s >= REBUILD_STALL_S:
                raise TimeoutError(f"{tp.topic}[{tp.partition}]: nothing to read at offset {start}, wanted up to {end}")
    finally:
        consumer.close()


def _offset_at(consumer: Consumer, tp: TP, since_s: float, high: int) -> int:
    """The first offset younger than `since_s` seconds: older ids have left the dedupe window."""
    now_ms = time.time_ns() // 1_000_000
    found = consumer.offsets_for_times([TopicPartition(tp.topic, tp.partition, now_ms - int(since_s * 1000))])[0]
    return high if found.offset in {OFFSET_END, -1} else int(found.offset)


def _consumer(bootstrap: str) -> Consumer:
    # No group: offsets are ours to choose, nothing is committed.
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "afluente-rebuild",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": False,
            "fetch.max.bytes": 16 << 20,
            "queued.max.messages.kbytes": 32 << 10,
        }
    )
