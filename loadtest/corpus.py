"""The records of a benchmark: a topic full of events of 50 tenants with skewed shares, a tenth of them sent twice.

The same events are there as Avro in the wire format, for Afluente and the floor, and as JSON of the same size, for
the contestants, whose documentation teaches JSON and whose libraries read it fastest.
"""

import datetime as dt
import itertools
import random
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from app import codec
from app.settings import Settings
from schemas.envelope import headers

TENANTS = 50
DUPLICATES_EVERY = 10  # every tenth record is the one before, sent again
QUEUE_RECORDS = 200_000
POLL_EVERY = 1_000  # records between two looks at the producer's answers
WAIT_S = 30.0
POLL_S = 0.1
ANY_PARTITION = -1  # librdkafka's own word for it: by the key
SAMPLE = 4_096  # tenants drawn in advance, so that the skew costs nothing


@dataclass(frozen=True, slots=True)
class Corpus:
    """What was produced into one topic."""

    topic: str
    records: int
    distinct: int
    event_bytes: int


@dataclass(frozen=True, slots=True)
class Shape:
    """What to produce."""

    records: int
    event_bytes: int = 1_024
    tenants: int = TENANTS
    duplicates_every: int = DUPLICATES_EVERY
    first_tenant: int = 0  # shapes of other numbers have other tenants
    as_json: bool = False


def create(settings: Settings, topic: str, partitions: int) -> None:
    """A topic of this machine's broker, made anew: what was in it is gone."""
    admin = AdminClient({"bootstrap.servers": settings.kafka_url})
    if topic in admin.list_topics(timeout=WAIT_S).topics:
        admin.delete_topics([topic])[topic].result(WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while topic in admin.list_topics(timeout=WAIT_S).topics:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{topic} is still there")
        time.sleep(POLL_S)
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(WAIT_S)


def fill(settings: Settings, topic: str, shape: Shape, partitions: Sequence[int] = ()) -> Corpus:
    """Produce the records of that shape and wait until the broker has them; into all partitions, or some."""
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_url,
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 20,
            "batch.size": 256 << 10,
            "queue.buffering.max.messages": QUEUE_RECORDS,
        }
    )
    distinct = 0
    for number, (value, key, envelope, again) in enumerate(events(shape)):
        distinct += not again
        partition = partitions[zlib.crc32(key) % len(partitions)] if partitions else ANY_PARTITION
        while True:
            try:
                producer.produce(topic, value, key, partition, headers=envelope)  # type: ignore[arg-type]
                break
            except BufferError:
                producer.poll(0.1)
        if not number % POLL_EVERY:
            producer.poll(0)
    if producer.flush(WAIT_S * 4):
        raise RuntimeError(f"{topic}: the broker did not take all records")
    return Corpus(topic, shape.records, distinct, shape.event_bytes)


def skewed_tenants(count: int, first: int = 0) -> list[str]:
    """Tenants in the order of their events: of 50 the first has a seventh of them, the last a hundredth."""
    drawn = random.Random(count)
    names = [str(uuid.uuid5(uuid.NAMESPACE_OID, f"bench-{first + number}")) for number in range(count)]
    return [names[int(drawn.random() ** 2 * count)] for _ in range(max(SAMPLE, 2 * count))]


def events(shape: Shape) -> Iterator[tuple[bytes, bytes, list[tuple[str, bytes]], bool]]:
    """Value, key and headers of each record, and whether it is the one before, again."""
    schema, run = codec.schema("tracking-event"), uuid.uuid4().hex[:16]
    now = dt.datetime.now(dt.UTC)
    tenants = itertools.cycle(skewed_tenants(shape.tenants, shape.first_tenant))
    filler = ""
    made: tuple[bytes, bytes, list[tuple[str, bytes]]] | None = None
    for number in range(shape.records):
        if made is not None and not number % shape.duplicates_every:
            yield *made, True
            continue
        tenant, event_id = next(tenants), f"{run}-{number:012}"
        event: dict[str, object] = {
            "tenant_id": tenant,
            "event_id": event_id,
            "event_type": "click",
            "occurred_at": int(now.timestamp() * 1000) if shape.as_json else now,
            "received_at": int(now.timestamp() * 1000) if shape.as_json else now,
            "url": f"https://shop.example/p/{number:012}",
            "properties": filler,
        }
        value = orjson.dumps(event) if shape.as_json else schema.encode(event)
        if not filler:
            filler = "x" * max(1, shape.event_bytes - len(value))
            event["properties"] = filler
            value = orjson.dumps(event) if shape.as_json else schema.encode(event)
        made = value, tenant.encode(), headers(event_id, tenant, "click", schema.name)
        yield *made, False
