"""Where the consumer group stands in Kafka, for a backup, and how it is set back to there after a restore."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from app import progress, source
from app.batch import TP
from app.ownership import describe
from app.settings import Settings
from infra.local import connect
from infra.local.backup_manifest import Position
from infra.local.faults import Fault

REQUEST_S: Final = 30.0
MEMBERS_GONE_S: Final = 60.0  # a killed static member is one until its session is over
RETRY_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class SetBack:
    """What became of the group's offsets. `gone` records were deleted by retention since the backup, unread by it."""

    partitions: int = 0
    records: int = 0  # to be read once more, or for the first time
    gone: int = 0
    strangers: tuple[str, ...] = ()  # topics that are not those of the backup: made again, or not there


def read_positions(settings: Settings) -> list[Position]:
    """Each partition's committed offset, and what the topic holds. To be read before any store is copied."""
    # Imported here: the pipelines bring Faust along, which every other command does without.
    from agents import topology  # noqa: PLC0415

    names = {pipeline.reads.name for pipeline in topology.pipelines(settings)}
    ids = describe(settings.kafka_url, names)
    places = [tp for name in sorted(names) for tp in source.partitions(settings.kafka_url, name)]
    committed = asyncio.run(progress.read(settings.kafka_url, settings.group_id, set(places)))
    bounds = source.bounds(settings.kafka_url, places)
    return [
        Position(tp.topic, ids[tp.topic], tp.partition, bounds[tp][0], committed[tp][0], bounds[tp][1]) for tp in places
    ]


def set_back(settings: Settings, positions: Sequence[Position]) -> SetBack:
    """Let the group go on where it stood before the backup. No worker may run."""
    known = {position.topic for position in positions}
    ids = {name: found for name in known if (found := _id_of(settings, name))}
    strangers = tuple(sorted({one.topic for one in positions if ids.get(one.topic) != one.topic_id}))
    same = [one for one in positions if one.topic not in strangers]
    bounds = source.bounds(settings.kafka_url, [TP(one.topic, one.partition) for one in same])
    offsets, records, gone = [], 0, 0
    for one in same:
        first, end = bounds[TP(one.topic, one.partition)]
        wanted = one.committed if one.committed >= 0 else one.first
        offset = max(wanted, first)
        offsets.append(TopicPartition(one.topic, one.partition, offset))
        records += end - offset
        gone += offset - wanted
    if offsets:
        _alter(settings, offsets)
    return SetBack(len(offsets), records, gone, strangers)


def forget_connector(settings: Settings) -> None:
    """Debezium's place in a log that is gone, with the rest of what Connect remembers: `up` makes the connector anew.

    It then reads every row once, through a slot of the restored Postgres.
    """
    admin = AdminClient({"bootstrap.servers": settings.kafka_url})
    names = {value for name, value in connect.properties(settings).items() if name.endswith(".storage.topic")}
    there = sorted(names & admin.list_topics(timeout=REQUEST_S).topics.keys())
    for future in admin.delete_topics(there, operation_timeout=REQUEST_S).values() if there else ():
        future.result(REQUEST_S)


def _id_of(settings: Settings, topic: str) -> str:
    try:
        return describe(settings.kafka_url, {topic})[topic]
    except LookupError:
        return ""


def _alter(settings: Settings, offsets: list[TopicPartition]) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka_url})
    deadline = time.monotonic() + MEMBERS_GONE_S
    while True:
        asked = [ConsumerGroupTopicPartitions(settings.group_id, offsets)]
        (future,) = admin.alter_consumer_group_offsets(asked, request_timeout=REQUEST_S).values()
        try:
            result = future.result(REQUEST_S)
        except KafkaException as error:
            fault = str(error)
        else:
            fault = "; ".join(str(one.error) for one in result.topic_partitions if one.error)
        if not fault:
            return
        if time.monotonic() > deadline:
            raise Fault(f"Kafka does not set the group {settings.group_id} back: {fault}\nDoes a worker still run?")
        time.sleep(RETRY_S)
