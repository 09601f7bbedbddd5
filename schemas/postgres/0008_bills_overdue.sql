-- Open occurrences whose day is over become overdue, and their bills with them: a few bills at a time, over all tenants.
--
-- A sweep crosses tenants, which the application's role cannot; so it is a function of the owner that takes no
-- condition from outside: whoever may call it can only make it do early what is due anyway. A day is over when it is
-- over in the last time zone, UTC-12. Bills that somebody works on are left to the next sweep, so it never waits and
-- never deadlocks; like the edge it locks the bill first, then its occurrences.
CREATE FUNCTION bills_turn_overdue(bills_max integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    day constant date := (now() AT TIME ZONE 'UTC' - interval '12 hours')::date;
    at_most constant integer := greatest(1, least(bills_max, 1000));
    late record;
    turned integer := 0;
BEGIN
    PERFORM set_config('afluente.actor', 'sweep:overdue', true);
    FOR late IN
        SELECT b.tenant_id, b.id FROM tenants t
        CROSS JOIN LATERAL (
            SELECT DISTINCT o.bill_id FROM bill_occurrences o
            WHERE o.tenant_id = t.id AND o.status = 'open' AND o.due_date < day LIMIT at_most
        ) due
        JOIN bills b ON b.tenant_id = t.id AND b.id = due.bill_id
        LIMIT at_most FOR UPDATE OF b SKIP LOCKED
    LOOP
        UPDATE bill_occurrences SET status = 'overdue'
        WHERE tenant_id = late.tenant_id AND bill_id = late.id AND status = 'open' AND due_date < day;
        UPDATE bills SET status = 'overdue'
        WHERE tenant_id = late.tenant_id AND id = late.id AND status <> 'overdue';
        turned := turned + 1;
    END LOOP;
    RETURN turned;
END
$$;
REVOKE ALL ON FUNCTION bills_turn_overdue(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION bills_turn_overdue(integer) TO afluente;

-- Lists are read in these orders, page by page.
CREATE INDEX bills_tenant_created ON bills (tenant_id, created_at, id);
CREATE INDEX bill_occurrences_tenant_created ON bill_occurrences (tenant_id, created_at, id);
