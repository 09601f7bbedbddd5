"""The catalogue of metrics: every counter, gauge and histogram of the edge and the worker, declared once.

The help text says what to do when the number looks wrong. Labels are bounded: never a tenant's name or an event id.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY: Final = CollectorRegistry()
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

# Seconds. The edge promises an answer within 2 s, so the buckets are fine below and coarse above.
EDGE_BUCKETS_S: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)

# The edge.
HTTP_REQUESTS: Final = Counter(
    "afluente_http_requests_total",
    "Requests by route and status. 5xx rising: look at afluente_produced_records_total by outcome, then Kafka.",
    ["route", "method", "status"],
    registry=REGISTRY,
)
HTTP_SECONDS: Final = Histogram(
    "afluente_http_request_duration_seconds",
    "Time to answer, by route. Near 2 s: Kafka is slow to confirm; check the brokers' disks and in-sync replicas.",
    ["route"],
    buckets=EDGE_BUCKETS_S,
    registry=REGISTRY,
)
EVENTS_ACCEPTED: Final = Counter(
    "afluente_edge_events_accepted_total",
    "Events confirmed by Kafka and answered with success, by type.",
    ["event_type"],
    registry=REGISTRY,
)
EVENTS_REJECTED: Final = Counter(
    "afluente_edge_events_rejected_total",
    "Events refused by validation, by code. A jump after a release of a sender: tell its owner the code.",
    ["code"],
    registry=REGISTRY,
)
WEBHOOKS: Final = Counter(
    "afluente_edge_webhooks_total",
    "Webhooks by gateway and outcome. bad_signature rising: the secret was rotated; set the new one with --next.",
    ["gateway", "outcome"],
    registry=REGISTRY,
)
IN_FLIGHT_BYTES: Final = Gauge(
    "afluente_edge_in_flight_bytes",
    "Body bytes held in memory. At AFLUENTE_EDGE_IN_FLIGHT_BYTES_MAX requests get 503: add edges or fix Kafka.",
    registry=REGISTRY,
)
CONNECTIONS_CUT: Final = Counter(
    "afluente_edge_connections_cut_total",
    "Connections closed by the edge, by reason. slow_* rising without traffic: somebody holds connections open.",
    ["reason"],
    registry=REGISTRY,
)
CREDENTIAL_LOOKUPS: Final = Counter(
    "afluente_credential_lookups_total",
    "Key lookups by outcome. stale: Postgres is away and known keys go on; unavailable: new keys get 503.",
    ["outcome"],
    registry=REGISTRY,
)
ANSWERS: Final = Counter(
    "afluente_analytics_cache_total",
    "Answers of analytics looked up in the cache, by outcome. away: the cache did not answer, figures were computed.",
    ["cache", "outcome"],
    registry=REGISTRY,
)
READY: Final = Gauge(
    "afluente_part_ready",
    "1 when the part answered its last probe. 0: that part is away; kafka and postgres stop writes.",
    ["part"],
    registry=REGISTRY,
)

# The producer, of the edge and of the worker.
PRODUCED: Final = Counter(
    "afluente_produced_records_total",
    "Records by topic and outcome. Anything but confirmed: Kafka is away, slow or refuses; the sender retries.",
    ["topic", "outcome"],
    registry=REGISTRY,
)


# The worker. `pipeline` is the module path everywhere: metric label, log field, dashboard row, alert.
STEP_BUCKETS_S: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
DELAY_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0)
ROWS_BUCKETS: Final = (1, 10, 100, 1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 200_000)

CONSUMED: Final = Counter(
    "afluente_records_consumed_total",
    "Records taken by the loop. Flat while afluente_lag_records grows: look at afluente_paused, then at the log.",
    ["pipeline"],
    registry=REGISTRY,
)
INSERTED: Final = Counter(
    "afluente_rows_inserted_total",
    "Rows confirmed by ClickHouse, a replayed range counted again. Flat under traffic: see afluente_paused.",
    ["pipeline", "table"],
    registry=REGISTRY,
)
DUPLICATES: Final = Counter(
    "afluente_duplicates_dropped_total",
    "Records dropped because their event id came before. A jump: a sender repeats itself; harmless here, tell it.",
    ["pipeline"],
    registry=REGISTRY,
)
DEAD: Final = Counter(
    "afluente_dlq_records_total",
    "Records sent to the DLQ, by reason. Any: `./afluente dlq list`, fix the cause, `./afluente dlq replay`.",
    ["pipeline", "reason"],
    registry=REGISTRY,
)
WARNINGS: Final = Counter(
    "afluente_process_warnings_total",
    "What a pipeline saw and went on with, e.g. a column that the mirror does not know: deploy a mirror that does.",
    ["pipeline", "what"],
    registry=REGISTRY,
)
BATCH_ROWS: Final = Histogram(
    "afluente_batch_rows",
    "Records in a batch. All small under load: raise AFLUENTE_LINGER_MS, or the topic has too many partitions.",
    ["pipeline"],
    buckets=ROWS_BUCKETS,
    registry=REGISTRY,
)
BATCH_SECONDS: Final = Histogram(
    "afluente_batch_seconds",
    "Time in each step of the loop. write slow: ClickHouse; open slow: the group coordinator; others: this CPU.",
    ["pipeline", "step"],
    buckets=STEP_BUCKETS_S,
    registry=REGISTRY,
)
EVENT_DELAY: Final = Histogram(
    "afluente_event_delay_seconds",
    "From Kafka's timestamp to durable in ClickHouse, of the first and last record of each batch.",
    ["pipeline"],
    buckets=DELAY_BUCKETS_S,
    registry=REGISTRY,
)
LAG: Final = Gauge(
    "afluente_lag_records",
    "Records in Kafka that are not durable yet. Growing for minutes: more workers, or a part behind is slow.",
    ["pipeline", "topic", "partition"],
    registry=REGISTRY,
)
PAUSED: Final = Gauge(
    "afluente_paused",
    "Partitions that wait for ClickHouse or Kafka to take a batch. Above 0 for a minute: that part is away or full.",
    ["pipeline"],
    registry=REGISTRY,
)
BACKPRESSURE_SECONDS: Final = Counter(
    "afluente_backpressure_seconds_total",
    "Seconds that batches waited in retries. Rising: see the reason in the log line `backpressure`.",
    ["pipeline"],
    registry=REGISTRY,
)
COMMIT_SECONDS: Final = Histogram(
    "afluente_commit_seconds",
    "Time of one offset commit, the pending ranges in it. Above 0.2 s: the poll is too large or the broker is slow.",
    buckets=STEP_BUCKETS_S,
    registry=REGISTRY,
)
REPLAYED: Final = Counter(
    "afluente_replayed_ranges_total",
    "Pending ranges replayed after a restart or rebalance. Rising without deploys: a worker dies or is fenced.",
    ["pipeline"],
    registry=REGISTRY,
)
REBUILT: Final = Counter(
    "afluente_rebuild_records_total",
    "Source records read to rebuild dedupe state. Large at each restart: the worker's data folder is not kept.",
    ["pipeline"],
    registry=REGISTRY,
)
ASSIGNED: Final = Gauge(
    "afluente_partitions_assigned",
    "Partitions this worker owns. 0 for minutes: it is a spare, or it cannot join the group.",
    ["pipeline"],
    registry=REGISTRY,
)

# The comparison of Postgres and ClickHouse.
RECONCILE_DIFFERENCES: Final = Gauge(
    "afluente_reconcile_differences",
    "Rows that differ between Postgres and ClickHouse, by kind, in the last comparison. Any: reconcile --repair.",
    ["pipeline", "kind"],
    registry=REGISTRY,
)
RECONCILE_UNSETTLED: Final = Gauge(
    "afluente_reconcile_unsettled",
    "Rows that changed in every pass of the last comparison. Above 0 for long: something rewrites them all the time.",
    ["pipeline"],
    registry=REGISTRY,
)
RECONCILE_LAST_SUCCESS: Final = Gauge(
    "afluente_reconcile_last_success_timestamp_seconds",
    "When a comparison last came to a verdict, whatever it was. Old: it fails, or cannot catch up; see its log.",
    ["pipeline"],
    registry=REGISTRY,
)
RECONCILE_SECONDS: Final = Gauge(
    "afluente_reconcile_duration_seconds",
    "How long the last comparison took. Near its interval: compare less often.",
    ["pipeline"],
    registry=REGISTRY,
)


def exposition() -> bytes:
    """Everything in the catalogue, in Prometheus' text format."""
    return generate_latest(REGISTRY)
