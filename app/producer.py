"""The way into Kafka: every record of the edge and every output of a pipeline leaves through this producer.

A result of success means that all in-sync replicas have the record. A `NotProduced` means *unknown*: the record may
still arrive after it was raised. Whoever retries does it with the same event id, and the dedupe step drops the second.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Iterable
from typing import Final, NamedTuple

import confluent_kafka
import structlog
from confluent_kafka import KafkaError, KafkaException

from app.telemetry import metrics
from schemas.envelope import Headers

LINGER_MS: Final = 2  # one client alone waits this long; under load batches fill by themselves
QUEUE_RECORDS_MAX: Final = 200_000  # librdkafka's own queue; about 0.5 kB of bookkeeping each
QUEUE_KILOBYTES_MAX: Final = 128 << 10  # with the in-flight limit of the edge this is never the first to fill
RECORD_BYTES_MAX: Final = 4 << 20  # the largest record_bytes_max in schemas/topics.py
POLL_S: Final = 0.1  # how long the poller sleeps in librdkafka when nothing comes back
CLOSE_S: Final = 10.0  # what `close` gives the queue to drain
RECONNECT_MS_MAX: Final = 1_000  # back within about a second of the broker
SOCKET_TIMEOUT_MS: Final = 10_000  # a request in flight on a dead connection; above any healthy produce
RETRY_BACKOFF_MS_MAX: Final = 500  # a retry still fits into the delivery time of the edge

WARN_EVERY_S: Final = 10.0  # a broker that is away fails to connect twice a second

log = structlog.get_logger(__name__)


class Record(NamedTuple):
    """One record to be produced. The key decides the partition: the tenant, or the tenant and its shard.

    Only a record from the DLQ may lack key or value: it goes back as it was.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


class NotProduced(Exception):  # noqa: N818 - it names what is known: no confirmation came
    """Kafka did not confirm in time. `reason`: timeout, queue_full, too_large, broker or closed."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class _Confirmation:
    """Counts the records of one `send_many` down and settles one future, however many records there are."""

    __slots__ = ("_finished", "_left", "error", "future")

    def __init__(self, expected: int, future: "asyncio.Future[None]", finished: list["_Confirmation"]) -> None:
        self._left = expected
        self._finished = finished
        self.future = future
        self.error: KafkaError | None = None

    def __call__(self, error: KafkaError | None, _record: object) -> None:
        if error is not None:
            self.error = error
        self._left -= 1
        if self._left == 0:
            self._finished.append(self)


class Producer:
    """One librdkafka producer, one poller thread, one event loop. Create and close it inside the loop."""

    def __init__(
        self,
        bootstrap: str,
        *,
        timeout_ms: int,
        client_id: str = "afluente",
        queue_kilobytes_max: int = QUEUE_KILOBYTES_MAX,
    ) -> None:
        self._timeout_s = timeout_ms / 1000
        self._options: dict[str, str | int | float | bool] = {
            "bootstrap.servers": bootstrap,
            "client.id": client_id,
            "acks": "all",
            "enable.idempotence": True,
            # Equal to Java's default partitioner for records with a key, as every producer of a topic must be.
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": LINGER_MS,
            "delivery.timeout.ms": timeout_ms,
            "queue.buffering.max.messages": QUEUE_RECORDS_MAX,
            "queue.buffering.max.kbytes": queue_kilobytes_max,
            "message.max.bytes": RECORD_BYTES_MAX,
            "reconnect.backoff.ms": 100,
            "reconnect.backoff.max.ms": RECONNECT_MS_MAX,
            "retry.backoff.ms": 50,
            "retry.backoff.max.ms": RETRY_BACKOFF_MS_MAX,
            "socket.timeout.ms": SOCKET_TIMEOUT_MS,
            "log.connection.close": False,
        }
        self._loop = asyncio.get_running_loop()
        self._finished: list[_Confirmation] = []
        self._closing = threading.Event()
        self._fatal = threading.Event()
        self._warned_at = -WARN_EVERY_S
        self._retired: list[confluent_kafka.Producer] = []
        self._kafka = self._connect()
        self._poller = threading.Thread(target=self._poll, name="producer-poller", daemon=True)
        self._poller.start()

    @property
    def queued(self) -> int:
        """Records that wait for a confirmation."""
        return len(self._kafka)

    def send(self, topic: str, key: bytes, value: bytes, headers: Headers) -> Awaitable[None]:
        """Produce one record; the awaitable ends when the broker has confirmed it, or raises NotProduced."""
        return self.send_many([Record(topic, key, value, headers)])

    async def send_many(self, records: Iterable[Record], timeout_s: float | None = None) -> None:
        """Produce records; return when every one is confirmed. NotProduced when one is not: retry them all."""
        records = list(records)
        if not records:
            return
        confirmation = self._enqueue(records)
        try:
            # librdkafka looks for expired records once a second only: the promise of time is kept here.
            async with asyncio.timeout(timeout_s if timeout_s is not None else self._timeout_s):
                await confirmation.future
        except TimeoutError:
            self._count(records, "timeout")
            raise NotProduced("timeout", "Kafka did not confirm in time") from None
        if confirmation.error is not None:
            failure = _not_produced(confirmation.error)
            self._count(records, failure.reason)
            raise failure
        self._count(records, "confirmed")

    async def topics(self, timeout_s: float) -> set[str]:
        """The topics the brokers know. NotProduced when none answers in time. For probes, not for the path."""
        try:
            found = await asyncio.to_thread(self._kafka.list_topics, timeout=timeout_s)
        except KafkaException as exception:
            raise _not_produced(exception.args[0]) from None
        return set(found.topics)

    def abandon(self) -> None:
        """Give up on everything queued or in flight: those who wait get NotProduced. What arrives, arrives."""
        self._kafka.purge()

    async def close(self) -> None:
        """Send what is queued, for at most CLOSE_S, then stop. What is left then is reported as not produced."""
        self._closing.set()
        await asyncio.to_thread(self._poller.join)

    def _enqueue(self, records: list[Record]) -> _Confirmation:
        if self._closing.is_set():
            raise NotProduced("closed", "this process is stopping")
        if self._fatal.is_set():
            self._replace()
        confirmation = _Confirmation(len(records), self._loop.create_future(), self._finished)
        produce = self._kafka.produce
        try:
            for topic, key, value, headers in records:
                produce(topic, value, key, on_delivery=confirmation, headers=headers)  # type: ignore[arg-type]
        except BufferError:
            # Those before may arrive, as after any NotProduced; nobody waits for this confirmation any more.
            self._count(records, "queue_full")
            raise NotProduced("queue_full", "too many records wait for Kafka") from None
        except KafkaException as exception:
            failure = _not_produced(exception.args[0])
            self._count(records, failure.reason)
            raise failure from None
        return confirmation

    def _connect(self) -> confluent_kafka.Producer:
        return confluent_kafka.Producer({**self._options, "error_cb": self._on_error, "logger": _LibrdkafkaLog()})

    def _on_error(self, error: KafkaError) -> None:
        # The only errors librdkafka does not recover from by itself are fatal ones: the sequence of an
        # idempotent producer is broken for good, and a new producer (a new producer id) goes on.
        if error.fatal():
            self._fatal.set()
        now = time.monotonic()
        if error.fatal() or now - self._warned_at >= WARN_EVERY_S:
            self._warned_at = now
            log.warning("kafka producer", error=error.name(), detail=error.str(), fatal=error.fatal())

    def _replace(self) -> None:
        # The poller goes on serving the old one until its delivery reports (all failed) have reached their waiters.
        self._retired.append(self._kafka)
        self._kafka.purge()
        self._kafka = self._connect()
        self._fatal.clear()

    def _poll(self) -> None:
        """The poller thread: the only one that runs delivery reports, so that counting needs no lock."""
        while not self._closing.is_set():
            self._kafka.poll(POLL_S)
            self._serve_retired()
            self._wake_loop()
        self._kafka.flush(CLOSE_S)
        left = len(self._kafka)
        if left:
            log.warning("producer closed with records unconfirmed", records=left)
            self._kafka.purge()
            self._kafka.flush(POLL_S)
        self._wake_loop()

    def _serve_retired(self) -> None:
        for retired in list(self._retired):
            retired.poll(0)
            if len(retired) == 0:
                self._retired.remove(retired)

    def _wake_loop(self) -> None:
        if not self._finished:
            return
        finished = self._finished.copy()
        self._finished.clear()
        # One call for everything that came back: a wake-up of the loop costs more than a record.
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, finished)

    @staticmethod
    def _settle(finished: list[_Confirmation]) -> None:
        for confirmation in finished:
            if not confirmation.future.done():
                confirmation.future.set_result(None)

    @staticmethod
    def _count(records: list[Record], outcome: str) -> None:
        metrics.PRODUCED.labels(records[0].topic, outcome).inc(len(records))


class _LibrdkafkaLog:
    """librdkafka's log lines into ours. It calls `log(level, ...)` like a stdlib logger."""

    def log(self, level: int, *parts: object) -> None:
        """One line; the format string and its arguments as `logging` would take them."""
        text = str(parts[0]) % parts[1:] if len(parts) > 1 else str(parts[0]) if parts else ""
        log.debug("librdkafka", level=level, line=text)


def _not_produced(error: KafkaError) -> NotProduced:
    code = error.code()
    if code in {KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT}:  # noqa: SLF001 - the library's public names
        return NotProduced("timeout", "Kafka did not confirm in time")
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        return NotProduced("too_large", error.str())
    if code == KafkaError._QUEUE_FULL:  # noqa: SLF001
        return NotProduced("queue_full", error.str())
    return NotProduced("broker", f"{error.name()}: {error.str()}")
