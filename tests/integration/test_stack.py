"""The embedded stack on real parts: it starts, comes back after every kind of death, and leaves nothing behind."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from infra.local.environment import STACK_MARK
from infra.local.home import ROOT
from infra.local.ports import PortTaken, free_port
from infra.local.stack import Progress, Stack, StackError

PORT_NAMES = ("KAFKA", "POSTGRES", "CLICKHOUSE", "EDGE", "WORKER", "CONNECT", "WATCH")
STORES = ("kafka", "postgres")


def new_stack(home: Path) -> Stack:
    """A stack of its own: other home, free ports."""
    return Stack(home, {f"AFLUENTE_{name}_PORT": str(free_port()) for name in PORT_NAMES})


def processes_of(stack: Stack) -> list[int]:
    """Every living process that carries the mark of this stack, or whose command line names its home."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get(STACK_MARK) == str(stack.home.root)
            if (mine or str(stack.home.root) in " ".join(process.cmdline())) and process.pid != os.getpid():
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def is_alive(pid: int | None) -> bool:
    """Whether there is a process of this number that has not ended."""
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def afluente(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line as a person uses it."""
    command = [sys.executable, "-m", "infra.local.cli", *arguments]
    return subprocess.run(
        command, env=stack.environ, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def status(stack: Stack) -> dict[str, dict]:
    """What `status --json` prints, by part."""
    return {part["name"]: part for part in stack.status()["services"]}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Kafka and Postgres, started once for this module; each test leaves them running."""
    stack = new_stack(tmp_path_factory.mktemp("stack") / "home")
    try:
        stack.up(STORES)
        yield stack
    finally:
        stack.down()


def test_up_again_finds_everything_up(stack: Stack):
    """A second `up` changes nothing and no process."""
    before = {name: part["pid"] for name, part in status(stack).items()}
    reports: list[Progress] = []
    stack.up(STORES, reports.append)
    assert {each.name for each in reports if each.was_up} == set(STORES)
    assert {name: part["pid"] for name, part in status(stack).items()} == before


def test_status_says_what_scripts_need(stack: Stack):
    """Name, state, pid, url and memory of every part, children of Postgres included."""
    document = json.loads(afluente(stack, "status", "--json").stdout)
    parts = {part["name"]: part for part in document["services"]}
    assert set(parts) == {"kafka", "postgres", "clickhouse", "connect", "watch", "edge", "worker"}
    for name in STORES:
        assert parts[name]["state"] == "running"
        assert parts[name]["ready"]
        assert parts[name]["url"].find(f":{getattr(stack.settings, name + '_port')}") > 0
        assert psutil.pid_exists(parts[name]["pid"])
    alone = psutil.Process(parts["postgres"]["pid"]).memory_info().rss / 2**20
    assert parts["postgres"]["rss_mb"] > alone
    assert parts["edge"]["state"] == "stopped"


async def test_postgres_has_two_roles_and_logical_decoding(stack: Stack):
    """The application's role owns nothing and cannot make tables; change data capture finds what it needs."""
    settings = stack.settings
    owner = await asyncpg.connect(settings.postgres_owner_url.get_secret_value())
    app = await asyncpg.connect(settings.postgres_url.get_secret_value())
    try:
        assert await owner.fetchval("SHOW wal_level") == "logical"
        assert await owner.fetchval("SHOW listen_addresses") == "127.0.0.1"
        await owner.execute("CREATE TABLE IF NOT EXISTS proof (n int)")
        await owner.execute("DROP TABLE proof")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.execute("CREATE TABLE proof (n int)")
        wrong = settings.postgres_url.get_secret_value().replace("@", "x@")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(wrong)
    finally:
        await owner.close()
        await app.close()


async def test_a_home_without_the_capture_role_gets_it(tmp_path: Path):
    """A home that is older than change data capture, or has lost its secret, starts, and the role logs in."""
    stack = new_stack(tmp_path / "home")
    try:
        stack.up(["postgres"])
        stack.down()
        lines = stack.home.env_file.read_text().splitlines(keepends=True)
        stack.home.env_file.write_text("".join(each for each in lines if "POSTGRES_CDC_URL" not in each))
        stack.up(["postgres"])
        role = await asyncpg.connect(stack.settings.postgres_cdc_url.get_secret_value())
        assert await role.fetchval("SELECT rolreplication FROM pg_roles WHERE rolname = current_user")
        await role.close()
    finally:
        stack.down()


def test_topics_are_as_declared_and_lag_is_read(stack: Stack):
    """`up` has made the topics, the diff is empty, and a group without a commit has its lag counted from the start."""
    assert json.loads(afluente(stack, "topics", "diff", "--json").stdout) == {"changes": []}
    lag = json.loads(afluente(stack, "lag", "--json").stdout)
    assert lag["lag"] == 0
    assert {row["topic"] for row in lag["partitions"]} == {"tracking.collected", "gateway.received", "bills.changes"}
    assert {row["state"] for row in lag["partitions"]} == {"empty"}
    assert lag["stuck"] == []


@pytest.mark.parametrize("name", STORES)
def test_a_killed_part_comes_back(stack: Stack, name: str):
    """A part ended by kill -9 is noticed, counted and started again."""
    before = stack.records()[name].restarts
    pid = stack.kill(name)
    record = stack.wait(name, restarts=before + 1)
    assert record.pid != pid
    assert status(stack)[name]["restarts"] == before + 1


def test_one_part_stops_and_starts(stack: Stack):
    """A stopped part stays stopped, the other stays up, and its records are there when it is back."""
    stack.stop("postgres")
    parts = status(stack)
    assert (parts["postgres"]["state"], parts["postgres"]["pid"]) == ("stopped", None)
    assert parts["kafka"]["state"] == "running"
    stack.start("postgres")
    assert status(stack)["postgres"]["ready"]


def test_a_dead_supervisor_is_told_and_mended(stack: Stack):
    """A supervisor ended by kill -9 leaves its parts without a keeper: `status` says so, `up` starts them anew."""
    orphans = {name: stack.records()[name].pid for name in STORES}
    supervisor = psutil.Process(json.loads(stack.home.state_file.read_text())["supervisor"]["pid"])
    supervisor.kill()
    supervisor.wait(10)
    assert status(stack)["kafka"]["state"] == "orphaned"
    stack.up(STORES)
    for name in STORES:
        assert not is_alive(orphans[name])
        assert status(stack)[name]["state"] == "running"


def test_up_after_kill_9_of_everything(stack: Stack):
    """A crash of all processes at once leaves nothing that stops the next start."""
    stack.kill_everything()
    stack.up(STORES)
    assert all(status(stack)[name]["ready"] for name in STORES)


def test_a_taken_port_is_a_sentence(tmp_path: Path):
    """The part, the port, the holder and the name to set; nothing was started."""
    stack = new_stack(tmp_path / "home")
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(stack.environ["AFLUENTE_POSTGRES_PORT"])))
        other.listen()
        answer = afluente(stack, "up", "--only", "postgres")
        with pytest.raises(PortTaken, match="set AFLUENTE_POSTGRES_PORT"):
            stack.up(["postgres"])
    assert answer.returncode == 1
    assert "Postgres needs port" in answer.stderr
    assert f"(pid {os.getpid()})" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert processes_of(stack) == []


def test_two_stacks_side_by_side_and_down_leaves_nothing(stack: Stack, tmp_path: Path):
    """Another home and other ports are another stack; its `down` ends all of it, frees its ports, touches no other."""
    other = new_stack(tmp_path / "other")
    other.up(STORES)
    pids = processes_of(other)
    assert len(pids) >= 3  # supervisor, Kafka, Postgres
    assert afluente(other, "down").returncode == 0
    assert processes_of(other) == []
    assert not [pid for pid in pids if is_alive(pid)]
    assert not other.home.run.exists()
    assert not list(other.home.root.rglob("postmaster.pid"))
    with pytest.raises(StackError, match="afluente up"):
        other.start("kafka")
    assert afluente(other, "status").returncode == 3
    assert all(status(stack)[name]["ready"] for name in STORES)
    assert afluente(other, "clean", "--yes").returncode == 0
    assert not other.home.root.exists()


def test_a_part_that_cannot_start_shows_its_log(tmp_path: Path):
    """A broken part ends `up` with the end of its log and what to do, and is shown as failed."""
    stack = new_stack(tmp_path / "home")
    try:
        stack.up(["postgres"])
        stack.stop("postgres")
        (stack.home.root / "postgres" / "cluster" / "PG_VERSION").write_text("9.1\n")
        stack.down()  # the next supervisor has never seen it ready, so it does not try for ever
        with pytest.raises(StackError) as fault:
            stack.up(["postgres"])
        assert "initialized by PostgreSQL version 9.1" in str(fault.value)
        assert "./afluente logs postgres" in str(fault.value)
        assert status(stack)["postgres"]["state"] == "failed"
    finally:
        stack.down()
