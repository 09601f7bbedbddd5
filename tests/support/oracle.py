"""What must be true after a fault: everything confirmed is a row, once; poison is in the DLQ; nothing is in flight.

Counting is loadtest/history.py's; this adds the consumer group's own view and the DLQ.
"""

import asyncio
import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx
from aiokafka.errors import KafkaError
from confluent_kafka import Consumer, KafkaException, TopicPartition

from app import progress
from app.batch import TP
from app.dlq import SOURCE_OFFSET, SOURCE_PARTITION, SOURCE_TOPIC, SOURCE_TOPIC_ID
from app.ranges import Range
from app.settings import GROUP_ID, Settings
from loadtest.history import History, Stream, Verdict
from loadtest.rows import Rows, verdicts
from loadtest.traffic import SALES, TRACKING
from schemas.envelope import header
from schemas.topics import GATEWAY_RECEIVED, GATEWAY_RECEIVED_DLQ, TRACKING_COLLECTED, TRACKING_COLLECTED_DLQ

MARK = "test_mark"  # header of a poison record: which one it is, whatever else is wrong with it
ASK_S = 10.0
PAGE_ROWS = 1_000
PATHS = {TRACKING: "/tracking/events", SALES: "/sales"}
EXAMPLES_MAX = 5  # of each kind of fault and tenant
POLL_S = 0.2
MERGED_PARTS_MAX = 300  # a tenth of the parts at which ClickHouse begins to refuse inserts
MERGE_S = 120.0  # for thousands of parts, or to drop them
SOURCES = (TRACKING_COLLECTED, GATEWAY_RECEIVED)
DEAD = (TRACKING_COLLECTED_DLQ, GATEWAY_RECEIVED_DLQ)
UNMERGED = {
    "max_bytes_to_merge_at_max_space_in_pool": 1,
    "max_bytes_to_merge_at_min_space_in_pool": 1,
    "parts_to_delay_insert": 100_000,
    "parts_to_throw_insert": 100_000,
}
COORDINATES = (SOURCE_TOPIC, SOURCE_TOPIC_ID, SOURCE_PARTITION, SOURCE_OFFSET)


def worth(event_id: str) -> Decimal:
    """What an event of the suite is worth: known to whoever knows its id, and hardly ever the same twice."""
    return Decimal(zlib.crc32(event_id.encode()) % 10_000_000).scaleb(-2)


@dataclass(frozen=True, slots=True)
class Finding:
    """The sum of the verdicts on all tenants of a case, and what the DLQ holds beside what it should."""

    accepted: int
    events: int
    rows: int
    missing: int
    duplicates: int
    phantom: int
    dead: int
    dead_missing: int
    dead_strange: int
    money_off: Decimal = Decimal(0)  # what the tables sum up to, less what their events are worth
    examples: tuple[str, ...] = ()  # places of rows that are there twice, and ids that are missing or strange

    @property
    def right(self) -> bool:
        return not (
            self.missing or self.duplicates or self.phantom or self.dead_missing or self.dead_strange or self.money_off
        )


class Oracle:
    """Questions to Kafka and ClickHouse of one stack, asked as any client would."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rows = Rows(settings)
        self._kafka = Consumer(
            {"bootstrap.servers": settings.kafka_url, "group.id": "oracle", "enable.auto.commit": False}
        )

    def forbid_merges(self) -> None:
        """Keep every row of the event tables as it was inserted, for good.

        Their engine merges rows of equal key in the background: it would hide a range inserted twice from `count()`.
        """
        self._alter("MODIFY SETTING " + ", ".join(f"{setting} = {value}" for setting, value in UNMERGED.items()))

    def let_merge(self) -> int:
        """Let the tables merge what was judged, until they have few parts; then no more. How many parts are left."""
        self._alter("RESET SETTING " + ", ".join(UNMERGED))
        deadline = time.monotonic() + MERGE_S
        while (parts := self._parts()) > MERGED_PARTS_MAX:
            assert time.monotonic() < deadline, f"{parts} parts, and ClickHouse does not merge them"
            time.sleep(POLL_S)
        self.forbid_merges()
        return parts

    def forget(self) -> None:
        """Empty the event tables: each part that may not be merged makes all later inserts slower."""
        for table in (TRACKING, SALES):
            self._ask(f"TRUNCATE TABLE {self._settings.clickhouse_database}.{table}", MERGE_S)

    def _parts(self) -> int:
        return int(self._ask(f"SELECT count() FROM system.parts WHERE active AND table IN ('{TRACKING}', '{SALES}')"))

    def _alter(self, change: str) -> None:
        for table in (TRACKING, SALES):
            self._ask(f"ALTER TABLE {self._settings.clickhouse_database}.{table} {change}")

    def _ask(self, query: str, timeout_s: float = ASK_S) -> str:
        answer = httpx.post(self._settings.clickhouse_url, content=query, timeout=timeout_s, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.text

    def close(self) -> None:
        self._rows.close()
        self._kafka.close()

    def ends(self, *topics: str) -> dict[TP, int]:
        """Where each partition ends now."""
        found = {}
        for topic in topics:
            for partition in self._kafka.list_topics(topic, timeout=ASK_S).topics[topic].partitions:
                found[TP(topic, partition)] = self._end(topic, partition)
        return found

    def _end(self, topic: str, partition: int) -> int:
        """One of them; a leader that has just moved is asked again."""
        until = time.monotonic() + ASK_S
        while True:
            try:
                return int(self._kafka.get_watermark_offsets(TopicPartition(topic, partition), timeout=ASK_S)[1])
            except KafkaException:
                if time.monotonic() > until:
                    raise
                time.sleep(POLL_S)

    def positions(self) -> dict[TP, tuple[int, Range | None]]:
        """Committed offset and pending range of each source partition."""
        partitions = set(self.ends(*(topic.name for topic in SOURCES)))
        return asyncio.run(progress.read(self._settings.kafka_url, GROUP_ID, partitions))

    def answers(self) -> bool:
        """Whether Kafka says where the group is."""
        try:
            return bool(self.positions())
        except (KafkaError, KafkaException):
            return False

    def pending(self) -> list[Range]:
        """The ranges that are open."""
        return [span for _, span in self.positions().values() if span is not None]

    def behind(self) -> dict[TP, tuple[int, int]]:
        """(committed, end) of each partition that is not wholly durable."""
        positions, ends = self.positions(), self.ends(*(topic.name for topic in SOURCES))
        return {
            tp: (committed, ends[tp])
            for tp, (committed, span) in positions.items()
            if span is not None or max(committed, 0) < ends[tp]
        }

    def await_quiet(self, check: Callable[[], None], timeout_s: float) -> float:
        """Until all that is in Kafka is durable and nothing is pending; when a commit was first seen to move.

        `check` may raise to end the wait.
        """
        deadline = time.monotonic() + timeout_s
        left: object = "nothing was asked"
        first: dict[TP, tuple[int, int]] | None = None
        moved_at = 0.0
        while time.monotonic() < deadline:
            check()
            try:
                left = behind = self.behind()
            except (KafkaError, KafkaException) as error:
                left = error
            else:
                first = behind if first is None else first
                if not moved_at and any(tp not in behind or behind[tp][0] > at for tp, (at, _) in first.items()):
                    moved_at = time.monotonic()
                if not behind:
                    return moved_at or time.monotonic()
            time.sleep(POLL_S)
        raise AssertionError(f"not quiet within {timeout_s:.0f} s: {left}")

    def dead_ends(self) -> dict[TP, int]:
        """Where the DLQs end now: what comes later is of this case."""
        return self.ends(*(topic.name for topic in DEAD))

    def dead(self, since: dict[TP, int]) -> dict[tuple[bytes | None, ...], str]:
        """The mark of each distinct source record in the DLQs from `since` on; a repeated batch writes it again."""
        ends = self.dead_ends()
        left = {tp for tp, end in ends.items() if since.get(tp, 0) < end}
        self._kafka.assign([TopicPartition(*tp, since.get(tp, 0)) for tp in left])
        found: dict[tuple[bytes | None, ...], str] = {}
        deadline = time.monotonic() + ASK_S
        while left:
            assert time.monotonic() < deadline, f"DLQ not read to its end: {left}"
            records: list[Any] = self._kafka.consume(1_000, timeout=0.2)
            for record in records:
                if record.error():
                    raise KafkaException(record.error())
                headers = record.headers() or []
                found[tuple(header(headers, name) for name in COORDINATES)] = (header(headers, MARK) or b"").decode()
                tp = TP(record.topic(), record.partition())
                if record.offset() + 1 >= ends[tp]:
                    left.discard(tp)
        self._kafka.unassign()
        return found

    def judge(
        self,
        history: History,
        poison: set[str],
        dead_since: dict[TP, int],
        priced: Collection[str] = (),
        again: Collection[str] = (),
        copies: Mapping[str, int] | None = None,
    ) -> Finding:
        """The verdict on a case: its history against the tables, its poison against the DLQs.

        The events of the tenants in `priced` are worth `worth(id)`: they must sum up to that. Poison in `again` is
        of former cases and may be there once more; `copies` of a poison may be there too, beside the one that must.
        """
        spare = copies or {}

        def is_priced(stream: Stream) -> bool:
            return stream.table == TRACKING and stream.tenant_id in priced

        found: list[Verdict] = verdicts(self._rows, history)
        dead = Counter(self.dead(dead_since).values())
        strange = {mark: n for mark, n in dead.items() if mark not in poison and mark not in again}
        strange |= {mark: n - 1 for mark, n in dead.items() if mark in poison and n - 1 > spare.get(mark, 0)}
        return Finding(
            accepted=sum(one.accepted for one in found),
            events=sum(one.events for one in found),
            rows=sum(one.rows for one in found),
            missing=sum(len(one.missing) for one in found),
            duplicates=sum(one.duplicates for one in found),
            phantom=sum(len(one.phantom) for one in found),
            dead=dead.total(),
            dead_missing=len(poison - dead.keys()),
            dead_strange=sum(strange.values()),
            money_off=sum((self._money_off(one.stream) for one in found if is_priced(one.stream)), Decimal(0)),
            examples=(
                *(text for one in found for text in self._examples(one)),
                *(f"{n} in the DLQ for {mark or 'no mark'}" for mark, n in [*strange.items()][:EXAMPLES_MAX]),
            ),
        )

    def in_offset_order(self, stream: Stream) -> list[int]:
        """The times of a stream's rows, in milliseconds, in the order of their source offsets."""
        return self._rows.times(stream)

    def read_back(self, edge_url: str, stream: Stream, read_key: str) -> dict[str, int]:
        """How often each event is in the pages of the public API: what a tenant sees of itself."""
        found: Counter[str] = Counter()
        cursor: dict[str, str] = {}
        with httpx.Client(headers={"Authorization": f"Bearer {read_key}"}, timeout=ASK_S, trust_env=False) as client:
            while True:
                parameters = {"limit": str(PAGE_ROWS), **cursor}
                answer = client.get(f"{edge_url}{PATHS[stream.table]}", params=parameters)
                assert answer.status_code == 200, answer.text
                page = answer.json()
                found.update(item["event_id"] for item in page["items"])
                if page["next_cursor"] is None:
                    return dict(found)
                cursor = {"cursor": page["next_cursor"]}

    def _money_off(self, stream: Stream) -> Decimal:
        worthy = sum((worth(key) for key in self._rows.keys(stream)), Decimal(0))
        return self._rows.money(stream) - worthy

    def _examples(self, verdict: Verdict) -> list[str]:
        texts = [f"missing {key}" for key in verdict.missing[:EXAMPLES_MAX]]
        texts += [f"phantom {key}" for key in verdict.phantom[:EXAMPLES_MAX]]
        if verdict.duplicated:
            texts += self._rows.places(verdict.stream, list(verdict.duplicated[:EXAMPLES_MAX]))
        return texts
