-- Run once, by psql, when the cluster is made (docker-entrypoint-initdb.d). Three roles: the superuser `postgres`, which
-- nothing uses afterwards; `afluente_owner`, which owns the tables and migrates; `afluente`, which owns nothing, so that
-- row-level security holds for every query of the edge.
\getenv owner_password POSTGRES_OWNER_PASSWORD
\getenv app_password POSTGRES_APP_PASSWORD

CREATE ROLE afluente_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE afluente LOGIN PASSWORD :'app_password';

ALTER DATABASE afluente OWNER TO afluente_owner;
REVOKE ALL ON DATABASE afluente FROM PUBLIC;
GRANT CONNECT ON DATABASE afluente TO afluente;

ALTER SCHEMA public OWNER TO afluente_owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO afluente;
