-- Versions of bills and their occurrences: 1 when a row is made, one more with every update, whatever a client sends.
--
-- Works on full tables without a long lock: new rows are numbered from the first step on, older ones in batches that
-- pass over rows somebody holds; those are waited for at the end, a few at a time. A batch keeps its rows for some
-- 100 ms. The trigger also says when and by whom: `afluente.actor` of the transaction, or else the database role.
-- The steps are explained in app/migrate.py.

-- migrate: transaction
ALTER TABLE bills ADD COLUMN version bigint;
ALTER TABLE bill_occurrences ADD COLUMN version bigint;

CREATE FUNCTION bill_version() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.version IS NULL AND NEW.version IS NOT NULL THEN
        NEW.version := 1;  -- the backfill below: not a change of the bill, so time and actor stay
        RETURN NEW;
    END IF;
    NEW.version := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE coalesce(OLD.version, 1) + 1 END;
    NEW.updated_at := now();
    NEW.actor := left(coalesce(nullif(current_setting('afluente.actor', true), ''), session_user), 200);
    RETURN NEW;
END
$$;

CREATE TRIGGER bills_version BEFORE INSERT OR UPDATE ON bills
    FOR EACH ROW EXECUTE FUNCTION bill_version();
CREATE TRIGGER bill_occurrences_version BEFORE INSERT OR UPDATE ON bill_occurrences
    FOR EACH ROW EXECUTE FUNCTION bill_version();

-- Without these, every batch would look through all rows again; nor may the planner choose to, whose figures are old the
-- moment a backfill begins. Dropped first: a killed build leaves an invalid index.
-- migrate: outside
DROP INDEX CONCURRENTLY IF EXISTS bills_unversioned;
CREATE INDEX CONCURRENTLY bills_unversioned ON bills (tenant_id, id) WHERE version IS NULL;
DROP INDEX CONCURRENTLY IF EXISTS bill_occurrences_unversioned;
CREATE INDEX CONCURRENTLY bill_occurrences_unversioned ON bill_occurrences (tenant_id, id) WHERE version IS NULL;

-- migrate: repeat
SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off;
UPDATE bills SET version = 1 WHERE (tenant_id, id) IN (
    SELECT tenant_id, id FROM bills WHERE version IS NULL ORDER BY tenant_id, id LIMIT 2000
    FOR UPDATE SKIP LOCKED
);
-- migrate: repeat
SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off;
UPDATE bills SET version = 1 WHERE (tenant_id, id) IN (
    SELECT tenant_id, id FROM bills WHERE version IS NULL ORDER BY tenant_id, id LIMIT 20
);
-- migrate: repeat
SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off;
UPDATE bill_occurrences SET version = 1 WHERE (tenant_id, id) IN (
    SELECT tenant_id, id FROM bill_occurrences WHERE version IS NULL ORDER BY tenant_id, id LIMIT 2000
    FOR UPDATE SKIP LOCKED
);
-- migrate: repeat
SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off;
UPDATE bill_occurrences SET version = 1 WHERE (tenant_id, id) IN (
    SELECT tenant_id, id FROM bill_occurrences WHERE version IS NULL ORDER BY tenant_id, id LIMIT 20
);

-- NOT NULL by itself would read the whole table under the strongest lock; a validated check spares it that.
-- migrate: transaction
ALTER TABLE bills ADD CONSTRAINT bills_versioned CHECK (version IS NOT NULL) NOT VALID;
ALTER TABLE bill_occurrences ADD CONSTRAINT bill_occurrences_versioned CHECK (version IS NOT NULL) NOT VALID;
-- migrate: transaction
ALTER TABLE bills VALIDATE CONSTRAINT bills_versioned;
-- migrate: transaction
ALTER TABLE bill_occurrences VALIDATE CONSTRAINT bill_occurrences_versioned;
-- migrate: transaction
ALTER TABLE bills ALTER COLUMN version SET NOT NULL, DROP CONSTRAINT bills_versioned;
ALTER TABLE bill_occurrences ALTER COLUMN version SET NOT NULL, DROP CONSTRAINT bill_occurrences_versioned;
COMMENT ON COLUMN bills.version IS 'counted by a trigger: 1, then one more with every update';
COMMENT ON COLUMN bill_occurrences.version IS 'counted by a trigger: 1, then one more with every update';
-- migrate: outside
DROP INDEX CONCURRENTLY IF EXISTS bills_unversioned;
DROP INDEX CONCURRENTLY IF EXISTS bill_occurrences_unversioned;
