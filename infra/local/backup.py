"""`./afluente backup`: what it does. The order makes it consistent; docs/backup.md says why.

1. where the consumer group stands in Kafka   2. ClickHouse   3. Postgres   4. secrets   5. checksums   6. the manifest

So all that the offsets call done is in the ClickHouse backup, and Postgres is not older than what mirrors it.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
from dotenv import dotenv_values

from app.settings import Settings
from infra.local import backup_positions, backup_stores
from infra.local.backup_manifest import RESTORING, UNFINISHED, Manifest, files_of, mark, verify
from infra.local.cdc_state import definition
from infra.local.connectors import LOOK_TIMEOUT_S, Connectors
from infra.local.faults import Fault
from infra.local.home import PRIVATE_DIR_MODE, PRIVATE_FILE_MODE, Home
from infra.local.record import living_supervisor
from infra.local.stack import Stack

VERSION: Final = "0.1.0"
CLICKHOUSE: Final = "clickhouse"
POSTGRES: Final = "postgres"
KAFKA: Final = "kafka"
SECRETS: Final = "local.env"
MASTER_KEY: Final = "AFLUENTE_MASTER_KEY"

Tell = Callable[[str], None]


@contextmanager
def _timed(seconds: dict[str, float], step: str, tell: Tell) -> Iterator[None]:
    tell(step)
    began = time.monotonic()
    yield
    seconds[step] = round(time.monotonic() - began, 2)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _require_embedded(settings: Settings) -> None:
    if settings.clickhouse_url != f"http://127.0.0.1:{settings.clickhouse_port}":
        raise Fault(
            "AFLUENTE_CLICKHOUSE_URL names a server of its own, and this command copies the embedded stack.\n"
            "docs/backup.md says which tools to use in production, and in which order."
        )


# -- create


def create(stack: Stack, folder: Path, tell: Tell) -> tuple[Path, Manifest]:
    """A backup of the running stack in a folder of its own below `folder`. Nothing stops meanwhile."""
    settings = stack.settings
    _require_embedded(settings)
    began = _now()
    name = f"afluente-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"[:-3] + "Z"
    draft = folder / f"{name}{UNFINISHED}"
    folder.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
    draft.mkdir(mode=PRIVATE_DIR_MODE)
    manifest = Manifest(
        id=name, began=began, group=settings.group_id, database=settings.clickhouse_database,
        cdc=(stack.home.root / "cdc").exists(), versions=asyncio.run(_versions(settings)),
    )  # fmt: skip
    try:
        _copy(stack.home, settings, manifest, draft, tell)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    whole = folder / name
    draft.rename(whole)
    return whole, manifest


def _copy(home: Home, settings: Settings, manifest: Manifest, draft: Path, tell: Tell) -> None:
    seconds = manifest.seconds
    with _timed(seconds, "positions", tell):
        manifest.positions = backup_positions.read_positions(settings)
        manifest.connector = asyncio.run(_connector(settings)) if manifest.cdc else {}
    with _timed(seconds, CLICKHOUSE, tell):
        backup_stores.copy_clickhouse(home, settings, manifest.id, draft / CLICKHOUSE)
    with _timed(seconds, POSTGRES, tell):
        backup_stores.copy_postgres(settings, draft / POSTGRES)
    shutil.copyfile(home.env_file, draft / SECRETS)
    (draft / SECRETS).chmod(PRIVATE_FILE_MODE)
    with _timed(seconds, "checksums", tell):
        manifest.files = {str(path.relative_to(draft)): mark(path, sync=True) for path in files_of(draft)}
    manifest.ended = _now()
    manifest.write(draft)


async def _versions(settings: Settings) -> dict[str, str]:
    connection = await asyncpg.connect(settings.postgres_owner_url.get_secret_value())
    try:
        number = str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()
    engine = await asyncio.to_thread(backup_stores.ask_clickhouse, settings, "SELECT version()")
    return {"afluente": VERSION, POSTGRES: number, CLICKHOUSE: engine}


async def _connector(settings: Settings) -> dict[str, Any]:
    async with Connectors(settings.connect_url, LOOK_TIMEOUT_S) as connectors:
        return await connectors.offset(definition().name)


# -- restore


@dataclass(slots=True)
class Restored:
    """What a restore did. `kept` stores were there and were left alone."""

    id: str
    restored: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    group: backup_positions.SetBack | None = None
    cdc: bool = False

    @property
    def document(self) -> dict[str, Any]:
        return {**asdict(self), "next": self.next_steps}

    @property
    def next_steps(self) -> list[str]:
        """What remains to be done, in this order."""
        return ["./afluente up", *(["./afluente reconcile bills --repair"] if self.cdc else [])]


def plan(stack: Stack, backup: Path) -> tuple[Manifest, list[str], list[str]]:
    """The backup, checked to the last byte; the stores that will be put back, and those that stay."""
    if living_supervisor(stack.home):
        raise Fault(f"The stack in {stack.home.root} runs: `./afluente down` first.")
    if faults := verify(backup):
        raise Fault(f"{backup} is not whole, and nothing was restored:\n" + "\n".join(f"  {one}" for one in faults))
    manifest = Manifest.read(backup)
    _forget_cut_off(stack.home)
    root = stack.home.root
    missing = [name for name in (CLICKHOUSE, POSTGRES) if not (root / name).exists()]
    if not missing:
        raise Fault(
            f"{root} has a ClickHouse and a Postgres: nothing is missing.\n"
            "Move the folder aside that is to be restored, or choose an empty AFLUENTE_HOME."
        )
    kept = [name for name in (CLICKHOUSE, POSTGRES, KAFKA) if name not in missing and (root / name).exists()]
    _check_secrets(stack.home, backup, kept)
    return manifest, missing, kept


def _forget_cut_off(home: Home) -> None:
    """A restore that was killed has left stores that are not whole: they go."""
    note = home.root / RESTORING
    if note.exists():
        for name in note.read_text("utf-8").split():
            shutil.rmtree(home.root / name, ignore_errors=True)


def _check_secrets(home: Home, backup: Path, kept: list[str]) -> None:
    if home.env_file.exists() and kept:
        here, there = dotenv_values(home.env_file), dotenv_values(backup / SECRETS)
        if here.get(MASTER_KEY) != there.get(MASTER_KEY):
            raise Fault(f"{home.env_file} has another {MASTER_KEY} than the backup: this is another stack's backup.")


def restore(stack: Stack, backup: Path, tell: Tell) -> Restored:
    """Put back what is missing in the home, and set the group to where it stood. Leaves the stack down."""
    began = time.monotonic()
    manifest, missing, kept = plan(stack, backup)
    done = Restored(manifest.id, missing, kept, {"verify": round(time.monotonic() - began, 2)}, cdc=manifest.cdc)
    home = stack.home
    home.create()
    (home.root / RESTORING).write_text("\n".join(missing), encoding="utf-8")
    if not (home.env_file.exists() and kept):
        shutil.copyfile(backup / SECRETS, home.env_file)
        home.env_file.chmod(PRIVATE_FILE_MODE)
    if manifest.cdc:
        (home.root / "cdc").touch()
    # What the workers remember is of rows that may be gone. They make it anew from Kafka.
    shutil.rmtree(home.root / "worker", ignore_errors=True)
    settings = stack.prepare()
    try:
        if POSTGRES in missing:
            with _timed(done.seconds, POSTGRES, tell):
                backup_stores.put_back_postgres(home, backup / POSTGRES)
        if CLICKHOUSE in missing:
            with _timed(done.seconds, CLICKHOUSE, tell):
                stack.up([CLICKHOUSE])
                backup_stores.put_back_clickhouse(home, settings, manifest.database, backup / CLICKHOUSE)
        if KAFKA in kept:
            with _timed(done.seconds, "positions", tell):
                stack.up([KAFKA])
                if CLICKHOUSE in missing:
                    done.group = backup_positions.set_back(settings, manifest.positions)
                if POSTGRES in missing:
                    backup_positions.forget_connector(settings)
    finally:
        stack.down()
    (home.root / RESTORING).unlink()
    return done
