"""The stores of an embedded stack, copied while they run and put back into an empty home: ClickHouse, Postgres."""

import os
import shutil
import tarfile
from pathlib import Path
from typing import Final

import httpx
from pydantic import PostgresDsn

from app.settings import Settings
from infra.local import postgres
from infra.local.clickhouse_sql import quoted
from infra.local.environment import CDC_ROLE, password_of
from infra.local.faults import Fault
from infra.local.home import PRIVATE_DIR_MODE, Home, exports
from infra.local.launch import give_to_unprivileged

COPY_S: Final = 4 * 3600.0  # of a whole database, over a slow disk
CONNECT_S: Final = 5.0
# Versions of mirrored rows are places in Postgres' log. A restored Postgres would write at places that the lost one has
# used, and what is newer would lose against it. So it goes on behind them: 0x100 log files of 4 GiB, 1 TiB of log.
LOG_FILES_AHEAD: Final = 0x100
SEGMENT: Final = "First log segment after reset:"


class CopyFailed(Fault):
    """A store could not be copied or put back. The text is the store's own."""


def ask_clickhouse(settings: Settings, query: str) -> str:
    """One statement that may take long. Raises CopyFailed."""
    headers = {
        "X-ClickHouse-User": settings.clickhouse_user,
        "X-ClickHouse-Key": settings.clickhouse_password.get_secret_value(),
    }
    timeout = httpx.Timeout(COPY_S, connect=CONNECT_S)
    try:
        answer = httpx.post(settings.clickhouse_url, content=query, headers=headers, timeout=timeout, trust_env=False)
    except httpx.HTTPError as error:
        raise CopyFailed(f"ClickHouse does not answer ({type(error).__name__}): is the stack up?") from None
    if not answer.is_success:
        raise CopyFailed(f"ClickHouse refuses: {answer.text[:500]}")
    return answer.text.strip()


def copy_clickhouse(home: Home, settings: Settings, name: str, target: Path) -> None:
    """A snapshot of every table's parts, each table at its own moment. Inserts go on."""
    exported = exports(home.root / "clickhouse")
    exported.mkdir(mode=PRIVATE_DIR_MODE, exist_ok=True)
    place = exported / name
    try:
        ask_clickhouse(settings, f"BACKUP DATABASE {settings.clickhouse_database} TO File({quoted(str(place))})")
        shutil.move(place, target)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def put_back_clickhouse(home: Home, settings: Settings, database: str, source: Path) -> None:
    """Into an engine that runs and has no such database."""
    place = exports(home.root / "clickhouse") / source.parent.name
    place.parent.mkdir(mode=PRIVATE_DIR_MODE, exist_ok=True)
    try:
        shutil.copytree(source, place)
        names = f"{database} AS {settings.clickhouse_database}"
        ask_clickhouse(settings, f"RESTORE DATABASE {names} FROM File({quoted(str(place))})")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def copy_postgres(settings: Settings, target: Path) -> None:
    """A base backup with the log that makes it whole. It is as Postgres was when this returns; writes go on."""
    url = settings.postgres_cdc_url.get_secret_value()
    place = PostgresDsn(url).hosts()[0]
    target.mkdir(mode=PRIVATE_DIR_MODE)
    postgres.run_client(
        [
            "pg_basebackup", "-h", str(place["host"]), "-p", str(place["port"]), "-U", CDC_ROLE, "-w",
            "-D", str(target), "-Ft", "-X", "stream", "--checkpoint=fast",
        ],
        {"PGPASSWORD": password_of(url)},
        COPY_S,
    )  # fmt: skip


def put_back_postgres(home: Home, source: Path) -> None:
    """The server's files, brought to the end of the log that came with them, and ahead of the lost server's log."""
    parent = home.root / "postgres"
    draft = parent / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=PRIVATE_DIR_MODE, parents=True)
    for archive, folder in (("base.tar", draft), ("pg_wal.tar", draft / "pg_wal")):
        with tarfile.open(source / archive) as packed:
            packed.extractall(folder, filter="data")
    draft.chmod(PRIVATE_DIR_MODE)
    for path in (parent, draft, *draft.rglob("*")):
        give_to_unprivileged(path)
    draft.rename(postgres.cluster(home))
    place = ["-D", str(postgres.cluster(home))]
    postgres.run(home, ["postgres", "--single", *place, "postgres"])  # recovers, and stops in good order
    postgres.run(home, ["pg_resetwal", *place, "-l", log_ahead(postgres.run(home, ["pg_resetwal", "-n", *place]))])


def log_ahead(told: str) -> str:
    """The log file that the server is to go on with, from what pg_resetwal tells of the one that would be next."""
    names = [line.removeprefix(SEGMENT).strip() for line in told.splitlines() if line.startswith(SEGMENT)]
    if not names:
        raise CopyFailed(f"pg_resetwal does not say which log file is next:\n{told}")
    timeline, log, segment = names[0][:8], names[0][8:16], names[0][16:]
    return f"{timeline}{int(log, 16) + LOG_FILES_AHEAD:08X}{segment}"


def free_bytes(folder: Path) -> int:
    """What the disk of a folder still takes."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
