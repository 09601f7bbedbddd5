"""How many records of a tenant are in the DLQ, read from Kafka as any consumer would."""

import time

from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from app.settings import Settings
from loadtest.rows import require_loopback
from schemas.envelope import HEADER_TENANT
from schemas.topics import GATEWAY_RECEIVED_DLQ, TRACKING_COLLECTED_DLQ

TIMEOUT_S = 10.0
BATCH = 500
SOURCE = ("dlq_topic", "dlq_partition", "dlq_offset")  # where a record came from; a retried batch writes it twice
Source = tuple[str | bytes | None, ...]


def count(settings: Settings, tenant_id: str, since_ms: int) -> int:
    """The tenant's distinct poison records since then."""
    for address in settings.kafka_url.split(","):
        require_loopback(f"kafka://{address}")
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_url,
            "group.id": "loadtest",  # the client wants one; nothing is committed and no group is joined
            "enable.auto.commit": False,
            "enable.partition.eof": False,
        }
    )
    try:
        found: set[Source] = set()
        for topic in (TRACKING_COLLECTED_DLQ, GATEWAY_RECEIVED_DLQ):
            found |= _sources(consumer, topic.name, tenant_id.encode(), since_ms)
        return len(found)
    finally:
        consumer.close()


def _sources(consumer: Consumer, topic: str, tenant: bytes, since_ms: int) -> set[Source]:
    partitions = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions
    asked = [TopicPartition(topic, number, since_ms) for number in partitions]
    begins = [place for place in consumer.offsets_for_times(asked, timeout=TIMEOUT_S) if place.offset != OFFSET_END]
    ends = {p.partition: consumer.get_watermark_offsets(p, timeout=TIMEOUT_S)[1] for p in begins}
    left = {place.partition for place in begins if place.offset < ends[place.partition]}
    consumer.assign([place for place in begins if place.partition in left])
    found = set()
    deadline = time.monotonic() + TIMEOUT_S
    while left and time.monotonic() < deadline:
        for record in consumer.consume(BATCH, timeout=0.2):
            if record.error():
                raise RuntimeError(f"reading {topic}: {record.error()}")
            headers = dict(record.headers() or [])
            if headers.get(HEADER_TENANT) == tenant:
                found.add(tuple(headers.get(name) for name in SOURCE))
            partition, offset = record.partition(), record.offset()
            assert partition is not None
            assert offset is not None
            if offset + 1 >= ends[partition]:
                left.discard(partition)
    consumer.unassign()
    return found
