"""Brings a Kafka cluster to what schemas/topics.py declares: first the difference, then the steps that are safe."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from app.settings import Settings
from infra.local.faults import Fault
from schemas.topics import DLQ_SUFFIX, Topic

REQUEST_TIMEOUT_S = 10.0
BROKERS_TIMEOUT_S = 20.0  # a broker that has just started may not take topics yet
RETRY_INTERVAL_S = 0.2
BATCH_OVERHEAD_BYTES = (
    64 << 10
)  # max.message.bytes bounds the batch: the record's headers and the batch's own come on top
SYNCED_REPLICAS_OF_3 = 2  # one broker of three may be away, and an acknowledged record is still on two

GROWTH_REFUSAL = (
    "a tenant's events would move to another partition, away from where their dedupe state is, and an event id sent "
    "again after that is not recognised. With --force when the dedupe window has passed without traffic, or where that "
    "does no harm"
)

Kind = Literal["create", "grow", "shrink", "replicate", "configure"]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the declaration and the cluster."""

    topic: str
    kind: Kind
    setting: str
    found: str
    declared: str
    refusal: str = ""  # why it is not done; empty: it is

    @property
    def document(self) -> dict[str, Any]:
        return {
            "topic": self.topic, "kind": self.kind, "setting": self.setting, "found": self.found,
            "declared": self.declared, "refused": self.refusal or None,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """One topic as the cluster has it."""

    partitions: int
    replication: int
    settings: Mapping[str, str]


def declared_settings(topic: Topic, replication_factor: int) -> dict[str, str]:
    """The topic's configuration in Kafka's words."""
    synced = SYNCED_REPLICAS_OF_3 if replication_factor >= 3 else 1
    return {
        "cleanup.policy": topic.cleanup,
        "retention.ms": str(topic.retention_ms),
        "max.message.bytes": str(topic.record_bytes_max + BATCH_OVERHEAD_BYTES),
        "min.insync.replicas": str(synced),
        "message.timestamp.type": "CreateTime",
    }


def plan(
    topics: Iterable[Topic], found: Mapping[str, Found], settings: Settings, *, force: bool = False
) -> list[Change]:
    """Every difference, in the order of the declaration."""
    changes: list[Change] = []
    for topic in topics:
        there = found.get(topic.name)
        partitions = topic.partitions * settings.partition_factor
        if there is None:
            declared = f"{partitions} partitions, {settings.replication_factor} replica(s)"
            changes.append(Change(topic.name, "create", "topic", "absent", declared))
            continue
        changes += _size_changes(topic, there, partitions, settings, force=force)
        changes += [
            Change(topic.name, "configure", name, there.settings.get(name, ""), value)
            for name, value in declared_settings(topic, settings.replication_factor).items()
            if there.settings.get(name) != value
        ]
    return changes


def _size_changes(topic: Topic, there: Found, partitions: int, settings: Settings, *, force: bool) -> list[Change]:
    changes = []
    if there.partitions < partitions:
        # A DLQ is read whole, by nobody who remembers.
        refusal = "" if force or topic.name.endswith(DLQ_SUFFIX) else GROWTH_REFUSAL
        changes.append(Change(
            topic.name, "grow", "partitions", str(there.partitions), str(partitions), refusal,
        ))  # fmt: skip
    elif there.partitions > partitions:
        refusal = "Kafka cannot remove partitions: declare at least as many (AFLUENTE_PARTITION_FACTOR multiplies them)"
        changes.append(Change(
            topic.name, "shrink", "partitions", str(there.partitions), str(partitions), refusal,
        ))  # fmt: skip
    if there.replication != settings.replication_factor:
        refusal = "replicas are moved with Kafka's own kafka-reassign-partitions, at an hour that suits the cluster"
        changes.append(Change(
            topic.name, "replicate", "replicas", str(there.replication), str(settings.replication_factor), refusal,
        ))  # fmt: skip
    return changes


def admin_client(settings: Settings) -> AdminClient:
    """A client for the cluster that the settings name. Raises Fault when it does not answer."""
    admin = AdminClient({
        "bootstrap.servers": settings.kafka_url,
        "socket.timeout.ms": int(REQUEST_TIMEOUT_S * 1000),
        "log_level": 2,  # its own lines about refused connections would stand before our sentence
    })  # fmt: skip
    try:
        admin.list_topics(timeout=REQUEST_TIMEOUT_S)
    except KafkaException as fault:
        raise Fault(
            f"Kafka does not answer at {settings.kafka_url} ({fault.args[0].str()}).\n"
            "Start the stack with `./afluente up`, or set AFLUENTE_KAFKA_URL to your brokers."
        ) from None
    return admin


def read_cluster(admin: AdminClient, topics: Iterable[Topic]) -> dict[str, Found]:
    """The declared topics that exist, as they are."""
    listed = admin.list_topics(timeout=REQUEST_TIMEOUT_S).topics
    names = [topic.name for topic in topics if topic.name in listed]
    if not names:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    answers = admin.describe_configs(resources, request_timeout=REQUEST_TIMEOUT_S)
    settings = {
        resource.name: {name: entry.value or "" for name, entry in future.result().items()}
        for resource, future in answers.items()
    }
    return {
        name: Found(
            partitions=len(listed[name].partitions),
            replication=max((len(each.replicas) for each in listed[name].partitions.values()), default=0),
            settings=settings[name],
        )
        for name in names
    }


def apply(admin: AdminClient, topics: Sequence[Topic], changes: Sequence[Change], settings: Settings) -> None:
    """Does what is not refused. Applying again after a fault continues where it stopped."""
    by_name = {topic.name: topic for topic in topics}
    doing = [change for change in changes if not change.refusal]
    for change in doing:
        if change.kind == "create":
            _create(admin, by_name[change.topic], settings)
        elif change.kind == "grow":
            _grow(admin, change.topic, int(change.declared))
    configured = {change.topic for change in doing if change.kind == "configure"}
    for name in sorted(configured):
        entries = [
            ConfigEntry(change.setting, change.declared, incremental_operation=AlterConfigOpType.SET)
            for change in doing
            if change.topic == name and change.kind == "configure"
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        _finish(admin.incremental_alter_configs([resource], request_timeout=REQUEST_TIMEOUT_S))


def _create(admin: AdminClient, topic: Topic, settings: Settings) -> None:
    new = NewTopic(
        topic.name,
        num_partitions=topic.partitions * settings.partition_factor,
        replication_factor=settings.replication_factor,
        config=declared_settings(topic, settings.replication_factor),
    )
    deadline = time.monotonic() + BROKERS_TIMEOUT_S
    while True:
        try:
            _finish(admin.create_topics([new], request_timeout=REQUEST_TIMEOUT_S))
        except KafkaException as fault:
            code = fault.args[0].code()
            if code == KafkaError.TOPIC_ALREADY_EXISTS:
                return  # another `apply` was quicker
            if code == KafkaError.INVALID_REPLICATION_FACTOR and time.monotonic() < deadline:
                time.sleep(RETRY_INTERVAL_S)
                continue
            raise Fault(f"{topic.name} could not be created: {fault.args[0].str()}.") from None
        else:
            return


def _grow(admin: AdminClient, name: str, partitions: int) -> None:
    try:
        _finish(admin.create_partitions([NewPartitions(name, partitions)], request_timeout=REQUEST_TIMEOUT_S))
    except KafkaException as fault:
        raise Fault(f"{name} could not grow to {partitions} partitions: {fault.args[0].str()}.") from None


def _finish(futures: Mapping[Any, Any]) -> None:
    for future in futures.values():
        future.result()
