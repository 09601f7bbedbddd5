-- tracking_events and gateway_events: one row an event.
--
-- Rows are unique without FINAL: a batch is inserted with a deduplication token made of its topic id, partition and
-- offsets, so a retried batch adds nothing (the window below), and an event id seen before is dropped by the worker.
-- ReplacingMergeTree is the second net, for what is older than both windows.
CREATE DATABASE IF NOT EXISTS {database} {on_cluster};

CREATE TABLE IF NOT EXISTS {database}.tracking_events {on_cluster}
(
    tenant_id UUID,
    event_id String CODEC(ZSTD(1)),
    event_type LowCardinality(String),
    occurred_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    received_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    session_id String CODEC(ZSTD(1)),
    click_id String CODEC(ZSTD(1)),
    url String CODEC(ZSTD(3)),
    referrer String CODEC(ZSTD(3)),
    utm_source LowCardinality(String),
    utm_medium LowCardinality(String),
    utm_campaign String CODEC(ZSTD(1)),
    utm_term String CODEC(ZSTD(1)),
    utm_content String CODEC(ZSTD(1)),
    fbclid String CODEC(ZSTD(1)),
    gclid String CODEC(ZSTD(1)),
    fbp String CODEC(ZSTD(1)),
    fbc String CODEC(ZSTD(1)),
    user_id String CODEC(ZSTD(1)),
    email_hash String CODEC(ZSTD(1)),
    phone_hash String CODEC(ZSTD(1)),
    value Nullable(Decimal(18, 4)) CODEC(ZSTD(1)),
    currency LowCardinality(String),
    consent_ads Nullable(Bool),
    properties String CODEC(ZSTD(3)),
    _topic LowCardinality(String),
    _partition UInt32,
    _offset UInt64 CODEC(Delta, ZSTD(1)),
    _ingested_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    INDEX event_id_bloom event_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = {replicated}ReplacingMergeTree({replica_path}_ingested_at)
PARTITION BY toYYYYMM(occurred_at)
ORDER BY (tenant_id, occurred_at, event_id)
SETTINGS {dedupe_window};

CREATE TABLE IF NOT EXISTS {database}.gateway_events {on_cluster}
(
    tenant_id UUID,
    event_id String CODEC(ZSTD(1)),
    gateway LowCardinality(String),
    event_type LowCardinality(String),
    native_type LowCardinality(String),
    order_id String CODEC(ZSTD(1)),
    product_id String CODEC(ZSTD(1)),
    product_name String CODEC(ZSTD(1)),
    occurred_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    received_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    email_hash String CODEC(ZSTD(1)),
    phone_hash String CODEC(ZSTD(1)),
    document_hash String CODEC(ZSTD(1)),
    amount Nullable(Decimal(18, 4)) CODEC(ZSTD(1)),
    currency LowCardinality(String),
    payment_method LowCardinality(String),
    installments Nullable(Int32),
    click_id String CODEC(ZSTD(1)),
    session_id String CODEC(ZSTD(1)),
    sck String CODEC(ZSTD(1)),
    src String CODEC(ZSTD(1)),
    utm_source LowCardinality(String),
    utm_medium LowCardinality(String),
    utm_campaign String CODEC(ZSTD(1)),
    utm_term String CODEC(ZSTD(1)),
    utm_content String CODEC(ZSTD(1)),
    _topic LowCardinality(String),
    _partition UInt32,
    _offset UInt64 CODEC(Delta, ZSTD(1)),
    _ingested_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    INDEX event_id_bloom event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX order_id_bloom order_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = {replicated}ReplacingMergeTree({replica_path}_ingested_at)
PARTITION BY toYYYYMM(occurred_at)
ORDER BY (tenant_id, occurred_at, event_id)
SETTINGS {dedupe_window};
