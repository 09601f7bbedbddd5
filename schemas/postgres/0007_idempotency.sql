-- Idempotency keys of the bills API: what was asked under a key, and what was answered.
--
-- The row is written in the transaction of the change itself, so a key never says more or less than what happened: a
-- request that dies leaves neither change nor key. `claimed` is what the row says while its transaction runs, and no
-- other transaction ever sees it; `applied` keeps the answer of a change, `refused` that of a refusal by the rows.
CREATE TABLE idempotency_keys (
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    key text NOT NULL CHECK (key <> '' AND length(key) <= 128),
    fingerprint bytea NOT NULL CHECK (length(fingerprint) = 32),
    state text NOT NULL DEFAULT 'claimed' CHECK (state IN ('claimed', 'applied', 'refused')),
    status smallint CHECK (status BETWEEN 200 AND 499),
    headers jsonb,
    answer bytea CHECK (length(answer) <= 1048576),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, key),
    CHECK ((state = 'claimed') = (status IS NULL) AND (status IS NULL) = (answer IS NULL))
);
COMMENT ON COLUMN idempotency_keys.fingerprint IS 'SHA-256 of method, path, version and body: another request is refused';
COMMENT ON COLUMN idempotency_keys.expires_at IS 'then the key may be used anew; each new claim removes a few expired rows';
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (tenant_id, expires_at);

ALTER TABLE idempotency_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE idempotency_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON idempotency_keys TO CURRENT_USER USING (true);
CREATE POLICY own_tenant ON idempotency_keys TO afluente USING (tenant_id = current_tenant());
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_keys TO afluente;
