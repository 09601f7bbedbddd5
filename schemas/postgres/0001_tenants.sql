-- Tenants, their keys, their webhook secrets, and the audit trail.
--
-- Run by the owner of the schema; the application's role is `afluente` and owns nothing. What belongs to one tenant
-- is under forced row-level security: a transaction sees the rows of the tenant it named in `afluente.tenant_id`, and
-- none when it named none. Two lookups cross tenants by nature (whose key is this? which tenants are there?): the
-- first is a narrow SECURITY DEFINER function that answers one exact hash with one row, the second is the table
-- `tenants`, the directory itself, which holds no tenant's secrets.

CREATE TABLE tenants (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE CHECK (name <> '' AND length(name) <= 200),
    created_at timestamptz NOT NULL DEFAULT now(),
    rate_limit_per_s double precision CHECK (rate_limit_per_s > 0),
    shards smallint NOT NULL DEFAULT 1 CHECK (shards BETWEEN 1 AND 256),
    cors_origins text[] NOT NULL DEFAULT '{}' CHECK (cardinality(cors_origins) <= 100)
);
COMMENT ON COLUMN tenants.rate_limit_per_s IS 'tracking events a second and edge process; null = unlimited';
COMMENT ON COLUMN tenants.shards IS 'Kafka keys the tenant is spread over; raise only: order holds within a shard';

CREATE TABLE api_keys (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    kind text NOT NULL CHECK (kind IN ('write', 'read')),
    prefix text NOT NULL CHECK (length(prefix) <= 16),
    key_sha256 bytea NOT NULL UNIQUE CHECK (length(key_sha256) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
COMMENT ON COLUMN api_keys.key_sha256 IS 'keys are 256 random bits: one SHA-256 is enough, and lookup stays an index hit';
CREATE INDEX api_keys_tenant ON api_keys (tenant_id, created_at);

CREATE TABLE webhook_secrets (
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    gateway text NOT NULL CHECK (gateway ~ '^[a-z][a-z0-9_]{0,31}$'),
    purpose text NOT NULL CHECK (purpose IN ('current', 'next')),
    sealed bytea NOT NULL CHECK (length(sealed) > 28),
    set_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, gateway, purpose)
);
COMMENT ON COLUMN webhook_secrets.sealed IS 'AES-256-GCM: nonce, ciphertext, tag; bound to tenant|gateway|purpose';

CREATE TABLE audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL CHECK (actor <> '' AND length(actor) <= 200),
    action text NOT NULL CHECK (action ~ '^[a-z_]+\.[a-z_]+$'),
    tenant_id uuid,
    target text NOT NULL DEFAULT '' CHECK (length(target) <= 500),
    detail jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_tenant ON audit (tenant_id, id);

-- Append-only for everybody, the owner included: privileges keep the application out, this keeps slips out.
CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit is append-only: % refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();

-- The tenant of the transaction, or null. An empty setting is what is left after a transaction that set it.
CREATE FUNCTION current_tenant() RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT nullif(current_setting('afluente.tenant_id', true), '')::uuid
$$;

ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE api_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON api_keys TO CURRENT_USER USING (true);
CREATE POLICY own_tenant ON api_keys TO afluente USING (tenant_id = current_tenant());

ALTER TABLE webhook_secrets ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhook_secrets FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON webhook_secrets TO CURRENT_USER USING (true);
CREATE POLICY own_tenant ON webhook_secrets TO afluente USING (tenant_id = current_tenant());

ALTER TABLE audit ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON audit TO CURRENT_USER USING (true);
CREATE POLICY append ON audit FOR INSERT TO afluente WITH CHECK (tenant_id IS NOT DISTINCT FROM current_tenant());
CREATE POLICY own_tenant ON audit FOR SELECT TO afluente USING (tenant_id IS NOT DISTINCT FROM current_tenant());

-- Whose key is this? One exact hash in, at most one row out, revoked keys never.
CREATE FUNCTION resolve_key(wanted bytea)
RETURNS TABLE (tenant_id uuid, kind text, rate_limit_per_s double precision, shards smallint, cors_origins text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT k.tenant_id, k.kind, t.rate_limit_per_s, t.shards, t.cors_origins
    FROM api_keys k JOIN tenants t ON t.id = k.tenant_id
    WHERE k.key_sha256 = wanted AND k.revoked_at IS NULL
$$;

-- Revoking knows the key's id or prefix, not its tenant.
CREATE FUNCTION tenant_of_key(wanted_id uuid) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT tenant_id FROM api_keys WHERE id = wanted_id
$$;

REVOKE ALL ON FUNCTION resolve_key(bytea), tenant_of_key(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION resolve_key(bytea), tenant_of_key(uuid) TO afluente;
GRANT USAGE ON SCHEMA public TO afluente;
GRANT SELECT, INSERT ON tenants, api_keys, webhook_secrets, audit TO afluente;
GRANT UPDATE (name, rate_limit_per_s, shards, cors_origins) ON tenants TO afluente;
GRANT UPDATE (revoked_at) ON api_keys TO afluente;
GRANT UPDATE (sealed, set_at), DELETE ON webhook_secrets TO afluente;
