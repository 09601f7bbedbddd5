"""The way into Kafka: every record of the edge and every output of a pipeline leaves through this producer.

A result of success means that all in-sync replicas have the record. A `NotProduced` means *unknown*: the record may
still arrive after it was raised. Whoever retries does it with the same event id, and the dedupe step drops the second.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import cache
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
POLL_S: Final = 0.001  # between two looks for confirmations while some are awaited
IDLE_POLL_S: Final = 0.1  # otherwise: librdkafka's errors and log lines wait for a look as well
CLOSE_S: Final = 10.0  # what `close` gives the queue to drain
RECONNECT_MS_MAX: Final = 1_000  # back within about a second of the broker
SOCKET_TIMEOUT_MS: Final = 10_000  # a request in flight on a dead connection; above any healthy produce
RETRY_BACKOFF_MS_MAX: Final = 500  # a retry still fits into the delivery time of the edge
# Without one confirmation while records wait: a client that is well is back sooner, for it gives up a dead connection
# after SOCKET_TIMEOUT_MS and connects once a second. One was seen to confirm nothing for a minute after a frozen broker
# had woken, while new clients of the same broker worked at once.
SILENT_S_MAX: Final = 20.0

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

    __slots__ = ("_heard", "_left", "deadline", "error", "expired", "future")

    def __init__(
        self, expected: int, future: "asyncio.Future[None]", deadline: float, heard: Callable[[], None]
    ) -> None:
        self._left = expected
        self._heard = heard
        self.future = future
        self.deadline = deadline
        self.error: KafkaError | None = None
        self.expired = False

    def __call__(self, error: KafkaError | None, _record: object) -> None:
        if error is not None:
            self.error = error
        self._left -= 1
        if self._left:
            return
        if self.error is None:
            self._heard()
        if not self.future.done():
            self.future.set_result(None)

    def expire(self) -> None:
        """Time is up. Late reports find nobody waiting."""
        if not self.future.done():
            # An exception kept by a future would hold the records in a circle that only the collector breaks.
            self.expired = True
            self.future.set_result(None)


class Producer:
    """One librdkafka producer served by one event loop. Create, use and close it inside the loop.

    Delivery reports are fetched by the loop itself, every POLL_S while there is one to come: a thread that waits for
    them fights the loop for the interpreter at every record, which costs more than the rest of the way into Kafka.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        timeout_ms: int,
        client_id: str = "afluente",
        queue_kilobytes_max: int = QUEUE_KILOBYTES_MAX,
        silent_s_max: float = SILENT_S_MAX,
    ) -> None:
        self._timeout_s = timeout_ms / 1000
        self._silent_s_max = silent_s_max
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
        self._awaited: deque[_Confirmation] = deque()  # in the order of their deadlines
        self._closing = False
        self._fatal = False
        self._silent_since: float | None = None  # the first send after the last confirmation
        self._warned_at = -WARN_EVERY_S
        self._retired: list[confluent_kafka.Producer] = []
        self._kafka = self._connect()
        self._next_poll = self._loop.call_later(IDLE_POLL_S, self._poll)
        self._idle = True

    @property
    def queued(self) -> int:
        """Records that wait for a confirmation."""
        return len(self._kafka)

    @property
    def awaited(self) -> int:
        """Sends that wait for a confirmation."""
        return len(self._awaited)

    @property
    def oldest_s(self) -> float:
        """For how long the oldest of them has waited."""
        return self._loop.time() - self._awaited[0].deadline + self._timeout_s if self._awaited else 0.0

    def send(self, topic: str, key: bytes, value: bytes, headers: Headers) -> Awaitable[None]:
        """Produce one record; the awaitable ends when the broker has confirmed it, or raises NotProduced."""
        return self.send_many([Record(topic, key, value, headers)])

    async def send_many(self, records: Iterable[Record]) -> None:
        """Produce records; return when every one is confirmed. NotProduced when one is not: retry them all."""
        records = list(records)
        if not records:
            return
        try:
            confirmation = self._enqueue(records)
            await confirmation.future
            if confirmation.expired:
                raise NotProduced("timeout", "Kafka did not confirm in time")
            if confirmation.error is not None:
                raise _not_produced(confirmation.error)
        except NotProduced as failure:
            _produced(records[0].topic, failure.reason).inc(len(records))
            raise
        _produced(records[0].topic, "confirmed").inc(len(records))

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
        self._closing = True
        until = self._loop.time() + CLOSE_S
        while len(self._kafka) and self._loop.time() < until:
            await asyncio.sleep(POLL_S)
            self._serve()
        left = len(self._kafka)
        if left:
            log.warning("producer closed with records unconfirmed", records=left)
            self._kafka.purge()
            self._kafka.poll(IDLE_POLL_S)
        self._next_poll.cancel()

    def _enqueue(self, records: list[Record]) -> _Confirmation:
        if self._closing:
            raise NotProduced("closed", "this process is stopping")
        if self._fatal:
            self._replace()
        now = self._loop.time()
        deadline = now + self._timeout_s
        confirmation = _Confirmation(len(records), self._loop.create_future(), deadline, self._heard)
        produce = self._kafka.produce
        try:
            for topic, key, value, headers in records:
                produce(topic, value, key, on_delivery=confirmation, headers=headers)  # type: ignore[arg-type]
        except BufferError:
            # Those before may arrive, as after any NotProduced; nobody waits for this confirmation any more.
            raise NotProduced("queue_full", "too many records wait for Kafka") from None
        except KafkaException as exception:
            raise _not_produced(exception.args[0]) from None
        self._awaited.append(confirmation)
        if self._silent_since is None:
            self._silent_since = now
        if self._idle:
            self._idle = False
            self._next_poll.cancel()
            self._next_poll = self._loop.call_later(POLL_S, self._poll)
        return confirmation

    def _connect(self) -> confluent_kafka.Producer:
        return confluent_kafka.Producer({**self._options, "error_cb": self._on_error, "logger": _LibrdkafkaLog()})

    def _on_error(self, error: KafkaError) -> None:
        # The only errors librdkafka does not recover from by itself are fatal ones: the sequence of an
        # idempotent producer is broken for good, and a new producer (a new producer id) goes on.
        if error.fatal():
            self._fatal = True
        now = time.monotonic()
        if error.fatal() or now - self._warned_at >= WARN_EVERY_S:
            self._warned_at = now
            log.warning("kafka producer", error=error.name(), detail=error.str(), fatal=error.fatal())

    def _replace(self) -> None:
        # The old one is served until its delivery reports (all failed) have reached their waiters.
        self._retired.append(self._kafka)
        self._kafka.purge()
        self._kafka = self._connect()
        self._fatal = False
        self._silent_since = None

    def _poll(self) -> None:
        """Serves delivery reports and deadlines, and asks to be called again."""
        self._serve()
        self._idle = not self._awaited
        self._next_poll = self._loop.call_later(IDLE_POLL_S if self._idle else POLL_S, self._poll)

    def _serve(self) -> None:
        self._kafka.poll(0)
        if self._retired:
            self._serve_retired()
        # librdkafka looks for expired records once a second only: the promise of time is kept here.
        now = self._loop.time()
        awaited = self._awaited
        while awaited and (awaited[0].future.done() or awaited[0].deadline <= now):
            first = awaited.popleft()
            first.expire()
            if first.expired or first.error is not None:
                self._replace_silent(now)

    def _heard(self) -> None:
        self._silent_since = None

    def _replace_silent(self, now: float) -> None:
        """Give up a client that says nothing for too long. What it still has is unknown, as after any timeout."""
        if self._silent_since is not None and now - self._silent_since >= self._silent_s_max:
            log.warning("kafka producer replaced", confirmed_nothing_for_s=round(now - self._silent_since, 1))
            self._replace()

    def _serve_retired(self) -> None:
        for retired in list(self._retired):
            retired.poll(0)
            if len(retired) == 0:
                self._retired.remove(retired)


# Topics and outcomes are few, and to find a label's counter costs more than to count.
_produced: Final = cache(metrics.PRODUCED.labels)


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
