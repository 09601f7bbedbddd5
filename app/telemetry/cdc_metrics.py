"""What `cdc watch` counts of change data capture. A registry of its own: edge and worker know nothing of it."""

from typing import Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest

REGISTRY: Final = CollectorRegistry()

ANSWERS: Final = Gauge(
    "afluente_cdc_part_answers",
    "1 when the part answered the last look. postgres 0: the figures are old; connect 0: nothing is captured.",
    ["part"],
    registry=REGISTRY,
)
SLOT_WHOLE: Final = Gauge(
    "afluente_cdc_slot_whole",
    "1 when the slot is there with all the log its reader needs. 0: changes are missing; `./afluente cdc mend`.",
    ["slot"],
    registry=REGISTRY,
)
SLOT_ACTIVE: Final = Gauge(
    "afluente_cdc_slot_active",
    "1 while Debezium reads from the slot. 0 for minutes: Postgres keeps the log, and the slot is lost in the end.",
    ["slot"],
    registry=REGISTRY,
)
SLOT_LAG: Final = Gauge(
    "afluente_cdc_slot_lag_bytes",
    "Log that was written and not confirmed. Growing: the connector stands or does not follow.",
    ["slot"],
    registry=REGISTRY,
)
SLOT_HELD: Final = Gauge(
    "afluente_cdc_slot_held_bytes",
    "Log that Postgres keeps on disk for the slot. At max_slot_wal_keep_size it is dropped and the slot is lost.",
    ["slot"],
    registry=REGISTRY,
)
SLOT_SAFE: Final = Gauge(
    "afluente_cdc_slot_safe_bytes",
    "Log that may still be written before Postgres drops the slot; +Inf without a limit. Near 0: act at once.",
    ["slot"],
    registry=REGISTRY,
)
TASK_FAILED: Final = Gauge(
    "afluente_cdc_task_failed",
    "1 when the connector or its task has failed. `./afluente cdc status` has the cause, `cdc restart` goes on.",
    ["connector"],
    registry=REGISTRY,
)
DELAY: Final = Gauge(
    "afluente_cdc_delay_seconds",
    "Age of the last commit whose change is in Kafka. Heartbeats keep it near 1; growing: the stream stands.",
    ["connector"],
    registry=REGISTRY,
)


def exposition() -> bytes:
    """All of it, in Prometheus' text format."""
    return generate_latest(REGISTRY)
