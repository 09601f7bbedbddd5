"""Reading a topic beside the consumer group: any offsets of any partition, from here to there, nothing committed.

What a rebuild of dedupe state, the DLQ commands and an operator's replay read records with. The group's own way in is
app/transport.py.
"""

import threading
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_END, Consumer, KafkaException, Message, TopicPartition

from app.batch import TP
from schemas.envelope import Headers

POLL_RECORDS = 2_000  # a list of the largest records stays in memory
POLL_S = 1.0
STALL_S = 60.0  # no record for so long while some are missing: the broker is away, start over
NEVER_STOPPED = threading.Event()


class SourceRecord(NamedTuple):
    """One record as the loop's steps take it: what `app.batch.Record` asks for."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def consumer(bootstrap: str) -> Consumer:
    """A consumer without a group: offsets are ours to choose, nothing is committed."""
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


def partitions(bootstrap: str, topic: str) -> list[TP]:
    """The partitions of a topic. Raises LookupError when there is no such topic."""
    asking = consumer(bootstrap)
    try:
        found = asking.list_topics(topic, timeout=STALL_S).topics[topic]
    finally:
        asking.close()
    if found.error is not None:
        raise LookupError(f"topic {topic}: {found.error}; `./afluente topics apply` creates what is missing")
    return [TP(topic, partition) for partition in sorted(found.partitions)]


def bounds(bootstrap: str, places: Collection[TP]) -> dict[TP, tuple[int, int]]:
    """The first offset that is there, and the one after the last, of each partition."""
    asking = consumer(bootstrap)
    try:
        return {tp: asking.get_watermark_offsets(TopicPartition(*tp), timeout=STALL_S) for tp in places}
    finally:
        asking.close()


def offsets_at(bootstrap: str, places: Collection[TP], at_ms: int) -> dict[TP, int]:
    """The first offset of each partition whose record has that timestamp or a later one; its end when none has."""
    asking = consumer(bootstrap)
    try:
        return {tp: _offset_at(asking, tp, at_ms) for tp in places}
    finally:
        asking.close()


def read(
    bootstrap: str,
    tp: TP,
    span: tuple[int, int | None],
    stop: threading.Event = NEVER_STOPPED,
    since_ms: int | None = None,
) -> Iterator[list[Message]]:
    """The records of `span`, both ends included (None: up to the end now), in lists as they come.

    `since_ms` leaves out what is older. Raises KafkaException when the broker fails us, InterruptedError when `stop`
    is set, TimeoutError when nothing comes.
    """
    first, last = span
    reader = consumer(bootstrap)
    try:
        low, high = reader.get_watermark_offsets(TopicPartition(*tp), timeout=STALL_S)
        end = high if last is None else min(last + 1, high)
        start = max(first, low, _offset_at(reader, tp, since_ms) if since_ms is not None else 0)
        reader.assign([TopicPartition(tp.topic, tp.partition, start)])
        idle_s = 0.0
        while start < end:
            if stop.is_set():
                raise InterruptedError
            found: list[Any] = reader.consume(min(POLL_RECORDS, end - start), POLL_S)
            for record in found:
                if record.error():
                    raise KafkaException(record.error())
            wanted = [record for record in found if record.offset() < end]
            idle_s = 0.0 if found else idle_s + POLL_S
            if wanted:
                yield wanted
            # Past a hole at the end (compaction, control records) the position moves on without a record.
            at: Any = reader.position([TopicPartition(*tp)])[0].offset
            start = max(at, found[-1].offset() + 1 if found else start)
            if idle_s >= STALL_S:
                raise TimeoutError(f"{tp.topic}[{tp.partition}]: nothing to read at offset {start}, wanted up to {end}")
    finally:
        reader.close()


def as_record(found: Message) -> SourceRecord:
    """A record of confluent-kafka as the spine's."""
    return SourceRecord(
        found.topic() or "",
        found.partition() or 0,
        found.offset() or 0,
        found.timestamp()[1],
        as_bytes(found.key()),
        as_bytes(found.value()),
        headers_of(found),
    )


def headers_of(found: Message) -> list[tuple[str, bytes]]:
    """Its headers, bytes as they were produced."""
    headers: Any = found.headers()
    return headers or []


def as_bytes(field: str | bytes | None) -> bytes | None:
    """A key or value: the library's types allow a text, a consumer without deserialisers gives bytes alone."""
    return field.encode() if isinstance(field, str) else field


def _offset_at(asking: Consumer, tp: TP, at_ms: int) -> int:
    found = asking.offsets_for_times([TopicPartition(tp.topic, tp.partition, at_ms)], timeout=STALL_S)[0].offset
    if found in {OFFSET_END, -1}:
        return int(asking.get_watermark_offsets(TopicPartition(*tp), timeout=STALL_S)[1])
    return int(found)
