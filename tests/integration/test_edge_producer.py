"""The producer against a real broker that goes away, hangs, and comes back."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.producer import NotProduced, Producer, Record
from tests.support.edge_parts import Parts

TOPIC = "tracking.collected"
TIMEOUT_MS = 1_800
REPLACED = "kafka producer replaced"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    running = Parts(Path(tmp_path_factory.mktemp("producer")))
    try:
        running.start_kafka()
        yield running
    finally:
        running.stop_all()


@pytest.fixture
async def producer(parts: Parts) -> AsyncIterator[Producer]:
    made = Producer(parts.settings.kafka_url, timeout_ms=TIMEOUT_MS)
    yield made
    await made.close()


def records(prefix: str, count: int) -> list[Record]:
    return [
        Record(TOPIC, b"tenant", f"{prefix}{i}".encode(), [("ce_id", f"{prefix}{i}".encode())]) for i in range(count)
    ]


def values(parts: Parts, prefix: str) -> list[str]:
    return [m.value().decode() for m in parts.records(TOPIC) if m.value().decode().startswith(prefix)]


async def test_confirmed_records_are_in_the_topic_in_order(parts: Parts, producer: Producer) -> None:
    """What `send_many` returned for is in Kafka, once and in the order given."""
    await asyncio.gather(*[producer.send_many(records(f"a{n}-", 100)) for n in range(20)])
    for n in range(20):
        assert values(parts, f"a{n}-") == [f"a{n}-{i}" for i in range(100)]


async def test_a_hanging_broker_is_reported_in_time_and_recovered_from(parts: Parts, producer: Producer) -> None:
    """A broker that hangs past every timeout costs NotProduced in time, and the same producer goes on."""
    await producer.send_many(records("before-", 1))
    broker = parts.processes["kafka"]
    broker.send_signal(signal.SIGSTOP)
    try:
        refused = 0
        # Longer than delivery.timeout.ms and librdkafka's scan of it: records expire inside the library.
        until = time.monotonic() + 3 * TIMEOUT_MS / 1000
        while time.monotonic() < until:
            with pytest.raises(NotProduced) as caught:
                await producer.send_many(records(f"hung{refused}-", 5))
            assert caught.value.reason == "timeout"
            refused += 1
        assert refused
    finally:
        broker.send_signal(signal.SIGCONT)
    confirmed = await _confirmed_again(producer, "after-")
    found = values(parts, "after-")
    assert len(found) == len(set(found))
    assert {f"after-{confirmed}-{i}" for i in range(5)} <= set(found)


async def test_a_client_that_stays_silent_is_replaced(parts: Parts) -> None:
    """A client without one confirmation for too long gives way to a new one; one that confirms is kept."""
    producer = Producer(parts.settings.kafka_url, timeout_ms=TIMEOUT_MS, silent_s_max=2 * TIMEOUT_MS / 1000)
    with capture_logs() as lines:
        await _confirmed_again(producer, "well-")
        broker = parts.processes["kafka"]
        broker.send_signal(signal.SIGSTOP)
        try:
            for n in range(3):
                with pytest.raises(NotProduced):
                    await producer.send_many(records(f"silent{n}-", 5))
            assert [line["event"] for line in lines].count(REPLACED) == 1
        finally:
            broker.send_signal(signal.SIGCONT)
        confirmed = await _confirmed_again(producer, "new-")
        for n in range(3):
            await producer.send_many(records(f"kept{n}-", 1))
    await producer.close()
    assert {f"new-{confirmed}-{i}" for i in range(5)} <= set(values(parts, "new-"))
    assert [line["event"] for line in lines].count(REPLACED) == 1


async def test_a_client_that_confirms_others_is_kept(parts: Parts) -> None:
    """One send that never ends says nothing of a client that confirms those behind it."""
    producer = Producer(parts.settings.kafka_url, timeout_ms=TIMEOUT_MS, silent_s_max=TIMEOUT_MS / 2000)
    await _confirmed_again(producer, "first-")
    with capture_logs() as lines:
        lost = asyncio.ensure_future(producer.send("there.is.no.such.topic", b"tenant", b"lost", []))
        confirmed = 0
        while not lost.done():
            await producer.send_many(records(f"beside{confirmed}-", 1))
            confirmed += 1
        with pytest.raises(NotProduced):
            await lost
    await producer.close()
    assert confirmed
    assert [line["event"] for line in lines].count(REPLACED) == 0


async def test_a_killed_broker_comes_back_to_the_same_producer(parts: Parts, producer: Producer) -> None:
    """After kill -9 of the broker and time for everything to expire, the same producer confirms again."""
    await producer.send_many(records("alive-", 10))
    parts.stop("kafka", signal.SIGKILL)
    for n in range(3):
        with pytest.raises(NotProduced):
            await producer.send_many(records(f"dead{n}-", 5))
    await asyncio.to_thread(parts.start_kafka, topics=False)
    confirmed = await _confirmed_again(producer, "risen-")
    found = values(parts, "risen-")
    assert {f"risen-{confirmed}-{i}" for i in range(5)} <= set(found)
    assert len(values(parts, "alive-")) == 10


async def test_a_full_queue_refuses_at_once(parts: Parts) -> None:
    """More than the queue holds is refused, not kept: memory is bounded while Kafka is away."""
    lonely = Producer("127.0.0.1:1", timeout_ms=60_000, queue_kilobytes_max=64)
    value = b"x" * 1_000
    with pytest.raises(NotProduced) as caught:
        await lonely.send_many([Record(TOPIC, b"t", value, []) for _ in range(200)])
    assert caught.value.reason == "queue_full"
    assert lonely.queued < 200
    waiting = asyncio.ensure_future(lonely.send_many([Record(TOPIC, b"t", b"small", [])]))
    await asyncio.to_thread(lonely.abandon)
    await lonely.close()
    with pytest.raises(NotProduced):
        await waiting


async def test_a_record_above_the_topic_limit_is_named(producer: Producer) -> None:
    """A record that no retry can bring in is `too_large`, not a timeout."""
    with pytest.raises(NotProduced) as caught:
        await producer.send_many([Record(TOPIC, b"t", bytes(6 << 20), [])])
    assert caught.value.reason == "too_large"


async def _confirmed_again(producer: Producer, prefix: str) -> int:
    until = time.monotonic() + 30
    attempt = 0
    while True:
        try:
            await producer.send_many(records(f"{prefix}{attempt}-", 5))
        except NotProduced:
            assert time.monotonic() < until, "the producer did not recover"
            attempt += 1
        else:
            return attempt
