"""Records as they come off the wire of a real broker: whose turn it is."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from confluent_kafka import Producer

from app.transport import ConsumerThread
from tests.support.edge_parts import Parts

TOPIC = "tracking.collected"
BACKLOG, FEW, POLL = 5_000, 10, 500
FULL, FULL_TOO, FRESH = (TopicPartition(TOPIC, number) for number in range(3))
WAIT_S = 10.0


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    running = Parts(Path(tmp_path_factory.mktemp("fetched")))
    try:
        running.start_kafka()
        yield running
    finally:
        running.stop_all()


def fill(parts: Parts) -> None:
    producer = Producer({"bootstrap.servers": parts.settings.kafka_url})
    for place, count in ((FULL, BACKLOG), (FULL_TOO, BACKLOG), (FRESH, FEW)):
        for number in range(count):
            producer.produce(TOPIC, b"%d" % number, partition=place.partition)
    assert producer.flush(WAIT_S) == 0


async def test_partitions_take_turns_however_much_one_of_them_has(parts: Parts) -> None:
    """A partition with few records is served in the round in which it comes, and each keeps its order."""
    fill(parts)
    consumer = AIOKafkaConsumer(bootstrap_servers=parts.settings.kafka_url, auto_offset_reset="earliest")
    thread: Any = ConsumerThread.__new__(ConsumerThread)
    thread.consumer = SimpleNamespace(flow_active=True)
    await consumer.start()
    turns: list[TopicPartition] = []
    offsets: dict[TopicPartition, list[int]] = {FULL: [], FULL_TOO: [], FRESH: []}
    try:
        consumer.assign([*offsets])
        while sum(map(len, offsets.values())) < 2 * BACKLOG + FEW:
            found = await thread._fetch_records(consumer, {*offsets}, timeout=WAIT_S, max_records=POLL)
            assert found, "all is there"
            turns += found
            for place, records in found.items():
                offsets[place] += [record.offset for record in records]
    finally:
        await consumer.stop()
    assert {*turns[:3]} == {*offsets}, turns
    assert offsets == {place: [*range(FEW if place == FRESH else BACKLOG)] for place in offsets}
