"""Every Kafka topic, declared once: name, key, partitions, retention, cleanup, and why. `topics apply` creates them.

The key is the tenant everywhere (`tenant_id`, or `tenant_id/shard` for a tenant that has outgrown one partition),
hashed by murmur2 in every producer, so that one tenant's events keep their order and land where their dedupe
state is.
"""

from dataclasses import dataclass

HOUR_MS = 60 * 60 * 1000
DAY_MS = 24 * HOUR_MS
DLQ_SUFFIX = ".dlq"


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `retention_ms` bounds how far back state can be rebuilt and an operator can replay."""

    name: str
    key: str
    partitions: int
    retention_ms: int
    why: str
    cleanup: str = "delete"
    record_bytes_max: int = 1 << 20


TRACKING_COLLECTED = Topic(
    name="tracking.collected",
    key="tenant_id[/shard]",
    partitions=8,
    retention_ms=7 * DAY_MS,
    why="clicks, pageviews and checkouts as the edge accepted them; the source of tracking_events",
)
TRACKING_COLLECTED_DLQ = Topic(
    name="tracking.collected" + DLQ_SUFFIX,
    key="tenant_id[/shard]",
    partitions=1,
    retention_ms=30 * DAY_MS,
    why="poison of tracking.collected, kept longer than its source so that a rebuild can tell it from a row",
    record_bytes_max=2 << 20,
)
GATEWAY_RECEIVED = Topic(
    name="gateway.received",
    key="tenant_id[/shard]",
    partitions=4,
    retention_ms=7 * DAY_MS,
    why="gateway webhooks, verified and raw, so that a better normaliser can be run over them again",
    record_bytes_max=2 << 20,
)
GATEWAY_RECEIVED_DLQ = Topic(
    name="gateway.received" + DLQ_SUFFIX,
    key="tenant_id[/shard]",
    partitions=1,
    retention_ms=30 * DAY_MS,
    why="webhooks that could not be normalised, kept until a fix replays them",
    record_bytes_max=4 << 20,
)

BILLS_CHANGES = Topic(
    name="bills.changes",
    key="tenant_id",
    partitions=8,
    retention_ms=7 * DAY_MS,
    why="what Postgres committed to bills, as Debezium tells it, with heartbeats that say how far it has come",
    record_bytes_max=2 << 20,
)
BILLS_CHANGES_DLQ = Topic(
    name="bills.changes" + DLQ_SUFFIX,
    key="tenant_id",
    partitions=1,
    retention_ms=30 * DAY_MS,
    why="changes that the mirror does not understand, a truncate or a lost column, kept until a fix replays them",
    record_bytes_max=4 << 20,
)
BILLS_EVENTS = Topic(
    name="bills.events",
    key="tenant_id",
    partitions=8,
    retention_ms=7 * DAY_MS,
    why="what happened to bills, for whoever wants to act on it; docs/events.md describes each event",
)

TOPICS: tuple[Topic, ...] = (
    TRACKING_COLLECTED,
    TRACKING_COLLECTED_DLQ,
    GATEWAY_RECEIVED,
    GATEWAY_RECEIVED_DLQ,
    BILLS_CHANGES,
    BILLS_CHANGES_DLQ,
    BILLS_EVENTS,
)
