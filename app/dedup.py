"""Deduplication by event id: step 4 of the loop decides, step 7 remembers, and a lost table is rebuilt from Kafka.

The table maps an event id to the offset that first carried it. An equal offset is a redelivery of the same record
(keep), a lower one means the id came before (drop): so the replay of a range takes the same decisions as its first
attempt. What the table holds is a function of the source topic and its DLQ, so these are its changelog.
"""

import shutil
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import faust
from rocksdict import WriteBatch

from app import failpoints, source
from app.absence import Absence
from app.batch import TP
from app.dlq import SOURCE_OFFSET, SOURCE_PARTITION, SOURCE_TOPIC, SOURCE_TOPIC_ID
from schemas.envelope import Headers

KEY_BYTES = 16  # 128 bits of a cryptographic hash: no collision by chance, none by a tenant's design
APPLIED_KEY = b"\x00applied"  # shorter than any event key, so that it can never be one
BATCH_PREFIX = b"\x01"  # then the batch's last offset: names the ids that leave the window together
BATCH_KEY_BYTES = len(BATCH_PREFIX) + 8  # shorter than any event key, too
OFFSET = struct.Struct(">q")
SECONDS = struct.Struct(">q")
# Each write brings one batch and takes up to two away: what is over the window shrinks, and no write takes long.
EXPIRED_BATCHES_MAX = 2

# One RocksDB a partition: these are small so that dozens of partitions fit one worker.
BLOCK_CACHE_BYTES = 4 << 20
WRITE_BUFFER_BYTES = 4 << 20
WRITE_BUFFERS = 2
OPEN_FILES_MAX = 64
BLOOM_BITS = 10  # 1 % false positives: a new id almost never reads the disk

PIECE_BYTES = 256 << 10  # of ids read from the table at once: some milliseconds of the interpreter

HOUR_S = 3600

Identify = Callable[[bytes | None, bytes | None, Headers], bytes | None]


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
    return blake2b(tenant + b"/" + event_id, digest_size=KEY_BYTES).digest()


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
    source topic already is both. Ids leave the window by our own hand: rocksdict opens an existing database with a TTL
    that overflows, and the first compaction then drops every record.
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
                "block_cache_size": BLOCK_CACHE_BYTES,
                "write_buffer_size": WRITE_BUFFER_BYTES,
                "max_write_buffer_number": WRITE_BUFFERS,
                "max_open_files": OPEN_FILES_MAX,
                "bloom_filter_size": BLOOM_BITS,
            },
        )
        self.window_s = declared.window_hours * HOUR_S
        # The first batch still in the window and its time: a scan passes no tombstones, and looks when it is due.
        self._oldest: dict[int, tuple[bytes, int]] = {}
        self.absence = Absence(self._ids, self._about)

    def _database(self, partition: int) -> Any:
        # Faust's store gives no access to a batch, so it is asked for the database behind it.
        return self._store_of._db_for_partition(partition)  # noqa: SLF001

    @property
    def _store_of(self) -> Any:
        return self.data

    def known(self, partition: int, keys: Sequence[bytes]) -> dict[bytes, int]:
        """The first offset of those keys that the table has."""
        asked = list(self.absence.perhaps(partition, keys))
        if not asked:
            return {}
        found = self._database(partition).get(asked)
        return {key: OFFSET.unpack_from(raw)[0] for key, raw in zip(asked, found, strict=True) if raw is not None}

    def applied(self, partition: int) -> Applied | None:
        return Applied.decode(self._database(partition).get(APPLIED_KEY))

    def remember(self, partition: int, fresh: Mapping[bytes, int], applied: Applied) -> None:
        """Write the new ids and the applied offset in one atomic batch, and let ids older than the window go."""
        now_s = int(time.time())
        writes = WriteBatch(raw_mode=True)
        self._expire(partition, writes, now_s - self.window_s)
        for key in sorted(fresh):  # neighbours in the memtable, too: a third off a write
            writes.put(key, OFFSET.pack(fresh[key]))
        if fresh:
            ids = b"".join(fresh)
            writes.put(BATCH_PREFIX + OFFSET.pack(applied.offset), SECONDS.pack(now_s) + ids)
            self.absence.add(partition, ids)
        writes.put(APPLIED_KEY, applied.encode())
        self._database(partition).write(writes)

    def _expire(self, partition: int, writes: WriteBatch, before_s: int) -> None:
        """Delete the ids of the oldest batches that were remembered before that time."""
        first, since_s = self._oldest.get(partition, (BATCH_PREFIX, 0))
        if since_s >= before_s:
            return
        for expired, (key, entry) in enumerate(self._batches(partition, first)):
            self._oldest[partition] = key, SECONDS.unpack_from(entry)[0]
            if expired == EXPIRED_BATCHES_MAX or SECONDS.unpack_from(entry)[0] >= before_s:
                return
            for at in range(SECONDS.size, len(entry), KEY_BYTES):
                writes.delete(entry[at : at + KEY_BYTES])
            writes.delete(key)
            self.absence.remove(partition, len(entry) // KEY_BYTES)

    def _batches(self, partition: int, first: bytes = BATCH_PREFIX) -> Iterator[tuple[bytes, bytes]]:
        """Each batch in the window, from that key on: its key, and its time with the ids behind it."""
        for key, entry in self._database(partition).items(from_key=first):
            if not key.startswith(BATCH_PREFIX):
                return
            if len(key) == BATCH_KEY_BYTES:
                yield key, entry

    def _ids(self, partition: int) -> Iterator[bytes]:
        """All ids of the table, joined to pieces. They are read from the batches: one entry for thousands."""
        pieces, size = [], 0
        for _, entry in self._batches(partition):
            pieces.append(entry[SECONDS.size :])
            size += len(entry)
            if size >= PIECE_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
        yield b"".join(pieces)

    def _about(self, partition: int) -> int:
        """How many ids the table has, roughly."""
        return int(self._database(partition).property_int_value("rocksdb.estimate-num-keys") or 0)

    def forget(self, partition: int) -> None:
        """Delete the partition's state: it belongs to another incarnation of the topic."""
        self.release(partition)
        shutil.rmtree(self._store_of.partition_path(partition), ignore_errors=True)

    def release(self, partition: int) -> None:
        """Close the partition's database, so that another worker on this machine may open it."""
        self.absence.drop(partition)
        self._oldest.pop(partition, None)
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


def rebuild(bootstrap: str, gap: Gap, table: Seen, stop: threading.Event, identify: Identify) -> int:
    """Read the gap from the source topic into the table; returns the number of records read. Runs in a thread.

    `identify` is the pipeline's: a record's dedupe key from its key, value and headers.

    Records that went to the DLQ are left out: their ids were never taken, and a replay after a fix must pass.
    Raises KafkaException when the broker fails us, InterruptedError when `stop` is set.
    """
    poisoned = dead_offsets(bootstrap, gap, stop)
    read = 0
    # Older ids have left the dedupe window.
    since_ms = time.time_ns() // 1_000_000 - table.window_s * 1000
    for records in source.read(bootstrap, gap.tp, (gap.first, gap.last), stop, since_ms):
        keys: list[bytes] = []
        offsets: list[int] = []
        for record in records:
            offset = record.offset() or 0
            if offset in poisoned:
                continue
            bare_key, value = source.as_bytes(record.key()), source.as_bytes(record.value())
            key = identify(bare_key, value, source.headers_of(record))
            if key is not None:
                keys.append(key)
                offsets.append(offset)
        _, fresh = first_carriers(keys, offsets, table.known(gap.tp.partition, keys) if keys else {})
        table.remember(gap.tp.partition, fresh, Applied(gap.topic_id, records[-1].offset() or 0))
        if failpoints.armed:
            failpoints.hit("rebuild")
        read += len(records)
    table.remember(gap.tp.partition, {}, Applied(gap.topic_id, gap.last))
    return read


def dead_offsets(bootstrap: str, gap: Gap, stop: threading.Event) -> set[int]:
    """The offsets of the gap's partition that are in its DLQ, those of the topic's former incarnations left out."""
    found: set[int] = set()
    place = (gap.topic_id.encode(), gap.tp.topic.encode(), str(gap.tp.partition).encode())
    for tp in source.partitions(bootstrap, gap.dlq):
        for records in source.read(bootstrap, tp, (0, None), stop):
            for record in records:
                fields = dict(source.headers_of(record))
                if (fields.get(SOURCE_TOPIC_ID), fields.get(SOURCE_TOPIC), fields.get(SOURCE_PARTITION)) == place:
                    found.add(int(fields[SOURCE_OFFSET]))
    return found
