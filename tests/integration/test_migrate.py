"""Migrations on a real Postgres and the real ClickHouse engine: once, in order, together, and refused when edited."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from app.migrate import SCHEMAS, MigrationRefused, Step, migrate
from app.settings import Settings
from tests.support.clickhouse_server import PASSWORD, ClickHouseServer
from tests.support.edge_parts import Parts


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Parts, ClickHouseServer]]:
    """One Postgres and one ClickHouse for the module."""
    parts = Parts(tmp_path_factory.mktemp("postgres"))
    clickhouse = ClickHouseServer(tmp_path_factory.mktemp("clickhouse"))
    try:
        parts.start_postgres(migrate=False)
        yield parts, clickhouse.start()
    finally:
        parts.stop_all()
        clickhouse.stop()


@pytest.fixture
async def settings(servers: tuple[Parts, ClickHouseServer]) -> Settings:
    """Settings that see both stores, empty."""
    parts, clickhouse = servers
    owner = parts.settings.postgres_owner_url.get_secret_value()
    connection = await asyncpg.connect(owner)
    await connection.execute("DROP PUBLICATION IF EXISTS afluente_bills")
    for kind in ("table", "function"):
        names = await connection.fetch(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            if kind == "table"
            else "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        )
        for name in names:
            await connection.execute(f"DROP {kind} {name[0]} CASCADE")
    await connection.close()
    clickhouse.query("DROP DATABASE IF EXISTS afluente SYNC")
    return parts.settings.model_copy(
        update={"clickhouse_url": clickhouse.url, "clickhouse_password": clickhouse.settings.clickhouse_password}
    )


@pytest.fixture
def schemas(tmp_path: Path) -> Path:
    """A copy of the migrations that a test may edit."""
    for store in ("postgres", "clickhouse"):
        shutil.copytree(SCHEMAS / store, tmp_path / store)
    return tmp_path


def states(steps: list[Step]) -> set[str]:
    return {step.state for step in steps}


async def test_a_second_run_finds_everything_known(settings: Settings, servers: tuple[Parts, ClickHouseServer]) -> None:
    """Applied once, recorded with its checksum on each side, known ever after; a dry run changes nothing."""
    dry = await migrate(settings, dry_run=True)
    assert states(dry) == {"pending"}
    assert servers[1].query("SELECT count() FROM system.databases WHERE name = 'afluente'") == "0"
    first = await migrate(settings)
    assert states(first) == {"applied"}
    assert states(await migrate(settings)) == {"known"}
    assert states(await migrate(settings, dry_run=True)) == {"known"}
    recorded = servers[1].query("SELECT file, checksum FROM afluente.schema_migrations ORDER BY number")
    assert recorded.splitlines() == [f"{s.file}\t{s.checksum}" for s in first if s.store == "clickhouse"]
    tables = servers[1].query(
        "SELECT name, engine FROM system.tables WHERE database = 'afluente' AND name LIKE '%events'"
    )
    assert tables.splitlines() == ["gateway_events\tReplacingMergeTree", "tracking_events\tReplacingMergeTree"]


async def test_two_at_once_apply_each_file_once(settings: Settings) -> None:
    """Whoever comes second waits for the lock and finds the work done."""
    runs = await asyncio.gather(*[migrate(settings) for _ in range(4)])
    assert sorted(map(sorted, map(states, runs))) == [["applied"], ["known"], ["known"], ["known"]]


@pytest.mark.parametrize("store", ["postgres", "clickhouse"])
async def test_an_edited_file_changes_nothing(settings: Settings, schemas: Path, store: str) -> None:
    """An applied file that was edited is refused by name, and later files stay unapplied."""
    await migrate(settings, schemas=schemas)
    edited = min((schemas / store).glob("*.sql"))
    edited.write_text(edited.read_text() + "\n-- harmless?\n")
    (schemas / store / "0999_later.sql").write_text("SELECT 1;")
    with pytest.raises(MigrationRefused, match=edited.name):
        await migrate(settings, schemas=schemas)


async def test_a_failing_file_leaves_no_record(settings: Settings, schemas: Path) -> None:
    """A refused file is reported with the server's words; mended, it is applied from its first line."""
    broken = {
        "postgres": ("CREATE TABLE half (a int); SELECT nope;", "CREATE TABLE half (a int);"),
        "clickhouse": (
            "CREATE TABLE IF NOT EXISTS {database}.half (a Int8) ENGINE = Memory; SELECT nope;",
            "CREATE TABLE IF NOT EXISTS {database}.half (a Int8) ENGINE = Memory;",
        ),
    }
    for store, (bad, good) in broken.items():
        path = schemas / store / "0900_half.sql"
        path.write_text(bad)
        with pytest.raises(MigrationRefused, match=r"0900_half.sql.*nope"):
            await migrate(settings, schemas=schemas)
        path.write_text(good)
    steps = await migrate(settings, schemas=schemas)
    assert [s.store for s in steps if s.file == "0900_half.sql" and s.state == "applied"] == ["clickhouse"]


async def test_a_store_that_is_away_is_named(settings: Settings) -> None:
    """The operator reads which store does not answer and where; a password is in no sentence."""
    away = settings.model_copy(update={"clickhouse_url": "http://127.0.0.1:9"})
    with pytest.raises(MigrationRefused, match=r"ClickHouse at 127\.0\.0\.1:9") as caught:
        await migrate(away)
    assert PASSWORD not in str(caught.value)
