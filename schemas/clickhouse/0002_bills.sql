-- Mirrors of Postgres: bills and bill_occurrences as CDC brings them, and how far CDC has come.
--
-- A row's version is its LSN: for one row a later change has a higher one, whatever order the changes arrive in. A
-- deleted row is a row with is_deleted = 1, and a row whose due date moved leaves such a tombstone at the day it came
-- from. The day is part of the key, so all versions of one key lie in one partition and pass or fail a filter on
-- due_date together: FINAL is right with any filter and without settings, and partitions are pruned before it.
CREATE TABLE IF NOT EXISTS {database}.bills {on_cluster}
(
    tenant_id UUID,
    id UUID,
    user_id String CODEC(ZSTD(1)),
    description String CODEC(ZSTD(3)),
    category LowCardinality(String),
    amount Decimal(14, 2) CODEC(ZSTD(1)),
    currency LowCardinality(String),
    due_date Date CODEC(Delta, ZSTD(1)),
    recurrence LowCardinality(String),
    installments UInt16 CODEC(ZSTD(1)),
    status LowCardinality(String),
    paid_at Nullable(DateTime64(6, 'UTC')) CODEC(ZSTD(1)),
    actor LowCardinality(String),
    version UInt64 CODEC(ZSTD(1)),
    created_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    updated_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    is_deleted UInt8 CODEC(ZSTD(1)),
    _version UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'the LSN of the change',
    _changed_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'when Postgres committed it',
    _topic LowCardinality(String),
    _partition UInt32,
    _offset UInt64 CODEC(Delta, ZSTD(1)),
    _ingested_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    INDEX id_bloom id TYPE bloom_filter(0.01) GRANULARITY 1 -- one row by its id, when its day is not known
)
ENGINE = {replicated}ReplacingMergeTree({replica_path}_version, is_deleted)
PARTITION BY toYYYYMM(due_date)
ORDER BY (tenant_id, due_date, id)
SETTINGS {dedupe_window};

CREATE TABLE IF NOT EXISTS {database}.bill_occurrences {on_cluster}
(
    tenant_id UUID,
    id UUID,
    bill_id UUID,
    user_id String CODEC(ZSTD(1)),
    number UInt16 CODEC(ZSTD(1)),
    installments UInt16 CODEC(ZSTD(1)),
    recurrence LowCardinality(String),
    category LowCardinality(String),
    amount Decimal(14, 2) CODEC(ZSTD(1)),
    currency LowCardinality(String),
    due_date Date CODEC(Delta, ZSTD(1)),
    status LowCardinality(String),
    paid_at Nullable(DateTime64(6, 'UTC')) CODEC(ZSTD(1)),
    actor LowCardinality(String),
    version UInt64 CODEC(ZSTD(1)),
    created_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    updated_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    is_deleted UInt8 CODEC(ZSTD(1)),
    _version UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'the LSN of the change',
    _changed_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'when Postgres committed it',
    _topic LowCardinality(String),
    _partition UInt32,
    _offset UInt64 CODEC(Delta, ZSTD(1)),
    _ingested_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    INDEX id_bloom id TYPE bloom_filter(0.01) GRANULARITY 1, -- one row by its id, when its day is not known
    INDEX ingested_at_range _ingested_at TYPE minmax GRANULARITY 1 -- what came in since a moment ago
)
ENGINE = {replicated}ReplacingMergeTree({replica_path}_version, is_deleted)
PARTITION BY toYYYYMM(due_date)
ORDER BY (tenant_id, due_date, id)
SETTINGS {dedupe_window};

-- One row a partition of bills.changes, from the heartbeats that travel in it: everything that Postgres committed
-- before `at` and that travels in this partition is in the tables above.
CREATE TABLE IF NOT EXISTS {database}.cdc_progress {on_cluster}
(
    tenant_id UUID COMMENT 'of the heartbeat: its key hashes to the partition',
    lsn UInt64,
    at DateTime64(6, 'UTC'),
    _topic LowCardinality(String),
    _partition UInt32,
    _offset UInt64,
    _ingested_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = {replicated}ReplacingMergeTree({replica_path}_offset)
ORDER BY (_topic, _partition)
SETTINGS {dedupe_window};
