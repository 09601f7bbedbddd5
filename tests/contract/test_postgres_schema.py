"""Rules that every table of Postgres keeps, asked of its catalog; each rule is shown to fail on a planted fault."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from tests.support.edge_parts import Parts

APP_ROLE: Final = "afluente"
# (rule, table) -> why it may.
EXEMPT: Final = {
    ("primary_key", "api_keys"): "a key is looked up before anybody knows whose it is",
    ("unique", "api_keys"): "256 random bits belong to one tenant by themselves",
    ("primary_key", "audit"): "one trail, in one order; lines about no tenant are in it too",
    ("unique", "audit"): "an identity column",
    (
        "row_security",
        "cdc_heartbeats",
    ): "its tenant_id is a partition's key, no tenant; the application may not read it",
    ("policy", "cdc_heartbeats"): "as above",
}
TENANT_TABLES: Final = """
    SELECT c.oid, c.relname::text AS relname, c.relrowsecurity, c.relforcerowsecurity, a.attnum AS tenant
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
    WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace
"""
# Each query gives what breaks the rule, its table or function first.
RULES: Final = {
    "primary_key": f"""
        SELECT t.relname FROM ({TENANT_TABLES}) t
        LEFT JOIN pg_index i ON i.indrelid = t.oid AND i.indisprimary WHERE i.indkey[0] IS DISTINCT FROM t.tenant
    """,
    "unique": f"""
        SELECT t.relname, i.indexrelid::regclass::text FROM ({TENANT_TABLES}) t
        JOIN pg_index i ON i.indrelid = t.oid AND i.indisunique WHERE NOT t.tenant = ANY(i.indkey::int2[])
    """,
    "index": f"""
        SELECT t.relname, i.indexrelid::regclass::text FROM ({TENANT_TABLES}) t
        JOIN pg_index i ON i.indrelid = t.oid AND NOT i.indisunique WHERE i.indkey[0] <> t.tenant
    """,
    "foreign_key": f"""
        SELECT t.relname, k.conname::text FROM ({TENANT_TABLES}) t
        JOIN pg_constraint k ON k.conrelid = t.oid AND k.contype = 'f'
        WHERE NOT t.tenant = ANY(k.conkey)
    """,
    "row_security": f"SELECT relname FROM ({TENANT_TABLES}) t WHERE NOT (relrowsecurity AND relforcerowsecurity)",
    "policy": f"""
        SELECT t.relname::name FROM ({TENANT_TABLES}) t WHERE NOT EXISTS (
            SELECT 1 FROM pg_policies p WHERE p.tablename = t.relname AND '{APP_ROLE}' = ANY(p.roles))
        UNION ALL
        SELECT p.tablename FROM pg_policies p WHERE ('{APP_ROLE}' = ANY(p.roles) OR 'public' = ANY(p.roles))
        AND coalesce(p.qual, p.with_check) NOT LIKE '%current_tenant()%'
    """,
    "owner": f"""
        SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
        AND pg_has_role('{APP_ROLE}', c.relowner, 'MEMBER')
    """,
    "definer": """
        SELECT p.proname::text FROM pg_proc p
        WHERE p.pronamespace = 'public'::regnamespace AND p.prosecdef AND NOT EXISTS (
            SELECT 1 FROM unnest(p.proconfig) AS setting WHERE setting LIKE 'search_path=%pg_temp')
    """,
    "definer_for_all": """
        SELECT p.proname::text FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.prosecdef
        AND (p.proacl IS NULL OR EXISTS (SELECT 1 FROM aclexplode(p.proacl) WHERE grantee = 0))
    """,
}
PLANTED: Final = {
    "primary_key": "CREATE TABLE planted (id uuid PRIMARY KEY, tenant_id uuid)",
    "unique": "CREATE TABLE planted (tenant_id uuid PRIMARY KEY, name text UNIQUE)",
    "index": "CREATE TABLE planted (tenant_id uuid PRIMARY KEY, name text); CREATE INDEX ON planted (name)",
    "foreign_key": "CREATE TABLE planted (tenant_id uuid PRIMARY KEY, key uuid REFERENCES api_keys (id))",
    "row_security": "CREATE TABLE planted (tenant_id uuid PRIMARY KEY); ALTER TABLE planted ENABLE ROW LEVEL SECURITY",
    "policy": "CREATE TABLE planted (tenant_id uuid PRIMARY KEY);"
    f" CREATE POLICY p ON planted TO {APP_ROLE} USING (true)",
    "owner": "CREATE TABLE planted (n integer)",  # asked as if the application were the role that made it
    "definer": "CREATE FUNCTION planted() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
    "definer_for_all": "CREATE FUNCTION planted() RETURNS int LANGUAGE sql SECURITY DEFINER"
    " SET search_path = public, pg_temp AS 'SELECT 1'",
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    running = Parts(Path(tmp_path_factory.mktemp("schema")))
    try:
        running.start_postgres()
        yield running
    finally:
        running.stop_all()


def broken(parts: Parts, rule: str, planted: str = "", role: str = APP_ROLE) -> list[str]:
    """What breaks a rule, with a fault planted that is taken back."""

    async def ask() -> list[Any]:
        connection = await asyncpg.connect(parts.settings.postgres_owner_url.get_secret_value())
        try:
            transaction = connection.transaction()
            await transaction.start()
            if planted:
                await connection.execute(planted)
            found: list[Any] = await connection.fetch(RULES[rule].replace(f"'{APP_ROLE}'", f"'{role}'"))
            await transaction.rollback()
        finally:
            await connection.close()
        return found

    return [row[0] for row in asyncio.run(ask())]


@pytest.mark.parametrize("rule", RULES)
def test_every_table_keeps_the_rules(parts: Parts, rule: str) -> None:
    """The tenant is part of every key, row security is forced, and no way leads around it."""
    assert {(rule, table) for table in broken(parts, rule)} == {key for key in EXEMPT if key[0] == rule}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_sees_its_planted_fault(parts: Parts, rule: str) -> None:
    """A rule that cannot fail protects nothing."""
    role = "afluente_owner" if rule == "owner" else APP_ROLE
    assert "planted" in broken(parts, rule, PLANTED[rule], role)


def test_the_application_cannot_step_around_row_security(parts: Parts) -> None:
    """Its role is no superuser, does not bypass row security, and may create nothing."""

    async def ask() -> Any:
        connection = await asyncpg.connect(parts.settings.postgres_url.get_secret_value())
        try:
            return await connection.fetchrow(
                "SELECT rolsuper, rolbypassrls, rolcreaterole, rolreplication, has_schema_privilege('public', 'CREATE')"
                " FROM pg_roles WHERE rolname = current_user"
            )
        finally:
            await connection.close()

    assert tuple(asyncio.run(ask())) == (False,) * 5
