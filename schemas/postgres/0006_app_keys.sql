-- A third kind of key, `app`: opens bills. Write keys of tracking stand in pages for everybody to read, so they open
-- nothing but tracking. A lookup now tells which key it was, so that a change can name who made it.
ALTER TABLE api_keys DROP CONSTRAINT api_keys_kind_check;
ALTER TABLE api_keys ADD CONSTRAINT api_keys_kind_check CHECK (kind IN ('write', 'read', 'app'));

DROP FUNCTION resolve_key(bytea);
CREATE FUNCTION resolve_key(wanted bytea)
RETURNS TABLE (
    tenant_id uuid, kind text, rate_limit_per_s double precision, shards smallint, cors_origins text[], key_id uuid
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT k.tenant_id, k.kind, t.rate_limit_per_s, t.shards, t.cors_origins, k.id
    FROM api_keys k JOIN tenants t ON t.id = k.tenant_id
    WHERE k.key_sha256 = wanted AND k.revoked_at IS NULL
$$;
REVOKE ALL ON FUNCTION resolve_key(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION resolve_key(bytea) TO afluente;
