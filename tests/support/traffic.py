"""Events straight into Kafka, as the edge would produce them: known to the last copy, with duplicates and poison."""

import asyncio
import copy
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from app import codec
from app.partition_key import partition_key
from app.producer import NotProduced, Producer, Record
from loadtest.history import History, Outcome, Stream
from loadtest.traffic import TRACKING
from schemas import envelope
from schemas.topics import TRACKING_COLLECTED
from schemas.tracking import CLICK, TRACKING_EVENT
from tests.support.oracle import MARK, worth

CONFIRM_S = 120.0  # longer than any outage of the suite
RETRY_S = 0.2
DUPLICATES = 0.1  # of all events: half of them in the same burst, half of them of an earlier one
PARTITIONS = TRACKING_COLLECTED.partitions


class Channel:
    """The project's own producer on an event loop in a thread: `send` returns when Kafka has confirmed."""

    def __init__(self, bootstrap: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._producer = asyncio.run_coroutine_threadsafe(self._open(bootstrap), self._loop).result()

    async def _open(self, bootstrap: str) -> Producer:
        return Producer(bootstrap, timeout_ms=5_000, client_id="fault-suite")

    def send(self, records: Sequence[Record]) -> int:
        """Produce until all are confirmed. Returns the number of attempts: all but the last are copies unknown."""
        return asyncio.run_coroutine_threadsafe(self._confirm(records), self._loop).result(CONFIRM_S)

    async def _confirm(self, records: Sequence[Record]) -> int:
        attempts = 1
        while True:
            try:
                await self._producer.send_many(records)
            except NotProduced:
                attempts += 1
                await asyncio.sleep(RETRY_S)
            else:
                return attempts

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._producer.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Traffic:
    """The events of one case: fresh tenants, each on a partition of its own, and a history of every copy."""

    def __init__(self, channel: Channel, seed: int, tenants: int = 3) -> None:
        self.history = History()
        self.poison: set[str] = set()
        self.poison_copies: Counter[str] = Counter()  # of a burst that was sent again, since Kafka had not answered
        self.tenants = _tenants(tenants)
        self._channel = channel
        self._schema = codec.Codec.load().schema(TRACKING_EVENT)
        self._random = random.Random(seed)
        self._sent: list[tuple[str, str]] = []
        self._began_ms = time.time_ns() // 1_000_000
        self._copies = 0
        self._lock = threading.Lock()  # a flow in the background and a burst in front share the history

    def burst(
        self, events: int, poisons: int = 3, *, padding: int = 0, duplicates: float = DUPLICATES
    ) -> list[tuple[str, str]]:
        """Send so many new events, a tenth as many duplicates and some poison; (tenant, id) of the new ones."""
        with self._lock:
            fresh = [(self.tenants[n % len(self.tenants)], str(uuid.uuid4())) for n in range(events)]
            copies = list(fresh)
            for n in range(int(events * duplicates)):
                earlier = self._sent if self._sent and n % 2 else fresh
                copies.insert(self._random.randrange(len(copies) // 2, len(copies) + 1), self._random.choice(earlier))
            self._send(copies, self._poison(poisons), padding)
            self._sent += fresh
        return fresh

    def alone(self, tenant: str) -> "Traffic":
        """The events of one of the tenants, into the same history."""
        one = copy.copy(self)
        one.tenants, one._sent = [tenant], []
        return one

    def forget(self) -> None:
        """Send no more duplicates of what was sent so far."""
        self._sent.clear()

    def again(self, events: Sequence[tuple[str, str]]) -> None:
        """Send another copy of each of these."""
        with self._lock:
            self._send(list(events), [], 0)

    def corrected(self, tenant: str, event_id: str) -> None:
        """A whole record under an id that was poison before."""
        with self._lock:
            self._send([(tenant, event_id)], [], 0)

    def poisoned(self, kind: str, count: int = 1) -> list[str]:
        """Send poison of one kind of the first tenant; returns the event ids."""
        with self._lock:
            made = [self._make_poison(kind, self.tenants[0]) for _ in range(count)]
            self._channel.send([record for _, record in made])
            return [event_id for event_id, _ in made]

    @contextmanager
    def flowing(self, events_a_second: float, poisons_each: int = 1) -> Iterator[None]:
        """Bursts in the background while the body runs; a failure of theirs is raised at the end."""
        stop = threading.Event()
        faults: list[BaseException] = []
        every_s = 0.2

        def flow() -> None:
            try:
                number = 0
                while not stop.wait(every_s):
                    number += 1
                    self.burst(max(1, int(events_a_second * every_s)), poisons_each if number % 5 == 0 else 0)
            except BaseException as fault:
                faults.append(fault)
                raise

        thread = threading.Thread(target=flow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(CONFIRM_S)
        assert not faults, f"the traffic failed: {faults[0]!r}"

    def deadly(self, mark: str, count: int = 1) -> list[str]:
        """Send whole records with a header that the build of tests/fault/pills.py dies of; they belong into the DLQ."""
        ids = [str(uuid.uuid4()) for _ in range(count)]
        records = [self._record(self.tenants[0], event_id) for event_id in ids]
        self.poison.update(ids)
        for event_id, one in zip(ids, records, strict=True):
            one.headers.extend([(mark, b"1"), (MARK, event_id.encode())])
        with self._lock:
            self._channel.send(records)
        return ids

    def _send(self, copies: list[tuple[str, str]], poison: list[Record], padding: int) -> None:
        records = [self._record(tenant, event_id, padding) for tenant, event_id in copies]
        for one in poison:
            records.insert(self._random.randrange(len(records) + 1), one)
        by_tenant = {tenant: [e for t, e in copies if t == tenant] for tenant in {t for t, _ in copies}}
        self._note(Outcome.INVOKED, by_tenant)
        marks = [value.decode() for one in poison for name, value in one.headers if name == MARK]
        for _ in range(self._channel.send(records) - 1):
            self.poison_copies.update(marks)
            self._note(Outcome.UNKNOWN, by_tenant)
            self._note(Outcome.INVOKED, by_tenant)
        self._note(Outcome.ACCEPTED, by_tenant)

    def _note(self, outcome: Outcome, by_tenant: dict[str, list[str]]) -> None:
        for tenant, events in by_tenant.items():
            self.history.note(outcome, Stream(tenant, TRACKING), events)

    def _record(self, tenant: str, event_id: str, padding: int = 0) -> Record:
        headers = envelope.headers(event_id, tenant, CLICK, self._schema.latest.name)
        return Record(TRACKING_COLLECTED.name, tenant.encode(), self._value(tenant, event_id, padding), headers)

    def _value(self, tenant: str, event_id: str, padding: int) -> bytes:
        # No two copies share a time: ReplacingMergeTree would merge them and hide the second.
        self._copies += 1
        now_ms = self._began_ms + self._copies
        event = {
            "tenant_id": tenant,
            "event_id": event_id,
            "event_type": CLICK,
            "occurred_at": now_ms,
            "received_at": now_ms,
            "url": "https://shop.example/" + "x" * padding,
            "value": worth(event_id),
            "currency": "BRL",
        }
        return self._schema.encode(event)

    def _poison(self, count: int) -> list[Record]:
        kinds = list(POISON)
        return [
            self._make_poison(kinds[(len(self.poison) + n) % len(kinds)], self._random.choice(self.tenants))[1]
            for n in range(count)
        ]

    def _make_poison(self, kind: str, tenant: str) -> tuple[str, Record]:
        mark = str(uuid.uuid4())
        self.poison.add(mark)
        whole = self._record(tenant, mark)
        topic, key, value, headers = POISON[kind](whole)
        return mark, Record(topic, key, value, [*headers, (MARK, mark.encode())])


def _without_headers(record: Record) -> Record:
    return record._replace(headers=[])


def _of_another_tenant(record: Record) -> Record:
    other = str(uuid.uuid4())
    return record._replace(
        headers=[(n, other.encode() if n == envelope.HEADER_TENANT else v) for n, v in record.headers]
    )


def _with_bad_magic(record: Record) -> Record:
    return record._replace(value=b"\x01" + (record.value or b"")[1:])


def _unreadable(record: Record) -> Record:
    # The envelope is right, so inspection lets it pass: it is ClickHouse that refuses the datum.
    return record._replace(value=(record.value or b"")[: codec.PREFIX_BYTES + 37] + b"\xff" * 40)


POISON: dict[str, Callable[[Record], Record]] = {
    "missing_header": _without_headers,
    "tenant_mismatch": _of_another_tenant,
    "bad_wire_format": _with_bad_magic,
    "refused_by_clickhouse": _unreadable,
}


def _tenants(count: int) -> list[str]:
    """New tenants whose keys fall on different partitions."""
    from aiokafka.partitioner import murmur2  # noqa: PLC0415 - beside its only use

    found: dict[int, str] = {}
    while len(found) < count:
        tenant = str(uuid.uuid4())
        found.setdefault((murmur2(partition_key(tenant, "", 1)) & 0x7FFFFFFF) % PARTITIONS, tenant)
    return list(found.values())
