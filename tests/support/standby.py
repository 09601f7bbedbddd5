"""A second PostgreSQL of a stack: a standby by streaming, with the slots of change data capture kept in step.

For tests of failover. What an operator sets up once is here in one place: docs/cdc.md says the same in words.
"""

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from app.settings import Settings
from infra.local import postgres
from infra.local.environment import password_of
from infra.local.launch import give_to_unprivileged, unprivileged
from infra.local.ports import free_port
from tests.support.children import Child, poll

NAME = "standby1"  # as synchronous_standby_names knows it
PHYSICAL_SLOT = "standby1"
WAITS = {"synchronous_standby_names": NAME, "synchronized_standby_slots": PHYSICAL_SLOT}
BACKUP_S = 120.0
STOP_S = 20.0
SYNC_S = 60.0  # slots are copied every few hundred milliseconds up to 30 s


def configure(cluster: Path, lines: dict[str, str]) -> None:
    """Settings of a cluster that outlive its restarts: as ALTER SYSTEM writes them, without its superuser."""
    forget(cluster, lines)
    with (cluster / "postgresql.auto.conf").open("a", encoding="utf-8") as opened:  # its owner stays as it is
        opened.writelines(f"{name} = '{value}'\n" for name, value in lines.items())


def forget(cluster: Path, names: Iterable[str]) -> None:
    """Take such settings away again."""
    file = cluster / "postgresql.auto.conf"
    kept = [one for one in file.read_text("utf-8").splitlines() if one.partition(" = ")[0] not in set(names)]
    with file.open("w", encoding="utf-8") as opened:
        opened.write("\n".join([*kept, ""]))


def reload(cluster: Path) -> None:
    """Let its server read its settings again."""
    text = (cluster / "postmaster.pid").read_text("utf-8")
    found = re.match(r"\d+", text)
    assert found is not None, text
    os.kill(int(found[0]), signal.SIGHUP)


def family(pid: int) -> list[psutil.Process]:
    """A server and all its processes."""
    leader = psutil.Process(pid)
    return [leader, *leader.children(recursive=True)]


def server_pid(cluster: Path) -> int:
    """The first process of the server of a cluster."""
    return int((cluster / "postmaster.pid").read_text("utf-8").splitlines()[0])


class Standby:
    """Made from a running primary, by base backup. It keeps its port when it is promoted."""

    def __init__(self, home: Path, settings: Settings) -> None:
        self.cluster = home / "standby" / "cluster"
        self.primary = home / "postgres" / "cluster"
        self.port = free_port()
        self._settings = settings
        self._log = home / "standby.log"
        self._child: Child | None = None

    def url(self, role_url: str) -> str:
        """The URL of one of our roles at this server."""
        return role_url.replace(f":{self._settings.postgres_port}/", f":{self.port}/")

    async def ask(self, sql: str, *given: Any) -> Any:
        """One value, as the owner."""
        connection = await asyncpg.connect(self.url(self._settings.postgres_owner_url.get_secret_value()))
        try:
            return await connection.fetchval(sql, *given)
        finally:
            await connection.close()

    def start(self) -> "Standby":
        """Base backup, settings of both sides, and a server that follows; commits now wait for it."""
        role = self._settings.postgres_cdc_url.get_secret_value()
        asyncio.run(self._prepare_primary(role))
        self.cluster.parent.mkdir()
        give_to_unprivileged(self.cluster.parent)
        self._backup(role)
        secret = password_of(role)
        place = f"host=127.0.0.1 port={self._settings.postgres_port} user=afluente_cdc password={secret}"
        configure(self.cluster, {
            "port": str(self.port), "primary_conninfo": f"{place} dbname=afluente application_name={NAME}",
            "primary_slot_name": PHYSICAL_SLOT, "hot_standby_feedback": "on", "sync_replication_slots": "on",
        })  # fmt: skip
        (self.cluster / "standby.signal").touch()
        give_to_unprivileged(self.cluster / "standby.signal")
        self.run()
        # A commit is confirmed when the standby has it, and change data capture is never ahead of the standby.
        configure(self.primary, WAITS)
        reload(self.primary)
        return self

    def run(self) -> None:
        """Its server, until it answers."""
        program = postgres.binary("postgres")
        # The port of the primary's postgresql.conf came with the backup; ours wins on the command line.
        command = unprivileged(
            [str(program), "-D", str(self.cluster), "-c", f"port={self.port}"], [program, self.cluster]
        )
        self._child = Child("standby", command, {"LC_ALL": "C", "TZ": "UTC", "PATH": os.environ["PATH"]}, self._log)
        settings = self._settings.model_copy(update={"postgres_port": self.port})
        poll(lambda: postgres.accepts(settings), f"the standby answers: see {self._log}")

    def await_slot(self, name: str) -> None:
        """Until the slot has a copy here that outlives a promotion: synced, and no longer temporary."""
        ready = (
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1 AND synced AND NOT temporary"
            " AND invalidation_reason IS NULL"
        )
        poll(lambda: asyncio.run(self.ask(ready, name)), "the slot is on the standby", SYNC_S, 0.2)

    def promote(self) -> None:
        """Make it the primary, as pg_ctl does."""
        (self.cluster / "promote").touch()
        assert self._child is not None
        os.kill(server_pid(self.cluster), signal.SIGUSR1)
        poll(lambda: not asyncio.run(self.ask("SELECT pg_is_in_recovery()")), "the standby is the primary")

    def kill(self) -> None:
        """SIGKILL to its whole tree."""
        if self._child is not None and self._child.alive:
            for process in family(self._child.process.pid):
                process.kill()
            self._child.await_exit(STOP_S)

    def leave(self) -> None:
        """Gone, and the primary waits for nobody any more."""
        self.kill()
        forget(self.primary, WAITS)
        reload(self.primary)

    async def _prepare_primary(self, role: str) -> None:
        connection = await asyncpg.connect(role)
        await connection.execute("SELECT pg_create_physical_replication_slot($1, true)", PHYSICAL_SLOT)
        await connection.close()

    def _backup(self, role: str) -> None:
        program = postgres.binary("pg_basebackup")
        command = unprivileged(
            [str(program), "-D", str(self.cluster), "-h", "127.0.0.1", "-p", str(self._settings.postgres_port),
             "-U", "afluente_cdc", "-X", "stream", "-c", "fast"],
            [program, self.cluster],
        )  # fmt: skip
        environ = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PGPASSWORD": password_of(role)}
        done = subprocess.run(command, env=environ, capture_output=True, timeout=BACKUP_S, check=False, cwd="/")
        assert done.returncode == 0, done.stderr.decode()
