"""Tables before events: applies schemas/postgres and schemas/clickhouse in order, once, whoever runs it and how often.

`python -m app.migrate`. Each applied file is recorded beside what it made, with its SHA-256: an applied file that was
edited is refused, because nobody would know which of the two texts the tables came from. One Postgres advisory lock
guards both sides. A Postgres file and its record are one transaction; ClickHouse has none for DDL, so there every
statement must be `IF NOT EXISTS` and a file that failed halfway is run again from its first line.

A Postgres file that changes full tables is cut into steps, by comments at the beginning of a line; before the first one
there are only comments. A step is recorded when it is done, and a run that died goes on with the first that is not:

    -- migrate: transaction   the statements below are one transaction, as a whole file is without such comments
    -- migrate: repeat        the statements below run again and again, each time in a transaction of their own, until
                              the last touches no row: a backfill in bounded batches, which needs no place to resume at
    -- migrate: outside       the statements below run one by one without a transaction (CREATE INDEX CONCURRENTLY);
                              after a death from the first one again, so they must allow that

No transaction waits for a lock longer than LOCK_WAIT_S, since whoever comes behind it waits too; it is tried again.
"""

import asyncio
import hashlib
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import asyncpg
import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import Error as ClickHouseError

from app.settings import Settings

SCHEMAS = Path(__file__).resolve().parent.parent / "schemas"
FILE_NAME = re.compile(r"(?P<number>\d{4})_[a-z0-9_]+\.sql")
PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
SQL_PART = re.compile(r"'(?:[^'\\]|\\.)*'|`[^`]*`|--[^\n]*|/\*.*?\*/|;|[^;'`/-]+|.", re.DOTALL)
LOCK_KEY = 0x41464C55  # "AFLU": the advisory lock of everybody who migrates this database
LOCK_TIMEOUT_S = 120.0  # how long a second migrator waits for the first before it gives up
LOCK_ASKED_S = 0.2
LOCK_WAIT_S = 1.0  # a transaction that waits for a table lock holds up all that come after it
LOCK_ATTEMPTS_MAX = 60  # with the pauses between them, two minutes of somebody else's open transaction
LOCK_PAUSE_S = 1.0
REPEATS_MAX = 10_000_000  # a statement that never ends up with no row is a mistake of its file
REPEATS_LOGGED = 100  # one line for so many batches
CONNECT_TIMEOUT_S = 10.0
# How many inserts ClickHouse remembers the tokens of, per table. A range left open by a dead worker is replayed while
# others go on: at 8 partitions and 5 batches a second, 100,000 are 40 minutes. ZooKeeper lists them in one answer of
# at most 1 MB, which holds about 10,000; there the time is bounded too, and its default of an hour is too short.
DEDUPE_WINDOW_INSERTS = 100_000
REPLICATED_DEDUPE_WINDOW_INSERTS = 10_000
REPLICATED_DEDUPE_WINDOW_S = 7 * 24 * 3600  # as long as the source topics keep their records
RECORDS = "schema_migrations"
STEP_RECORDS = "schema_migration_steps"
STEP_MARK = re.compile(r"^-- migrate:[ \t]*(.*?)[ \t]*$", re.MULTILINE)
STEP_KINDS = ("transaction", "repeat", "outside")
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
log = logging.getLogger("afluente.migrate")


class MigrationRefused(Exception):  # noqa: N818 - a finding about the files or the servers, told to an operator
    """What is wrong, in which file or server, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file as it is in this checkout."""

    number: int
    path: Path
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file, placeholders unfilled: the same on every kind of server."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Part:
    """One step of a Postgres file."""

    kind: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of kind and text."""
        return hashlib.sha256(f"{self.kind}\n{self.text}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one file: `applied` now, `pending` (a dry run), or `known` from before."""

    store: str
    file: str
    checksum: str
    state: str


def read_migrations(folder: Path) -> list[Migration]:
    """The files of a folder in order. A stray name or a number used twice is refused."""
    found: dict[int, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        name = FILE_NAME.fullmatch(path.name)
        if name is None:
            raise MigrationRefused(f"{path}: a migration is named NNNN_words.sql, in lower case")
        number = int(name["number"])
        if number in found:
            raise MigrationRefused(f"{path}: number {number:04} is already used by {found[number].path.name}")
        found[number] = Migration(number, path, path.read_text(encoding="utf-8"))
    return [found[number] for number in sorted(found)]


def pending(migrations: Sequence[Migration], records: dict[int, str]) -> list[Migration]:
    """What is still to be applied, given the recorded checksums. Refuses a history that is not this checkout's."""
    known = {migration.number: migration for migration in migrations}
    for number, checksum in sorted(records.items()):
        if number not in known:
            raise MigrationRefused(f"migration {number:04} is applied but not in this checkout: deploy newer code")
        if known[number].checksum != checksum:
            raise MigrationRefused(
                f"{known[number].path} was edited after it was applied: applied {checksum}, now "
                f"{known[number].checksum}. Restore the file and write a new migration with the next number"
            )
    rest = [migration for migration in migrations if migration.number not in records]
    if rest and records and rest[0].number < max(records):
        raise MigrationRefused(f"{rest[0].path} comes before {max(records):04}, which is applied: give it a new number")
    return rest


def parts_of(migration: Migration) -> list[Part]:
    """The steps of a Postgres file; a file without marks is one transaction."""
    head, *rest = STEP_MARK.split(migration.text)
    if not rest:
        return [Part("transaction", migration.text)]
    if "".join(_without_comments(head)).strip():
        raise MigrationRefused(f"{migration.path}: statements before the first `-- migrate:` belong to no step")
    parts = [Part(kind, text) for kind, text in zip(rest[::2], rest[1::2], strict=True)]
    for part in parts:
        if part.kind not in STEP_KINDS:
            allowed = ", ".join(STEP_KINDS)
            raise MigrationRefused(f"{migration.path}: unknown step `-- migrate: {part.kind}`; allowed: {allowed}")
    return parts


def placeholders(settings: Settings) -> dict[str, str]:
    """What ClickHouse files may leave open. {shard}, {replica} and {table} of the result are the server's macros."""
    if not settings.clickhouse_cluster:
        return {
            "database": settings.clickhouse_database,
            "on_cluster": "",
            "replicated": "",
            "replica_path": "",
            "dedupe_window": f"non_replicated_deduplication_window = {DEDUPE_WINDOW_INSERTS}",
        }
    return {
        "database": settings.clickhouse_database,
        "on_cluster": f"ON CLUSTER `{settings.clickhouse_cluster}`",
        "replicated": "Replicated",
        "replica_path": f"'/clickhouse/tables/{{shard}}/{settings.clickhouse_database}/{{table}}', '{{replica}}', ",
        "dedupe_window": f"replicated_deduplication_window = {REPLICATED_DEDUPE_WINDOW_INSERTS},"
        f" replicated_deduplication_window_seconds = {REPLICATED_DEDUPE_WINDOW_S}",
    }


def render(migration: Migration, settings: Settings) -> list[str]:
    """The statements of a ClickHouse file, placeholders filled, comments gone."""
    filling = placeholders(settings)

    def fill(found: re.Match[str]) -> str:
        if found[1] not in filling:
            allowed = ", ".join(f"{{{name}}}" for name in filling)
            raise MigrationRefused(f"{migration.path}: unknown placeholder {found[0]}; allowed: {allowed}")
        return filling[found[1]]

    return list(statements(PLACEHOLDER.sub(fill, "".join(_without_comments(migration.text)))))


def statements(sql: str) -> Iterator[str]:
    """Cut a script at its semicolons, those in strings excepted."""
    current: list[str] = []
    for part in [*_without_comments(sql), ";"]:
        if part != ";":
            current.append(part)
            continue
        if statement := "".join(current).strip():
            yield statement
        current.clear()


def _without_comments(sql: str) -> Iterable[str]:
    parts = (found.group() for found in SQL_PART.finditer(sql))
    return (part for part in parts if not part.startswith(("--", "/*")))


class ClickHouse:
    """The ClickHouse side: DDL statement by statement, records in a table of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        place = urlsplit(settings.clickhouse_url)
        try:
            self._client: Client = clickhouse_connect.get_client(
                host=place.hostname or "",
                port=place.port or 8123,
                secure=place.scheme == "https",
                username=settings.clickhouse_user,
                password=settings.clickhouse_password.get_secret_value(),
                connect_timeout=int(CONNECT_TIMEOUT_S),
                autogenerate_session_id=False,
            )
        except ClickHouseError as error:
            raise MigrationRefused(f"ClickHouse at {place.hostname}:{place.port}: {error}") from error
        self._table = f"{settings.clickhouse_database}.{RECORDS}"

    def migrate(self, migrations: Sequence[Migration], *, dry_run: bool) -> list[Step]:
        """Apply what is pending, in order."""
        records = self._records()
        rest = pending(migrations, records)
        if rest and not dry_run:
            self._make_table()
        for migration in rest if not dry_run else ():
            for statement in render(migration, self._settings):
                self._command(migration, statement)
            row = (migration.number, migration.path.name, migration.checksum)
            self._client.insert(self._table, [row], column_names=["number", "file", "checksum"])
            log.info("migrate: clickhouse %s applied", migration.path.name)
        return _steps("clickhouse", migrations, rest, dry_run=dry_run)

    def _records(self) -> dict[int, str]:
        database = self._settings.clickhouse_database
        there = "SELECT count() FROM system.tables WHERE database = {database:String} AND name = {name:String}"
        if self._client.query(there, parameters={"database": database, "name": RECORDS}).result_rows != [(1,)]:
            return {}
        select = f"SELECT number, checksum FROM {self._table}"  # nosec B608 # noqa: S608 - a setting
        rows = self._client.query(select).result_rows
        return {int(row[0]): str(row[1]) for row in rows}

    def _make_table(self) -> None:
        filling = placeholders(self._settings)
        engine = "MergeTree"
        if self._settings.clickhouse_cluster:
            # One history for the whole cluster: every node of every shard is a replica of it.
            engine = f"ReplicatedMergeTree('/clickhouse/tables/{self._table}', '{{shard}}-{{replica}}')"
        self._client.command(f"CREATE DATABASE IF NOT EXISTS {filling['database']} {filling['on_cluster']}")
        self._client.command(
            f"CREATE TABLE IF NOT EXISTS {self._table} {filling['on_cluster']} (number UInt32, file String,"
            f" checksum String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3)) ENGINE = {engine} ORDER BY number"
        )

    def _command(self, migration: Migration, statement: str) -> None:
        try:
            self._client.command(statement)
        except ClickHouseError as error:
            first_line = statement.splitlines()[0]
            raise MigrationRefused(f"{migration.path}: ClickHouse refuses `{first_line} ...`: {error}") from error


async def migrate_postgres(
    connection: Connection, migrations: Sequence[Migration], *, dry_run: bool = False
) -> list[Step]:
    """Apply what is pending, in order: each file and its record in one transaction, or step by step."""
    parts = {migration.number: parts_of(migration) for migration in migrations}
    records: dict[int, str] = {}
    if await connection.fetchval("SELECT to_regclass($1)", RECORDS):
        rows = await connection.fetch(f"SELECT number, checksum FROM {RECORDS}")  # nosec B608 # noqa: S608 - a constant
        records = {row["number"]: row["checksum"] for row in rows}
    rest = pending(migrations, records)
    if rest and not dry_run:
        # A full table takes its time, and whoever would be held up is protected by LOCK_WAIT_S.
        await connection.execute(
            "SET statement_timeout = 0; SET lock_timeout = 0;"
            f"CREATE TABLE IF NOT EXISTS {RECORDS} (number integer PRIMARY KEY, file text NOT NULL,"
            " checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());"
            f"CREATE TABLE IF NOT EXISTS {STEP_RECORDS} (number integer, step integer, checksum text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (number, step))"
        )
    for migration in rest if not dry_run else ():
        try:
            await _apply(connection, migration, parts[migration.number])
        except asyncpg.PostgresError as error:
            raise MigrationRefused(f"{migration.path}: Postgres refuses it: {error}") from error
        log.info("migrate: postgres %s applied", migration.path.name)
    return _steps("postgres", migrations, rest, dry_run=dry_run)


async def _apply(connection: Connection, migration: Migration, parts: Sequence[Part]) -> None:
    insert = f"INSERT INTO {RECORDS} (number, file, checksum) VALUES ($1, $2, $3)"  # nosec B608 # noqa: S608
    record = (insert, migration.number, migration.path.name, migration.checksum)
    if len(parts) == 1 and parts[0].kind == "transaction":
        await _in_transaction(connection, parts[0].text, record)
        return
    done = await _steps_done(connection, migration, parts)
    for step, part in list(enumerate(parts))[done:]:
        values = "VALUES ($1, $2, $3)"
        insert_step = f"INSERT INTO {STEP_RECORDS} (number, step, checksum) {values}"  # nosec B608 # a constant
        step_record = (insert_step, migration.number, step, part.checksum)
        if part.kind == "transaction":
            await _in_transaction(connection, part.text, step_record)
            continue
        if part.kind == "repeat":
            await _repeat(connection, migration, part)
        else:
            for statement in statements(part.text):
                await connection.execute(statement)
        await connection.execute(*step_record)
        log.info("migrate: postgres %s step %d of %d", migration.path.name, step + 1, len(parts))
    await connection.execute(*record)


async def _steps_done(connection: Connection, migration: Migration, parts: Sequence[Part]) -> int:
    """How many steps an earlier run has applied. They must be in the file as they were; later ones may be mended."""
    select = f"SELECT checksum FROM {STEP_RECORDS} WHERE number = $1 ORDER BY step"  # nosec B608 # noqa: S608
    done = [row["checksum"] for row in await connection.fetch(select, migration.number)]
    if done != [part.checksum for part in parts[: len(done)]]:
        raise MigrationRefused(
            f"{migration.path} was edited in the first {len(done)} steps, which are applied: restore these; later"
            " steps may be changed"
        )
    return len(done)


async def _repeat(connection: Connection, migration: Migration, part: Part) -> None:
    touched = 0
    for batch in range(1, REPEATS_MAX + 1):
        answer = (await _in_transaction(connection, part.text)).rsplit(" ", 1)[-1]
        if not answer.isdecimal():
            raise MigrationRefused(f"{migration.path}: a repeated step ends with an INSERT, UPDATE or DELETE")
        if answer == "0":
            return
        touched += int(answer)
        if batch % REPEATS_LOGGED == 0:
            log.info("migrate: postgres %s: %d rows so far", migration.path.name, touched)
    raise MigrationRefused(f"{migration.path}: a repeated step still found rows after {REPEATS_MAX} times")


async def _in_transaction(connection: Connection, text: str, record: Sequence[object] = ()) -> str:
    """One transaction and what it answered; tried again when it met a lock, so that nobody has to wait behind it."""
    for attempt in range(1, LOCK_ATTEMPTS_MAX + 1):
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {int(LOCK_WAIT_S * 1000)}")
                answer = await connection.execute(text)
                if record:
                    await connection.execute(*record)  # type: ignore[arg-type] # a query and its parameters
                return answer
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            if attempt == LOCK_ATTEMPTS_MAX:
                raise
            log.info("migrate: postgres: a lock is held by somebody else, attempt %d", attempt)
            await asyncio.sleep(LOCK_PAUSE_S)
    raise AssertionError("unreachable: the last attempt returns or raises")


def _steps(store: str, migrations: Sequence[Migration], rest: Sequence[Migration], *, dry_run: bool) -> list[Step]:
    states = {migration.number: "pending" if dry_run else "applied" for migration in rest}
    return [Step(store, one.path.name, one.checksum, states.get(one.number, "known")) for one in migrations]


async def migrate(settings: Settings, *, dry_run: bool = False, schemas: Path = SCHEMAS) -> list[Step]:
    """Bring both stores to this checkout's schema. Raises MigrationRefused, in words for an operator."""
    postgres_files = read_migrations(schemas / "postgres")
    clickhouse_files = read_migrations(schemas / "clickhouse")
    for migration in clickhouse_files:
        render(migration, settings)  # a file that cannot be rendered is found before anything is touched
    url = settings.postgres_owner_url.get_secret_value() or settings.postgres_url.get_secret_value()
    place = urlsplit(url)
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise MigrationRefused(f"Postgres at {place.hostname}:{place.port}: {error or type(error).__name__}") from error
    try:
        await _lock(connection)
        steps = await migrate_postgres(connection, postgres_files, dry_run=dry_run)
        clickhouse = await asyncio.to_thread(ClickHouse, settings)
        return steps + await asyncio.to_thread(clickhouse.migrate, clickhouse_files, dry_run=dry_run)
    finally:
        await connection.close()


async def _lock(connection: Connection) -> None:
    # Asked again and again: a statement that waits has a snapshot, and an index built CONCURRENTLY waits for that.
    for _ in range(int(LOCK_TIMEOUT_S / LOCK_ASKED_S)):
        if await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):
            return
        await asyncio.sleep(LOCK_ASKED_S)
    raise MigrationRefused(f"another migration has held the lock for {LOCK_TIMEOUT_S:g} s")


def main() -> int:
    """Entry of `python -m app.migrate`."""
    settings = Settings.load()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        steps = asyncio.run(migrate(settings))
    except MigrationRefused as refusal:
        log.critical("migrate: %s", refusal)
        return 1
    log.info("migrate: %d files, %d applied now", len(steps), sum(step.state == "applied" for step in steps))
    return 0


if __name__ == "__main__":
    sys.exit(main())
