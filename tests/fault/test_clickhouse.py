"""ClickHouse and the line to it fail in every way we know: an insert is retried until it is there, once."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.lifecycle import EXIT_UNKNOWN_FAILURE
from app.migrate import DEDUPE_WINDOW_INSERTS
from infra.local.home import ROOT
from loadtest.traffic import TRACKING
from tests.fault.case import Case, short_or_full
from tests.support.children import poll
from tests.support.clickhouse_server import ClickHouseServer
from tests.support.oracle import Oracle
from tests.support.proxy import Fault, Proxy
from tests.support.workers import Worker

EVENTS_A_SECOND = 100
BROKEN_S = 5.0
TIMEOUT_S = 2  # of an insert: a line that swallows answers is left for another after this
DISK_MIB = 96  # the engine's own logs and the tables take 20; the flood is more than what is left
FLOOD_EVENTS, FLOOD_BYTES = 3_000, 4_000

LINES = {
    "answer_lost": Fault(drop_answers=True),
    "never_answers": Fault(blackhole=True),
    "cut_in_the_body": Fault(cut_after_bytes=3_000),
    "in_crumbs": Fault(slice_bytes=5),
    "refused": Fault(refuse=True),
    "answers_held_back": Fault(half_open=True),
}


@pytest.fixture
def proxy(case: Case) -> Iterator[Proxy]:
    line = Proxy(case.stack.settings.clickhouse_port)
    yield line
    case.fleet.kill_all()  # before the line is gone, so that nobody waits on it
    line.close()


@pytest.mark.parametrize("line", short_or_full(LINES, ["answer_lost", "never_answers"]))
def test_line_to_clickhouse(case: Case, proxy: Proxy, line: str) -> None:
    """Whatever the line does to inserts and answers, those in doubt are tried again and each row is there once."""
    url = f"http://{proxy.address}"
    worker = case.fleet.ensure(clickhouse_url=url, clickhouse_timeout_s=TIMEOUT_S)
    case.traffic.burst(150)
    with case.traffic.flowing(EVENTS_A_SECOND):
        with proxy.broken(LINES[line]):
            # On the connections that are kept alive, too.
            proxy.reset_all()
            worker.run_for(BROKEN_S)
        case.lifted()
    held = len(worker.lines("backpressure"))
    case.fired = f"{held} retries, {proxy.connections} connections, {proxy.answers_dropped} answers dropped"
    case.settle()
    assert held or line == "in_crumbs"
    assert worker.alive


def query(case: Case, text: str) -> str:
    """Ask or change something, as an operator would."""
    answer = httpx.post(case.stack.settings.clickhouse_url, content=text, timeout=30, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.text.strip()


def table(case: Case) -> str:
    """The events' table."""
    return f"{case.stack.settings.clickhouse_database}.{TRACKING}"


@contextmanager
def altered(case: Case, setting: str, number: int, former: int) -> Iterator[None]:
    """A setting of the table while the body runs."""
    query(case, f"ALTER TABLE {table(case)} MODIFY SETTING {setting} = {number}")
    try:
        yield
    finally:
        query(case, f"ALTER TABLE {table(case)} MODIFY SETTING {setting} = {former}")


def test_too_many_parts(case: Case) -> None:
    """ClickHouse refuses more parts: the worker holds what it has until merges, or somebody, have made room."""
    worker = case.fleet.ensure()
    case.traffic.burst(150)
    case.quiet()
    with case.traffic.flowing(EVENTS_A_SECOND):
        with altered(case, "parts_to_throw_insert", 1, 100_000):
            poll(lambda: len(worker.lines("backpressure")) > 3, "the worker is held up")
            worker.run_for(1)
        case.lifted()
    case.fired = f"{len(worker.lines('backpressure'))} retries"
    case.settle()


def test_dedupe_window_shortened(case: Case) -> None:
    """Between a kill and its replay the server forgot the tokens: rows that are there are not inserted again."""
    case.fleet.kill_all()
    case.spread(6)
    case.traffic.burst(600)
    worker = case.fleet.start(failpoints="6_write=kill@6", batch_rows_max=50, wait=False)
    assert worker.await_exit() == -signal.SIGKILL
    assert case.fleet.fired("6_write")
    pending = case.oracle.pending()
    assert pending
    with altered(case, "non_replicated_deduplication_window", 1, DEDUPE_WINDOW_INSERTS):
        case.fired = f"window of 1, {len(pending)} ranges open"
        case.lifted()
        case.fleet.start(wait=False)
        case.settle()


def test_schema_behind_the_code(case: Case) -> None:
    """A column that the code writes is not there yet: the worker stops without commit, and goes on once it is."""
    worker = case.fleet.ensure()
    before = case.oracle.positions()
    # A rename of the column would rewrite every part: a table without it changes places with ours instead.
    behind = f"{table(case)}_behind"
    query(case, f"CREATE TABLE {behind} AS {table(case)}")
    query(case, f"ALTER TABLE {behind} DROP COLUMN utm_term")
    query(case, f"EXCHANGE TABLES {behind} AND {table(case)}")
    try:
        case.traffic.burst(300)
        assert worker.await_exit() == EXIT_UNKNOWN_FAILURE
        assert {tp: at for tp, (at, _) in case.oracle.positions().items()} == {tp: at for tp, (at, _) in before.items()}
        case.fired = f"exit {EXIT_UNKNOWN_FAILURE}, {len(case.oracle.pending())} ranges open"
    finally:
        query(case, f"EXCHANGE TABLES {behind} AND {table(case)}")
        query(case, f"DROP TABLE {behind}")
    case.lifted()
    case.fleet.start(wait=False)
    case.settle()


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk of its own, of DISK_MIB; False where we may not make one."""
    folder.mkdir()
    size = f"size={DISK_MIB}m"
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def own_server(case: Case, home: Path) -> Iterator[Worker]:
    """A ClickHouse of this case alone on that disk, with some rows in it, and the worker that writes to it."""
    server = ClickHouseServer(home)
    server.environ["AFLUENTE_CLICKHOUSE_PASSWORD"] = ""
    settings = case.stack.settings.model_copy(update={"clickhouse_url": server.url})
    try:
        server.start()
        migrate = [sys.executable, "-m", "app.migrate"]
        environ = {**os.environ, **case.stack.environ, "AFLUENTE_CLICKHOUSE_URL": server.url}
        subprocess.run(migrate, env=environ, cwd=ROOT, check=True, capture_output=True)
        case.oracle = Oracle(settings)
        case.oracle.forbid_merges()
        worker = case.fleet.ensure(clickhouse_url=server.url, clickhouse_timeout_s=TIMEOUT_S)
        case.traffic.burst(300)
        case.quiet()
        yield worker
    finally:
        case.fleet.kill_all()
        server.stop(signal.SIGKILL)


def fill(filler: Path) -> None:
    """Write until there is no room."""
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return


def test_disk_full(case: Case, tmp_path: Path) -> None:
    """No room for a part: the worker holds what it has, and goes on when there is room again."""
    home = tmp_path / "disk"
    with small_disk(home) as made:
        if not made:
            case.not_run("needs a small file system of its own: only root may mount one")
            return
        with own_server(case, home) as worker:
            fill(home / "filler")
            case.traffic.burst(FLOOD_EVENTS, padding=FLOOD_BYTES)
            poll(lambda: len(worker.lines("backpressure")) > 3, "the worker is held up")
            assert worker.alive
            case.fired = f"{len(worker.lines('backpressure'))} retries on a full disk of {DISK_MIB} MiB"
            (home / "filler").unlink()
            case.lifted()
            case.settle()


@contextmanager
def read_only(folder: Path) -> Iterator[bool]:
    """A folder that takes no write while the body runs, like a file system after an error; False where we may not."""
    if os.geteuid() or subprocess.run(["mount", "--bind", folder, folder], check=False).returncode:
        yield False
        return
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield True
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.full
def test_disk_read_only(case: Case, tmp_path: Path) -> None:
    """A disk that takes no writes is waited for: no record, and no batch of a single one, is called poison for it."""
    with own_server(case, tmp_path) as worker:
        with read_only(tmp_path / "clickhouse" / "store") as made:
            if not made:
                case.not_run("needs a mount of its own: only root may make one")
                return
            case.traffic.burst(1, 0, duplicates=0)
            poll(lambda: worker.lines("backpressure"), "a single record is held up")
            case.traffic.burst(300)
            poll(lambda: len(worker.lines("backpressure")) > 3, "the worker is held up")
            assert worker.alive
            case.fired = f"{len(worker.lines('backpressure'))} retries on a disk that takes no writes"
        case.lifted()
        case.settle()
