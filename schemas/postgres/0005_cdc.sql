-- Change data capture: what Debezium may read, the heartbeats that keep its slot moving, and its signals.
--
-- A heartbeat row is one partition of the topic bills.changes: its tenant_id is no tenant but a key that hashes to that
-- partition (`cdc apply` writes the rows, since it knows how many partitions there are). Its change travels behind
-- every change that was committed before it in the same partition, so it says how far the partition's reader has come.
CREATE TABLE cdc_heartbeats (
    tenant_id uuid PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE cdc_heartbeats REPLICA IDENTITY FULL;

CREATE TABLE cdc_signals (
    id text PRIMARY KEY CHECK (length(id) <= 128),
    type text NOT NULL CHECK (length(type) <= 32),
    data text CHECK (length(data) <= 4096)
);

CREATE PUBLICATION afluente_bills FOR TABLE bills, bill_occurrences, cdc_heartbeats, cdc_signals;
