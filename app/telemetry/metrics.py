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


def exposition() -> bytes:
    """Everything in the catalogue, in Prometheus' text format."""
    return generate_latest(REGISTRY)
