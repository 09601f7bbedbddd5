-- Bills and their occurrences (installments or recurrences): the rows that the edge writes and CDC follows.
--
-- The tenant is part of every key, foreign key and unique constraint, and row-level security is forced: a transaction
-- sees and writes the rows of the tenant it named in `afluente.tenant_id`. Replica identity is full, so that an update
-- or delete carries the whole former row: ClickHouse can then leave the month that a row has moved away from.
CREATE TABLE bills (
    tenant_id uuid NOT NULL REFERENCES tenants (id),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id text NOT NULL CHECK (user_id <> '' AND length(user_id) <= 128),
    description text NOT NULL DEFAULT '' CHECK (length(description) <= 500),
    category text NOT NULL DEFAULT '' CHECK (length(category) <= 100),
    amount numeric(14, 2) NOT NULL CHECK (amount > 0),
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    due_date date NOT NULL CHECK (due_date BETWEEN '1970-01-01' AND '2149-06-06'),
    recurrence text NOT NULL DEFAULT 'none' CHECK (recurrence IN ('none', 'weekly', 'monthly', 'yearly')),
    installments smallint NOT NULL DEFAULT 1 CHECK (installments BETWEEN 1 AND 480),
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'paid', 'overdue', 'cancelled')),
    paid_at timestamptz,
    actor text NOT NULL DEFAULT '' CHECK (length(actor) <= 200),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    CHECK ((status = 'paid') = (paid_at IS NOT NULL))
);
COMMENT ON COLUMN bills.amount IS 'the whole: with installments, what they add up to; with a recurrence, one occurrence';
COMMENT ON COLUMN bills.due_date IS 'of the first occurrence; the limits are those of a Date in ClickHouse';
COMMENT ON COLUMN bills.actor IS 'who made the latest change: the credential, or the database role';

CREATE TABLE bill_occurrences (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    bill_id uuid NOT NULL,
    user_id text NOT NULL CHECK (user_id <> '' AND length(user_id) <= 128),
    number smallint NOT NULL CHECK (number >= 1),
    installments smallint NOT NULL CHECK (installments BETWEEN 1 AND 480),
    recurrence text NOT NULL DEFAULT 'none' CHECK (recurrence IN ('none', 'weekly', 'monthly', 'yearly')),
    category text NOT NULL DEFAULT '' CHECK (length(category) <= 100),
    amount numeric(14, 2) NOT NULL CHECK (amount >= 0),
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    due_date date NOT NULL CHECK (due_date BETWEEN '1970-01-01' AND '2149-06-06'),
    status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'paid', 'overdue', 'cancelled')),
    paid_at timestamptz,
    actor text NOT NULL DEFAULT '' CHECK (length(actor) <= 200),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, bill_id, number),
    FOREIGN KEY (tenant_id, bill_id) REFERENCES bills (tenant_id, id) ON DELETE CASCADE,
    CHECK ((status = 'paid') = (paid_at IS NOT NULL))
);

CREATE INDEX bills_tenant_status ON bills (tenant_id, status, due_date);
CREATE INDEX bills_tenant_user ON bills (tenant_id, user_id);
CREATE INDEX bills_tenant_due ON bills (tenant_id, due_date, id);
CREATE INDEX bill_occurrences_tenant_status ON bill_occurrences (tenant_id, status, due_date);
CREATE INDEX bill_occurrences_tenant_user ON bill_occurrences (tenant_id, user_id);
CREATE INDEX bill_occurrences_tenant_due ON bill_occurrences (tenant_id, due_date, id);

ALTER TABLE bills REPLICA IDENTITY FULL;
ALTER TABLE bill_occurrences REPLICA IDENTITY FULL;

ALTER TABLE bills ENABLE ROW LEVEL SECURITY;
ALTER TABLE bills FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON bills TO CURRENT_USER USING (true);
CREATE POLICY own_tenant ON bills TO afluente USING (tenant_id = current_tenant());
ALTER TABLE bill_occurrences ENABLE ROW LEVEL SECURITY;
ALTER TABLE bill_occurrences FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON bill_occurrences TO CURRENT_USER USING (true);
CREATE POLICY own_tenant ON bill_occurrences TO afluente USING (tenant_id = current_tenant());

GRANT SELECT, INSERT, UPDATE, DELETE ON bills, bill_occurrences TO afluente;
