"""The plan for a cluster's topics: what is done, what is refused, and why."""

from hypothesis import given
from hypothesis import strategies as st

from app.settings import Settings
from infra.local.kafka import PROPERTIES
from infra.local.topics import Found, declared_settings, plan
from schemas.topics import TOPICS, Topic

TOPIC = Topic("a.b", "tenant_id", partitions=4, retention_ms=1000, why="a test")


def _found(topic: Topic, settings: Settings, partitions: int | None = None) -> Found:
    return Found(
        partitions or topic.partitions * settings.partition_factor,
        settings.replication_factor,
        declared_settings(topic, settings.replication_factor),
    )


@given(partition_factor=st.integers(1, 64), replication_factor=st.integers(1, 5))
def test_a_cluster_as_declared_needs_nothing(partition_factor: int, replication_factor: int):
    """Applying twice does nothing the second time, whatever the factors are."""
    settings = Settings(partition_factor=partition_factor, replication_factor=replication_factor)
    assert plan(TOPICS, {topic.name: _found(topic, settings) for topic in TOPICS}, settings) == []


@given(found=st.integers(1, 64), force=st.booleans())
def test_partitions_never_shrink_and_grow_only_by_force(found: int, force: bool):
    """Removing is impossible and adding strands dedupe state, so neither happens unasked."""
    settings = Settings()
    changes = plan([TOPIC], {TOPIC.name: _found(TOPIC, settings, found)}, settings, force=force)
    if found == TOPIC.partitions:
        assert changes == []
    elif found < TOPIC.partitions:
        assert [(change.kind, bool(change.refusal)) for change in changes] == [("grow", not force)]
    else:
        assert [(change.kind, bool(change.refusal)) for change in changes] == [("shrink", True)]


def test_an_absent_topic_is_created_with_the_factors():
    """A production cluster gets its partitions and replicas from the environment alone."""
    (change,) = plan([TOPIC], {}, Settings(partition_factor=3, replication_factor=3))
    assert (change.kind, change.declared, change.refusal) == ("create", "12 partitions, 3 replica(s)", "")


def test_a_changed_retention_is_one_change():
    """An operator reads exactly what differs."""
    settings = Settings()
    found = _found(TOPIC, settings)
    changed = Found(found.partitions, found.replication, {**found.settings, "retention.ms": "5"})
    (change,) = plan([TOPIC], {TOPIC.name: changed}, settings)
    assert (change.kind, change.setting, change.found, change.declared) == ("configure", "retention.ms", "5", "1000")


def test_three_replicas_need_two_in_sync():
    """With three brokers an acknowledged record survives the loss of one."""
    assert declared_settings(TOPIC, 3)["min.insync.replicas"] == "2"
    assert declared_settings(TOPIC, 1)["min.insync.replicas"] == "1"


def test_kafka_takes_the_largest_declared_record():
    """No topic declares a record that the embedded broker would refuse."""
    limits = [int(declared_settings(topic, 1)["max.message.bytes"]) for topic in TOPICS]
    assert max(limits) <= int(PROPERTIES["message.max.bytes"])
