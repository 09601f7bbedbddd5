"""How far the workers are behind: committed offsets, ends, and the ranges that are open between them."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

from app.settings import Settings
from infra.local.faults import Fault
from infra.local.topics import REQUEST_TIMEOUT_S, RETRY_INTERVAL_S
from schemas.topics import DLQ_SUFFIX, TOPICS

METADATA_SHOWN_CHARS = 60
COORDINATOR_STARTING = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
    }
)


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition. `pending` is what a worker has opened and not yet committed, as the commit's metadata says."""

    topic: str
    partition: int
    committed: int | None
    end: int
    lag: int
    pending: Any = None

    @property
    def document(self) -> dict[str, Any]:
        return asdict(self)


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


def _is_coordinator_starting(fault: BaseException) -> bool:
    return isinstance(fault, KafkaException) and fault.args[0].code() in COORDINATOR_STARTING


@retry(
    # A fresh broker makes its offsets topic at the first question, and loads it after each start.
    retry=retry_if_exception(_is_coordinator_starting),
    stop=stop_after_delay(REQUEST_TIMEOUT_S),
    wait=wait_fixed(RETRY_INTERVAL_S),
    reraise=True,
)
def _commits(settings: Settings, partitions: list[TopicPartition]) -> dict[tuple[str, int], TopicPartition]:
    # A consumer that never joins. The admin client's list_consumer_group_offsets (confluent-kafka 2.16) crashes the
    # process when the coordinator is still loading.
    consumer = Consumer({
        "bootstrap.servers": settings.kafka_url,
        "group.id": settings.group_id,
        "enable.auto.commit": False,
        "log_level": 2,
    })  # fmt: skip
    try:
        commits = consumer.committed(partitions, timeout=REQUEST_TIMEOUT_S)
    finally:
        consumer.close()
    return {(each.topic, each.partition): each for each in commits if each.offset >= 0}


def _bounds(admin: AdminClient, partitions: list[TopicPartition], spec: OffsetSpec) -> dict[tuple[str, int], int]:
    answers = admin.list_offsets(dict.fromkeys(partitions, spec), request_timeout=REQUEST_TIMEOUT_S)
    return {(each.topic, each.partition): future.result().offset for each, future in answers.items()}


def read_lag(admin: AdminClient, settings: Settings) -> list[PartitionLag]:
    """Every partition of every topic that is consumed, committed or not."""
    listed = admin.list_topics(timeout=REQUEST_TIMEOUT_S).topics
    partitions = [
        TopicPartition(topic.name, number)
        for topic in TOPICS
        if not topic.name.endswith(DLQ_SUFFIX) and topic.name in listed
        for number in sorted(listed[topic.name].partitions)
    ]
    if not partitions:
        raise Fault("None of the declared topics exists yet: run `./afluente topics apply`.")
    try:
        commits = _commits(settings, partitions)
        ends = _bounds(admin, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        begins = _bounds(admin, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    except KafkaException as fault:
        raise Fault(f"Kafka refused: {fault.args[0].str()}.") from None
    rows = []
    for each in partitions:
        place = (each.topic, each.partition)
        commit = commits.get(place)
        committed = commit.offset if commit else None
        start = begins[place] if committed is None else max(committed, begins[place])
        pending = read_pending(commit.metadata) if commit else None
        rows.append(PartitionLag(*place, committed, ends[place], max(0, ends[place] - start), pending))
    return rows
