-- Change data capture: what Debezium may read, the heartbeats that keep its slot moving, and its signals.
--
-- A heartbeat row is one partition of the topic bills.changes: its tenant_id is no tenant but a key that hashes to that
-- partition (`cdc apply` writes the rows, since it knows how many partitions there are). Its change travels behind
-- every change that was committed before it in the same partition, so it says how far the partition's reader has come.
--
-- The role afluente_cdc (LOGIN REPLICATION, nothing else) is made with the cluster: infra/postgres/init.
CREATE TABLE cdc_heartbeats (
    tenant_id uuid PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE cdc_heartbeats REPLICA IDENTITY FULL;
-- Updated in place: a page has room for the versions of a second, and the table stays at one page for years.
ALTER TABLE cdc_heartbeats SET (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE cdc_signals (
    id text PRIMARY KEY CHECK (length(id) <= 128),
    type text NOT NULL CHECK (length(type) <= 32),
    data text CHECK (length(data) <= 4096)
);

-- Signals are in the publication because Debezium reads its own watermarks back from the log.
CREATE PUBLICATION afluente_bills FOR TABLE bills, bill_occurrences, cdc_heartbeats, cdc_signals;

-- A truncated table would be empty here and full in ClickHouse: it carries no key by which a tenant's rows could go.
CREATE FUNCTION refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'TRUNCATE of % is refused: change data capture could not follow it', TG_TABLE_NAME
        USING ERRCODE = 'feature_not_supported', HINT = 'DELETE FROM it instead: each deleted row is captured.';
END $$;
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON bills FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON bill_occurrences FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();

-- Debezium reads every tenant's rows and writes nothing but its own two tables.
GRANT USAGE ON SCHEMA public TO afluente_cdc;
GRANT SELECT ON bills, bill_occurrences TO afluente_cdc;
GRANT SELECT, INSERT, UPDATE, DELETE ON cdc_heartbeats, cdc_signals TO afluente_cdc;
CREATE POLICY cdc ON bills FOR SELECT TO afluente_cdc USING (true);
CREATE POLICY cdc ON bill_occurrences FOR SELECT TO afluente_cdc USING (true);
