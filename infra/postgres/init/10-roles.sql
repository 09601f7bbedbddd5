-- Run once, by psql, when the cluster is made (docker-entrypoint-initdb.d). Four roles: the superuser `postgres`, which
-- nothing uses afterwards; `afluente_owner`, which owns the tables and migrates; `afluente`, which owns nothing, so that
-- row-level security holds for every query of the edge; `afluente_cdc`, which reads the log for Debezium.
\getenv owner_password POSTGRES_OWNER_PASSWORD
\getenv app_password POSTGRES_APP_PASSWORD
\getenv cdc_password POSTGRES_CDC_PASSWORD

CREATE ROLE afluente_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE afluente LOGIN PASSWORD :'app_password';
CREATE ROLE afluente_cdc LOGIN REPLICATION PASSWORD :'cdc_password';
-- Making a slot waits for every open transaction, and reading the log is one statement: the limits of the edge are not
-- for it.
ALTER ROLE afluente_cdc SET statement_timeout = 0;
ALTER ROLE afluente_cdc SET idle_in_transaction_session_timeout = 0;

ALTER DATABASE afluente OWNER TO afluente_owner;
REVOKE ALL ON DATABASE afluente FROM PUBLIC;
GRANT CONNECT ON DATABASE afluente TO afluente, afluente_cdc;

ALTER SCHEMA public OWNER TO afluente_owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO afluente;
