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
from infra.local.backup_manifest import RESTORING, UNFINISHED, Manifest, cut_off, files_of, mark, verify
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
    manifest = Manifest(
        id=name, began=began, group=settings.group_id, database=settings.clickhouse_database,
        cdc=(stack.home.root / "cdc").exists(), versions=asyncio.run(_versions(settings)),
    )  # fmt: skip
    folder.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
    draft = folder / f"{name}{UNFINISHED}"
    draft.mkdir(mode=PRIVATE_DIR_MODE)
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


@dataclass(frozen=True, slots=True)
class Plan:
    """What a restore would do: the stores that are put back, and those that stay."""

    backup: Path
    manifest: Manifest
    missing: list[str]
    kept: list[str]
    seconds: float  # that the check of every byte took


def plan(stack: Stack, backup: Path) -> Plan:
    """Look, check the backup to its last byte, and change nothing."""
    if living_supervisor(stack.home):
        raise Fault(f"The stack in {stack.home.root} runs: `./afluente down` first.")
    began = time.monotonic()
    if faults := verify(backup):
        raise Fault(f"{backup} is not whole, and nothing was restored:\n" + "\n".join(f"  {one}" for one in faults))
    root = stack.home.root
    half = cut_off(stack.home)
    there = [name for name in (CLICKHOUSE, POSTGRES, KAFKA) if (root / name).exists() and name not in half]
    missing = [name for name in (CLICKHOUSE, POSTGRES) if name not in there]
    if not missing:
        raise Fault(
            f"{root} has a ClickHouse and a Postgres: nothing is missing.\n"
            "Move the folder aside that is to be restored, or choose an empty AFLUENTE_HOME."
        )
    _check_secrets(stack.home, backup, there)
    return Plan(backup, Manifest.read(backup), missing, there, round(time.monotonic() - began, 2))


def _check_secrets(home: Home, backup: Path, kept: list[str]) -> None:
    if home.env_file.exists() and kept:
        here, there = dotenv_values(home.env_file), dotenv_values(backup / SECRETS)
        if here.get(MASTER_KEY) != there.get(MASTER_KEY):
            raise Fault(f"{home.env_file} has another {MASTER_KEY} than the backup: this is another stack's backup.")


def restore(stack: Stack, planned: Plan, tell: Tell) -> Restored:
    """Put back what is missing in the home, and set the group to where it stood. Leaves the stack down."""
    manifest, missing, kept = planned.manifest, planned.missing, planned.kept
    done = Restored(manifest.id, missing, kept, {"verify": planned.seconds}, cdc=manifest.cdc)
    home = stack.home
    home.create()
    for name in cut_off(home):
        shutil.rmtree(home.root / name, ignore_errors=True)
    (home.root / RESTORING).write_text("\n".join(missing), encoding="utf-8")
    if not (home.env_file.exists() and kept):
        shutil.copyfile(planned.backup / SECRETS, home.env_file)
        home.env_file.chmod(PRIVATE_FILE_MODE)
    if manifest.cdc:
        (home.root / "cdc").touch()
    # What the workers remember is of rows that may be gone. They make it anew from Kafka.
    shutil.rmtree(home.root / "worker", ignore_errors=True)
    settings = stack.prepare()
    try:
        _put_back(stack, settings, planned, done, tell)
    finally:
        stack.down()
    (home.root / RESTORING).unlink()
    return done


def _put_back(stack: Stack, settings: Settings, planned: Plan, done: Restored, tell: Tell) -> None:
    if POSTGRES in planned.missing:
        with _timed(done.seconds, POSTGRES, tell):
            backup_stores.put_back_postgres(stack.home, planned.backup / POSTGRES)
    if CLICKHOUSE in planned.missing:
        with _timed(done.seconds, CLICKHOUSE, tell):
            stack.up([CLICKHOUSE])
            backup_stores.put_back_clickhouse(
                stack.home, settings, planned.manifest.database, planned.backup / CLICKHOUSE
            )
    if KAFKA in planned.kept:
        with _timed(done.seconds, "positions", tell):
            stack.up([KAFKA])
            if CLICKHOUSE in planned.missing:
                done.group = backup_positions.set_back(settings, planned.manifest.positions)
            if POSTGRES in planned.missing:
                backup_positions.forget_connector(settings)
