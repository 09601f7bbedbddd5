"""Records on their way: timed from the moment of producing until a query finds them.

A record is queryable once its partition's highest offset in the table has reached it.
"""

import contextlib
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from confluent_kafka import Message, Producer

from loadtest.arena import TABLE, Arena
from loadtest.corpus import ANY_PARTITION
from schemas.topics import TRACKING_COLLECTED

PROBE_EVERY = 97  # one record in so many is timed: a prime, so that no partition is preferred
SLICE_S = 0.01  # the producer's clock
LOOK_S = 0.1  # each look is a query: more of them would be part of what is measured
UNSEEN_S = 30.0
BUSY = "MEMORY_LIMIT_EXCEEDED"  # inserts have all that the engine may use

Made = Iterable[tuple[bytes, bytes, list[tuple[str, bytes]], bool]]  # of loadtest/corpus.py


def seconds(times_ms: list[float]) -> dict[str, float]:
    """Median and 99th percentile of times in milliseconds, in seconds."""
    points = statistics.quantiles(times_ms, n=100, method="inclusive")
    return {"p50_s": round(points[49] / 1000, 3), "p99_s": round(points[98] / 1000, 3)}


class Probes:
    """A steady stream of records into a worker's topic, some of them timed.

    `where` narrows the question, as a user's would be: without it each look reads two columns of all rows.
    """

    def __init__(self, arena: Arena, database: str, *, where: str = "", every: int = PROBE_EVERY) -> None:
        self.arena = arena
        self.database = database
        self.every = every
        self.times_ms: list[float] = []
        self.sent = 0
        self._waiting: list[tuple[int, int, float]] = []  # partition, offset, produced at
        self._lock = threading.Lock()
        self._stop = threading.Event()
        narrowed = f"WHERE {where} " if where else ""
        self._query = (
            f"SELECT _partition, max(_offset) FROM {database}.{TABLE} {narrowed}"  # noqa: S608 - names of ours
            "GROUP BY _partition FORMAT TabSeparated"
        )

    @contextlib.contextmanager
    def flowing(self, made: Made, rate: float, partition: int = ANY_PARTITION) -> Iterator[threading.Thread]:
        """So many a second while the body runs, and looked for until all of them were found."""
        self.arena.await_rows(self.database)
        producing = threading.Thread(target=self._produce, args=(made, rate, partition), daemon=True)
        looking = threading.Thread(target=self._watch, args=(producing,), daemon=True)
        for thread in (producing, looking):
            thread.start()
        try:
            yield producing
        finally:
            self._stop.set()
            producing.join(UNSEEN_S)
            looking.join(UNSEEN_S * 2)
        if self._waiting or not self.times_ms:
            raise RuntimeError(f"{len(self._waiting)} records were not queryable after {UNSEEN_S} s")

    def figures(self) -> dict[str, Any]:
        """How many were timed, and what they took."""
        return {"probes": len(self.times_ms), **seconds(self.times_ms)}

    def _watch(self, producing: threading.Thread) -> None:
        deadline = float("inf")
        while producing.is_alive() or (self._waiting and time.monotonic() < deadline):
            if not producing.is_alive():
                deadline = min(deadline, time.monotonic() + UNSEEN_S)
            self._look()
            time.sleep(LOOK_S)

    def _look(self) -> None:
        try:
            answer = self.arena.ask(self._query)
        except RuntimeError as error:
            if BUSY not in str(error):
                raise
            return  # the next look tells
        reached = {int(partition): int(offset) for partition, offset in map(str.split, answer.splitlines())}
        now = time.monotonic()
        with self._lock:
            left = [probe for probe in self._waiting if reached.get(probe[0], -1) < probe[1]]
            seen = [probe for probe in self._waiting if reached.get(probe[0], -1) >= probe[1]]
            self._waiting = left
        self.times_ms += [(now - at) * 1000 for _, _, at in seen]

    def _produce(self, made: Made, rate: float, partition: int) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self.arena.settings.kafka_url,
                "partitioner": "murmur2_random",
                "compression.type": "lz4",
                "linger.ms": 5,
            }
        )
        began, sent = time.monotonic(), 0
        for value, key, envelope, _ in made:
            while sent >= int((time.monotonic() - began) * rate) and not self._stop.is_set():
                producer.poll(0)
                time.sleep(SLICE_S)
            if self._stop.is_set():
                break
            sent += 1
            told = self._told(time.monotonic()) if not sent % self.every else None
            producer.produce(
                TRACKING_COLLECTED.name, value, key, partition,
                headers=envelope,  # type: ignore[arg-type]
                on_delivery=told,
            )  # fmt: skip
        producer.flush(UNSEEN_S)
        self.sent = sent

    def _told(self, at: float) -> Callable[[Any, Message], None]:
        def delivered(error: Any, record: Message) -> None:
            if error is None:
                with self._lock:
                    self._waiting.append((record.partition() or 0, record.offset() or 0, at))

        return delivered
