"""Where contestants run: a fresh table and consumer group each, one process at a time, and the rows counted after it.

Speed alone proves nothing: a contestant that lost or doubled rows has that beside its figure.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from infra.local.environment import STACK_MARK
from infra.local.home import ROOT
from infra.local.parts import worker_command
from infra.local.ports import free_port
from infra.local.stack import Stack
from loadtest.contestants.contest import Contest
from loadtest.corpus import Corpus

POLL_S = 0.1  # each look is a query: more of them would be part of what is measured
READY_POLL_S = 0.02  # in its log
READY = b'"event":"partition ready"'  # a worker's word for "fetching begins"
RUN_TIMEOUT_S = 300.0
END_TIMEOUT_S = 40.0
QUERY_TIMEOUT_S = 120.0
TABLES = ("tracking_events", "gateway_events")
TABLE = TABLES[0]


@dataclass(slots=True)
class Run:
    """One run of one contestant."""

    records: int
    seconds: float
    cpu_us: float  # of its own processes, per record
    lost: int = 0
    doubled: int = 0
    rss_mb: float = 0.0
    rss_quarters: list[float] = field(default_factory=list)  # at a quarter, half, three quarters, all of the rows
    server_cpu_us: dict[str, float] = field(default_factory=dict)  # of Kafka and ClickHouse, per record

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds


class Arena:
    """One running stack, without its worker."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.settings = stack.settings
        self.logs = stack.home.root / "bench-logs"
        self.logs.mkdir(exist_ok=True)
        self._numbers = itertools.count()
        password = self.settings.clickhouse_password.get_secret_value()
        headers = {"X-ClickHouse-Key": password} if password else {}
        self._client = httpx.Client(
            base_url=self.settings.clickhouse_url, timeout=QUERY_TIMEOUT_S, trust_env=False, headers=headers
        )

    def ask(self, query: str) -> str:
        """What ClickHouse answers."""
        answer = self._client.post("/", content=query)
        if answer.is_error:
            raise RuntimeError(f"{query[:200]}: {answer.text[:500]}")
        return answer.text.strip()

    @contextlib.contextmanager
    def ground(self) -> Iterator[str]:
        """A database with the tables of the real one, empty; dropped at the end."""
        name = f"bench_{os.getpid()}_{next(self._numbers)}"
        self.ask(f"CREATE DATABASE {name}")
        for table in TABLES:
            self.ask(f"CREATE TABLE {name}.{table} AS {self.settings.clickhouse_database}.{table}")
        try:
            yield name
        finally:
            self.ask(f"DROP DATABASE {name}")

    def rows(self, database: str) -> int:
        """Rows without FINAL."""
        return int(self.ask(f"SELECT count() FROM {database}.{TABLE}"))  # noqa: S608 - names of ours

    def await_rows(self, database: str) -> None:
        """Until the first row is there: whoever carries them has begun."""
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while not self.rows(database):
            if time.monotonic() > deadline:
                raise RuntimeError(f"no row within {RUN_TIMEOUT_S:.0f} s; see {self.newest_log()}")
            time.sleep(POLL_S)

    def check(self, database: str, distinct: int, run: Run) -> Run:
        """Count what is missing and what is there more than once."""
        counted = self.ask(
            f"SELECT count(), uniqExact(tenant_id, event_id) FROM {database}.{TABLE} FORMAT TabSeparated"  # noqa: S608
        )
        rows, found = map(int, counted.split())
        run.lost, run.doubled = distinct - found, rows - found
        return run

    # -- contestants

    def compete(self, command: Sequence[str], corpus: Corpus, *, inserts: bool = True) -> Run:
        """Run a contestant of loadtest/contestants until it says that it has carried all records."""
        with self.ground() as database:
            number = next(self._numbers)
            contest = Contest(
                kafka=self.settings.kafka_url,
                topic=corpus.topic,
                group=f"contest-{os.getpid()}-{number}",
                records=corpus.records,
                distinct=corpus.distinct,
                clickhouse=self.settings.clickhouse_url.removeprefix("http://"),
                password=self.settings.clickhouse_password.get_secret_value(),
                database=database,
                table=TABLE,
                folder=str(self.stack.home.root / f"contest-{number}"),
            )
            log = self.logs / f"{number:03}-{Path(command[-1]).stem}.log"
            before = self.server_cpu()
            with log.open("wb") as errors:
                process = subprocess.Popen(
                    command, cwd=ROOT, env={**self.stack.environ, **contest.environ(), "PYTHONPATH": str(ROOT)},
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                )  # fmt: skip
                try:
                    output, _ = process.communicate(timeout=RUN_TIMEOUT_S)
                finally:
                    process.kill()
            said = [line for line in output.decode().splitlines() if line.startswith('{"records"')]
            if not said:
                raise RuntimeError(f"{' '.join(command)} said nothing; see {log}: {log.read_text()[-800:]}")
            answer = json.loads(said[-1])
            run = Run(answer["records"], answer["seconds"], answer["cpu_s"] / answer["records"] * 1e6)
            run.server_cpu_us = self._spent(before, run.records)
            return self.check(database, corpus.distinct, run) if inserts else run

    def afluente(self, corpus: Corpus, workers: int = 1, processes: int = 1, **settings: Any) -> Run:
        """Afluente's workers, as a user starts them, timed from when they may fetch to their last row."""
        with self.ground() as database, self.workers(database, workers, processes, settings) as crew:
            before = self.server_cpu()
            run = self.drain(database, corpus.distinct, crew)
            run.records, scale = corpus.records, corpus.records / max(1, run.records)
            run.cpu_us /= scale
            run.server_cpu_us = self._spent(before, run.records)
            return self.check(database, corpus.distinct, run)

    @contextlib.contextmanager
    def workers(
        self, database: str, workers: int, processes: int, settings: dict[str, Any]
    ) -> Iterator[list[subprocess.Popen[bytes]]]:
        """So many `afluente worker`s of a group of their own."""
        number = next(self._numbers)
        chosen = {f"AFLUENTE_{name.upper()}": str(value) for name, value in settings.items()}
        environ = {
            **self.stack.environ,
            "AFLUENTE_CLICKHOUSE_DATABASE": database,
            "AFLUENTE_GROUP_ID": f"afluente-bench-{os.getpid()}-{number}",
            "AFLUENTE_SESSION_TIMEOUT_S": "6",
            "MALLOC_ARENA_MAX": "2",
            **chosen,
        }
        environ.pop(STACK_MARK, None)
        crew = []
        try:
            for place in range(workers):
                own = {
                    "AFLUENTE_WORKER_ID": chosen.get("AFLUENTE_WORKER_ID") or f"b{os.getpid()}-{number}-{place}",
                    "AFLUENTE_WORKER_PORT": str(free_port()),
                }
                command = worker_command()
                if processes > 1:
                    command = [sys.executable, "-m", "infra.local.cli", "worker", "--id", own["AFLUENTE_WORKER_ID"]]
                    command += ["--processes", str(processes)]
                with (self.logs / f"{number:03}-worker-{place}.log").open("wb") as output:
                    crew.append(
                        subprocess.Popen(
                            command,
                            cwd=ROOT,
                            env={**environ, **own},
                            stdin=subprocess.DEVNULL,
                            stdout=output,
                            stderr=output,
                        )
                    )
            yield crew
        finally:
            for process in crew:
                process.terminate()
            for process in crew:
                try:
                    process.wait(END_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()

    def drain(self, database: str, wanted: int, crew: list[subprocess.Popen[bytes]]) -> Run:
        """Wait until so many rows are there; the clock starts when the first worker may fetch the first record."""
        base = self.rows(database)
        deadline = time.monotonic() + RUN_TIMEOUT_S
        log = self.newest_log()
        while READY not in log.read_bytes():
            self._alive(crew, deadline)
            time.sleep(READY_POLL_S)
        began, cpu = time.monotonic(), cpu_s(crew)
        rss, quarters = 0.0, list[float]()
        while (rows := self.rows(database)) < wanted:
            self._alive(crew, deadline)
            rss = max(rss, rss_mb(crew))
            if rows - base >= (wanted - base) * (len(quarters) + 1) / 4:
                quarters.append(rss_mb(crew))
            time.sleep(POLL_S)
        quarters.append(rss_mb(crew))
        rss = max(rss, quarters[-1])
        spent, records = time.monotonic() - began, wanted - base
        cpu_us = (cpu_s(crew) - cpu) / max(1, records) * 1e6
        return Run(records, spent, cpu_us, rss_mb=rss, rss_quarters=quarters)

    def newest_log(self) -> Path:
        """What the first of the workers started last has said."""
        return max(self.logs.glob("*-worker-0.log"), key=lambda path: path.stat().st_mtime)

    def server_cpu(self) -> dict[str, float]:
        """CPU seconds of Kafka and ClickHouse so far."""
        records = self.stack.records()
        return {name: sum(psutil.Process(records[name].pid).cpu_times()[:2]) for name in ("kafka", "clickhouse")}

    def _spent(self, before: dict[str, float], records: int) -> dict[str, float]:
        after = self.server_cpu()
        return {name: round((after[name] - before[name]) / records * 1e6, 2) for name in before}

    def _alive(self, crew: list[subprocess.Popen[bytes]], deadline: float) -> None:
        ended = [process for process in crew if process.poll() is not None]
        if ended or time.monotonic() > deadline:
            log = self.newest_log()
            raise RuntimeError(f"a worker ended or is stuck; see {log}:\n{log.read_text()[-2_000:]}")


def family(crew: list[subprocess.Popen[bytes]]) -> list[psutil.Process]:
    """The processes and those that they started."""
    found = []
    for process in crew:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process.pid)
            found += [parent, *parent.children(recursive=True)]
    return found


def cpu_s(crew: list[subprocess.Popen[bytes]]) -> float:
    """CPU seconds of all of them."""
    return sum(sum(process.cpu_times()[:2]) for process in family(crew))


def rss_mb(crew: list[subprocess.Popen[bytes]]) -> float:
    """The largest of them, in MB."""
    return max(process.memory_info().rss / 1e6 for process in family(crew))
