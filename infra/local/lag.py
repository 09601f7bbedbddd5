"""How far the workers are behind: committed offsets, ends, the ranges open between them, and how old the oldest is."""

import asyncio
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from aiokafka import structs
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaError,
    NotCoordinatorForGroupError,
)
from aiokafka.structs import OffsetAndMetadata
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from app.settings import GROUP_ID, Settings
from infra.local.faults import Fault
from infra.local.topics import REQUEST_TIMEOUT_S, RETRY_INTERVAL_S

METADATA_SHOWN_CHARS = 60
OLDEST_TIMEOUT_S: Final = 5.0  # to read one record of each partition that has some waiting
OLDEST_FETCH_BYTES: Final = 64 << 10  # one record is wanted, not what follows it
STUCK_AFTER_S: Final = 10.0  # a batch in flight takes a second or two; ClickHouse at its slowest some more

State = Literal["empty", "moving", "stuck"]
COORDINATOR_STARTING: Final = (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition. `pending` is what a worker has opened and not yet committed, as the commit's metadata says.

    `oldest_s` is the age of the oldest record that waits; None when none waits, or when it could not be read in time.
    """

    pipeline: str
    topic: str
    partition: int
    committed: int | None
    end: int
    lag: int
    pending: Any = None
    oldest_s: float | None = None
    state: State = "empty"

    @property
    def place(self) -> tuple[str, int]:
        return self.topic, self.partition

    @property
    def document(self) -> dict[str, Any]:
        return {"group": GROUP_ID, **asdict(self)}


def judged(now: PartitionLag, before: PartitionLag | None) -> PartitionLag:
    """Says of a partition whether it is empty, moving, or stuck: old records wait and the commit stood still."""
    if now.lag == 0:
        return replace(now, state="empty")
    stands = before is not None and (before.committed, before.pending) == (now.committed, now.pending)
    is_old = now.oldest_s is not None and now.oldest_s >= STUCK_AFTER_S
    return replace(now, state="stuck" if stands and is_old else "moving")


def sources(settings: Settings) -> dict[str, str]:
    """The topic that each pipeline reads -> the pipeline."""
    # Imported here: the pipelines bring Faust along, which every other command does without.
    from agents import topology  # noqa: PLC0415

    return {one.reads.name: one.name for one in topology.pipelines(settings)}


def pending_text(pending: Any) -> str:
    """The open range in a table's cell."""
    if isinstance(pending, dict) and {"first", "last"} <= pending.keys():
        return f"{pending['first']}-{pending['last']}"
    text = pending if isinstance(pending, str) else json.dumps(pending) if pending is not None else ""
    return text[:METADATA_SHOWN_CHARS]


def read_pending(metadata: str | None) -> Any:
    """The commit's metadata: JSON when a worker wrote it, else as it is, and nothing when it is empty."""
    if not metadata:
        return None
    try:
        return json.loads(metadata)
    except ValueError:
        return metadata


@retry(
    # A fresh broker makes its offsets topic at the first question, and loads it after each start.
    retry=retry_if_exception_type(COORDINATOR_STARTING),
    stop=stop_after_delay(REQUEST_TIMEOUT_S),
    wait=wait_fixed(RETRY_INTERVAL_S),
    reraise=True,
)
def _commits(settings: Settings, places: Collection[tuple[str, int]]) -> dict[tuple[str, int], OffsetAndMetadata]:
    return asyncio.run(_read_commits(settings, places))


async def _read_commits(
    settings: Settings, places: Collection[tuple[str, int]]
) -> dict[tuple[str, int], OffsetAndMetadata]:
    # Not by confluent-kafka: it reads metadata past its end, and dies when the coordinator is still loading (2.16).
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_url)
    await admin.start()
    try:
        asked = [structs.TopicPartition(*place) for place in places]
        found = await admin.list_consumer_group_offsets(settings.group_id, partitions=asked)
    finally:
        await admin.close()
    return {(at.topic, at.partition): commit for at, commit in found.items() if commit.offset >= 0}


def _bounds(admin: AdminClient, partitions: list[TopicPartition], spec: OffsetSpec) -> dict[tuple[str, int], int]:
    answers = admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=REQUEST_TIMEOUT_S)
    return {(each.topic, each.partition): future.result().offset for each, future in answers.items()}


def _oldest(settings: Settings, starts: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], float]:
    """The age in seconds of the record at each of these places, of those that answered in time."""
    if not starts:
        return {}
    consumer = Consumer({
        "bootstrap.servers": settings.kafka_url,
        "group.id": f"{GROUP_ID}-lag",  # never joined and never committed to
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "fetch.message.max.bytes": OLDEST_FETCH_BYTES,
        "log_level": 2,
    })  # fmt: skip
    found: dict[tuple[str, int], float] = {}
    try:
        consumer.assign([TopicPartition(topic, number, offset) for (topic, number), offset in starts.items()])
        deadline = time.monotonic() + OLDEST_TIMEOUT_S
        while len(found) < len(starts) and time.monotonic() < deadline:
            record = consumer.poll(RETRY_INTERVAL_S)
            if record is None or record.error():
                continue
            place = (record.topic() or "", record.partition() or 0)
            found.setdefault(place, max(0.0, time.time() - record.timestamp()[1] / 1000))
            consumer.pause([TopicPartition(*place)])
    finally:
        consumer.close()
    return found


def read_lag(admin: AdminClient, settings: Settings, before: Sequence[PartitionLag] = ()) -> list[PartitionLag]:
    """Every partition of every topic that a pipeline reads, committed or not. `before`: the look to compare with."""
    pipelines = sources(settings)
    listed = admin.list_topics(timeout=REQUEST_TIMEOUT_S).topics
    partitions = [
        TopicPartition(topic, number)
        for topic in pipelines
        if topic in listed
        for number in sorted(listed[topic].partitions)
    ]
    if not partitions:
        raise Fault("None of the declared topics exists yet: run `./afluente topics apply`.")
    try:
        commits = _commits(settings, [(each.topic, each.partition) for each in partitions])
        ends = _bounds(admin, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        begins = _bounds(admin, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    except KafkaException as fault:
        raise Fault(f"Kafka refused: {fault.args[0].str()}.") from None
    except KafkaError as fault:
        raise Fault(f"Kafka refused: {fault}.") from None
    starts = {
        place: max(commits[place].offset, begins[place]) if place in commits else begins[place]
        for place in ((each.topic, each.partition) for each in partitions)
    }
    ages = _oldest(settings, {place: start for place, start in starts.items() if start < ends[place]})
    former = {row.place: row for row in before}
    rows = []
    for place, start in starts.items():
        commit = commits.get(place)
        row = PartitionLag(
            pipelines[place[0]], *place, commit.offset if commit else None, ends[place], max(0, ends[place] - start),
            read_pending(commit.metadata) if commit else None, ages.get(place),
        )  # fmt: skip
        rows.append(judged(row, former.get(place)))
    return rows
