"""Migrations in steps: a full table gets its versions while others go on writing, also when the migration dies."""

import asyncio
import itertools
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.migrate import LOCK_WAIT_S, SCHEMAS, Migration, MigrationRefused, migrate_postgres, read_migrations
from tests.support.edge_parts import Parts

Connection = Any  # of asyncpg, as an owner of the tables
FILES = {one.number: one for one in read_migrations(SCHEMAS / "postgres")}
ROWS = 1_000_000
FREE = ROWS - 5  # the last rows are held by somebody who takes his time
# A writer may wait for one batch, or behind a step that waits LOCK_WAIT_S for a lock; with room for a busy machine.
LOCK_BOUND_S = LOCK_WAIT_S + 2.0


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    running = Parts(Path(tmp_path_factory.mktemp("versions")))
    try:
        running.start_postgres(migrate=False)
        yield running
    finally:
        running.stop_all()


@pytest.fixture
async def owner(parts: Parts) -> AsyncIterator[Connection]:
    """An empty database."""
    connection = await connect(parts)
    await connection.execute(
        "DROP PUBLICATION IF EXISTS afluente_bills; DROP SCHEMA public CASCADE; CREATE SCHEMA public"
    )
    yield connection
    await connection.close()


async def connect(parts: Parts) -> Connection:
    return await asyncpg.connect(parts.settings.postgres_owner_url.get_secret_value())


async def migrate(parts: Parts, *files: Migration) -> None:
    connection = await connect(parts)
    try:
        await migrate_postgres(connection, files)
    finally:
        await connection.close()


async def fill(connection: Connection, rows: int) -> uuid.UUID:
    """Rows as they were before there were versions."""
    tenant: uuid.UUID = await connection.fetchval("INSERT INTO tenants (name) VALUES ('full') RETURNING id")
    await connection.execute(
        "INSERT INTO bills"
        " (tenant_id, id, user_id, category, amount, currency, due_date, created_at, updated_at, actor)"
        " SELECT $1, lpad(to_hex(n), 32, '0')::uuid, 'u' || n % 100, 'c' || n % 10, n % 1000 + 1, 'BRL',"
        " '2026-01-01'::date + n % 700, '2026-01-01', '2026-01-01', 'before' FROM generate_series(1, $2::int) AS n",
        tenant, rows,
    )  # fmt: skip
    return tenant


class Writer:
    """Updates random rows, one a transaction, as an edge does, and remembers how long each took."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.longest_s = 0.0
        self.ending = False
        self.updates: dict[int, int] = {}  # since versions are counted

    async def run(self) -> None:
        chance = random.Random(1)
        while not self.ending:
            number = chance.randint(1, FREE)
            began = time.monotonic()
            version = await self._connection.fetchval(
                "UPDATE bills SET category = 'touched' WHERE id = lpad(to_hex($1::int), 32, '0')::uuid"
                " AND tenant_id = (SELECT id FROM tenants) RETURNING to_jsonb(bills) ->> 'version'",
                number,
            )
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            if version is not None:
                self.updates[number] = self.updates.get(number, 0) + 1
            await asyncio.sleep(0.002)


async def longest_batch(connection: Connection, ages: list[float]) -> None:
    """Watches how long a transaction of the backfill has held the rows that it updates."""
    while True:
        age = await connection.fetchval(
            "SELECT extract(epoch FROM max(clock_timestamp() - xact_start)) FROM pg_stat_activity"
            " WHERE query LIKE '%UPDATE bills SET version = 1%' AND state <> 'idle' AND pid <> pg_backend_pid()"
        )
        ages.append(float(age or 0))
        await asyncio.sleep(0.02)


@pytest.mark.timeout(900)
async def test_a_million_rows_get_their_versions_while_others_write(parts: Parts, owner: Connection) -> None:
    """No writer waits longer than the bound, a killed backfill goes on where it was, and no row is left out."""
    await migrate(parts, *[FILES[number] for number in (1, 2, 3)])
    await fill(owner, ROWS)
    writing, watching, holding = [await connect(parts) for _ in range(3)]
    writer, ages = Writer(writing), [0.0]
    beside = [asyncio.create_task(writer.run()), asyncio.create_task(longest_batch(watching, ages))]
    files = [FILES[number] for number in (1, 2, 3, 4)]
    try:
        first = await connect(parts)
        dying = asyncio.create_task(migrate_postgres(first, files))
        await until(lambda: _numbered(owner, ROWS // 4))
        held = holding.transaction()  # somebody who keeps rows for longer than a batch may wait
        await held.start()
        await holding.execute("SELECT 1 FROM bills WHERE id > lpad(to_hex($1::int), 32, '0')::uuid FOR UPDATE", FREE)
        assert await owner.fetchval("SELECT pg_terminate_backend($1)", first.get_server_pid())
        with pytest.raises((MigrationRefused, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await dying
        assert not await _steps(owner, 3), "the columns and the indexes were done; the backfill was not"
        second = asyncio.create_task(migrate(parts, *files))
        await until(lambda: _steps(owner, 3))
        await held.rollback()
        await second
    finally:
        writer.ending = True
        await beside[0]
        beside[1].cancel()
        await asyncio.wait(beside)
        for connection in (writing, watching, holding):
            await connection.close()
    assert writer.updates, "the writer got in between"
    assert writer.longest_s < LOCK_BOUND_S
    assert 0 < max(ages) < LOCK_BOUND_S
    await _check(owner, writer.updates)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it holds."""
    async with asyncio.timeout(300):
        for _ in itertools.count():
            if await holds():
                return
            await asyncio.sleep(0.1)


async def _steps(connection: Connection, count: int) -> bool:
    """Whether so many steps are done."""
    query = "SELECT count(*) >= $1 FROM schema_migration_steps WHERE number = 4"
    return bool(await connection.fetchval(query, count))


async def _numbered(connection: Connection, rows: int) -> bool:
    """Whether so many rows have a version; cheap enough to be asked often."""
    if not await connection.fetchval(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'bills'::regclass AND attname = 'version'"
    ):
        return False
    there: bool = await connection.fetchval(
        "SELECT version IS NOT NULL FROM bills WHERE id = lpad(to_hex($1::int), 32, '0')::uuid"
        " AND tenant_id = (SELECT id FROM tenants)",
        rows,
    )
    return there


async def _check(connection: Connection, updates: dict[int, int]) -> None:
    rows = await connection.fetch("SELECT id, version FROM bills WHERE version <> 1")
    assert {row["id"].int: row["version"] - 1 for row in rows} == updates
    still = await connection.fetchrow(
        "SELECT count(*) AS rows, count(version) AS versions, max(updated_at)::date::text AS latest,"
        " max(actor) AS actor FROM bills WHERE version = 1"
    )
    assert tuple(still) == (ROWS - len(updates), ROWS - len(updates), "2026-01-01", "before")
    nullable = await connection.fetch(
        "SELECT attrelid::regclass::text FROM pg_attribute WHERE attname = 'version' AND NOT attnotnull"
        " AND attrelid IN ('bills'::regclass, 'bill_occurrences'::regclass)"
    )
    indexes = await connection.fetch("SELECT relname FROM pg_class WHERE relname LIKE '%_unversioned'")
    checks = await connection.fetch("SELECT conname FROM pg_constraint WHERE conname LIKE '%_versioned'")
    assert (nullable, indexes, checks) == ([], [], [])


async def test_a_version_counts_whatever_the_client_sends(parts: Parts, owner: Connection) -> None:
    """1, then one more each time; time and actor are set too, from the setting or from the role."""
    await migrate(parts, *[FILES[number] for number in (1, 2, 3, 4)])
    tenant = await fill(owner, 1)
    await owner.execute(
        "INSERT INTO bill_occurrences"
        " (tenant_id, bill_id, user_id, number, installments, amount, currency, due_date, version)"
        " SELECT tenant_id, id, 'u', 1, 1, 1, 'BRL', '2026-01-01', 99 FROM bills"
    )
    for table in ("bills", "bill_occurrences"):
        seen = [await owner.fetchrow(f"SELECT version, actor FROM {table}")]
        seen.append(
            await owner.fetchrow(
                f"UPDATE {table} SET version = 1000, updated_at = '1999-01-01', actor = 'me' RETURNING version, actor"
            )
        )
        async with owner.transaction():
            await owner.execute("SELECT set_config('afluente.actor', 'key:1', true)")
            seen.append(await owner.fetchrow(f"UPDATE {table} SET version = NULL RETURNING version, actor"))
        assert [tuple(row) for row in seen] == [(1, "afluente_owner"), (2, "afluente_owner"), (3, "key:1")]
        assert await owner.fetchval(f"SELECT updated_at > now() - interval '1 minute' FROM {table}")
    assert tenant


STEPS = """\
-- A table, and rows in it that are counted down.
-- migrate: transaction
CREATE TABLE steps (n integer);
INSERT INTO steps SELECT generate_series(1, 10);
-- migrate: repeat
DELETE FROM steps WHERE n IN (SELECT n FROM steps WHERE n > 3 LIMIT 2);
-- migrate: outside
DROP INDEX CONCURRENTLY IF EXISTS steps_n;
CREATE INDEX CONCURRENTLY steps_n ON steps (n);
-- migrate: transaction
{last};
"""


def written(folder: Path, text: str) -> Migration:
    path = folder / "0001_steps.sql"
    path.write_text(text)
    return read_migrations(folder)[0]


async def test_a_file_in_steps_goes_on_where_it_stopped(parts: Parts, owner: Connection, tmp_path: Path) -> None:
    """A failed step leaves those before it done; mended, it goes on; a step that was applied may not be edited."""
    with pytest.raises(MigrationRefused, match="nope"):
        await migrate(parts, written(tmp_path, STEPS.format(last="SELECT nope")))
    assert await owner.fetchval("SELECT count(*) FROM steps") == 3
    with pytest.raises(MigrationRefused, match="first 3 steps"):
        await migrate(parts, written(tmp_path, STEPS.replace("10", "11").format(last="SELECT 1")))
    for _ in range(2):
        await migrate(parts, written(tmp_path, STEPS.format(last="ALTER TABLE steps ADD COLUMN m integer")))
    assert await owner.fetchval("SELECT count(*) FROM schema_migrations") == 1
    assert await owner.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'steps_n'::regclass")


async def test_a_step_waits_in_turns_for_a_lock(parts: Parts, owner: Connection, tmp_path: Path) -> None:
    """While somebody holds the table, the step asks and lets go, so readers behind it get through; then it is done."""
    await owner.execute("CREATE TABLE held (n integer)")
    holder, reader = [await connect(parts) for _ in range(2)]
    holding = holder.transaction()
    await holding.start()
    await holder.execute("SELECT * FROM held")
    step = asyncio.create_task(migrate(parts, written(tmp_path, "ALTER TABLE held ADD COLUMN m integer;")))
    reads: list[float] = [time.monotonic()]
    while reads[-1] - reads[0] < 3 * LOCK_WAIT_S:
        await reader.fetch("SELECT count(*) FROM held")
        reads.append(time.monotonic())
        await asyncio.sleep(0.05)
    assert not step.done()
    await holding.rollback()
    await step
    assert max(after - before for before, after in itertools.pairwise(reads)) < LOCK_BOUND_S
    assert await owner.fetch("SELECT m FROM held") == []
    for connection in (holder, reader):
        await connection.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SELECT 1;\n-- migrate: transaction\nSELECT 2;", "belong to no step"),
        ("-- migrate: sometimes\nSELECT 2;", "transaction, repeat, outside"),
        ("-- migrate: repeat\nCREATE TABLE x (n integer);", "INSERT, UPDATE or DELETE"),
    ],
)
async def test_a_file_that_makes_no_sense_is_refused(
    parts: Parts, owner: Connection, tmp_path: Path, text: str, says: str
) -> None:
    """The operator reads what a step may be."""
    assert owner
    with pytest.raises(MigrationRefused, match=says):
        await migrate(parts, written(tmp_path, text))
