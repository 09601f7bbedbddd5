"""Real Kafka, Postgres and edge for the edge's tests: started one by one, so that a test may break one of them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import asyncpg
import httpx
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from app.migrate import SCHEMAS, migrate_postgres, read_migrations, render
from app.settings import Settings
from infra.local import jars, kafka, postgres
from infra.local.environment import load_settings, write_env_file
from infra.local.home import ROOT, Home
from infra.local.launch import Launch
from infra.local.ports import free_port
from schemas.topics import TOPICS

START_S = 60.0
STOP_S = 20.0
POLL_S = 0.05


def wait_for(condition: Callable[[], Any], what: str, seconds: float = START_S) -> Any:
    """Poll until the condition gives something true."""
    until = time.monotonic() + seconds
    while True:
        try:
            found = condition()
        except (OSError, httpx.HTTPError, LookupError, KafkaException):
            found = None
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(POLL_S)


class Parts:
    """The processes of one home. Ports are chosen once, so a part that is started again is found again."""

    def __init__(self, root: Path, **environ: str) -> None:
        self.home = Home(root.absolute())
        self.home.create()
        chosen = {f"AFLUENTE_{name}_PORT": str(free_port()) for name in ("EDGE", "KAFKA", "POSTGRES", "CLICKHOUSE")}
        chosen["AFLUENTE_EDGE_DRAIN_S"] = "0"  # no balancer has to be told
        self.environ = {**chosen, "AFLUENTE_HOME": str(self.home.root), **environ}
        write_env_file(self.home, self.environ)
        self.settings: Settings = load_settings(self.home, self.environ)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def edge_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.edge_port}"

    @contextmanager
    def all_running(self) -> Iterator[Self]:
        """Kafka, Postgres, ClickHouse and a ready edge, until the block is over."""
        try:
            self.start_kafka()
            self.start_postgres()
            self.start_clickhouse()
            self.start_edge()
            self.wait_ready()
            yield self
        finally:
            self.stop_all()

    def start_kafka(self, *, topics: bool = True) -> None:
        jars.ensure("kafka")
        kafka.prepare(self.home, self.settings)
        self._start("kafka", kafka.launch(self.home, self.settings))
        wait_for(lambda: asyncio.run(kafka.probe(self.settings)), "Kafka answers")
        if topics:
            admin = AdminClient({"bootstrap.servers": self.settings.kafka_url})
            made = admin.create_topics(
                [
                    NewTopic(t.name, t.partitions, 1, config={"max.message.bytes": str(t.record_bytes_max)})
                    for t in TOPICS
                ]
            )
            for future in made.values():
                future.result(START_S)

    def start_postgres(self, *, migrate: bool = True) -> None:
        postgres.prepare(self.home, self.settings)
        self._start("postgres", postgres.launch(self.home, self.settings))
        wait_for(lambda: postgres.accepts(self.settings), "Postgres answers")
        if migrate:
            asyncio.run(self._migrate())

    async def _migrate(self) -> None:
        connection = await asyncpg.connect(self.settings.postgres_owner_url.get_secret_value())
        await migrate_postgres(connection, read_migrations(SCHEMAS / "postgres"))
        await connection.close()

    def start_clickhouse(self) -> None:
        self._start("clickhouse", Launch([sys.executable, "-m", "infra.local.clickhouse"]))
        url = self.settings.clickhouse_url
        wait_for(lambda: httpx.get(f"{url}/ping").status_code == 200, "ClickHouse answers")
        for migration in read_migrations(SCHEMAS / "clickhouse"):
            for statement in render(migration, self.settings):
                self.clickhouse(statement)

    def clickhouse(self, query: str) -> str:
        headers = {"X-ClickHouse-Key": self.settings.clickhouse_password.get_secret_value()}
        answer = httpx.post(self.settings.clickhouse_url, content=query, headers=headers, timeout=START_S)
        assert answer.status_code == 200, answer.text
        return answer.text

    def start_edge(self, **environ: str) -> None:
        self._start("edge", Launch([sys.executable, "-m", "api.main"], environ))
        wait_for(lambda: httpx.get(f"{self.edge_url}/health/live").status_code == 200, "the edge answers")

    def wait_ready(self) -> None:
        wait_for(lambda: httpx.get(f"{self.edge_url}/health/ready").status_code == 200, "the edge is ready")

    def cli(self, *arguments: str, stdin: str = "") -> Any:
        """A command of the edge's command modules, its JSON output parsed."""
        code = (
            "import typer, sys\nfrom infra.local.commands import bills, key, tenant, webhook\n"
            "app = typer.Typer()\n"
            "for m, n in ((bills, 'bills'), (tenant, 'tenant'), (key, 'key'), (webhook, 'webhook')):\n"
            "    app.add_typer(m.app, name=n)\napp()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            env={**os.environ, **self.environ},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    def stop(self, name: str, sig: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.send_signal(sig)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)

    def stop_all(self) -> None:
        for name in ("edge", "clickhouse", "kafka"):
            self.stop(name)
        self.stop("postgres", signal.SIGINT)  # its "fast" stop

    def _start(self, name: str, launch: Launch) -> None:
        log = (self.home.root / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            list(launch.argv),
            cwd=launch.folder,
            env={**os.environ, **self.environ, **launch.environ},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )

    def records(self, topic: str) -> list[Any]:
        """Every record of a topic from its beginning to where it ends now."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.settings.kafka_url,
                "group.id": f"test-{time.monotonic_ns()}",
                "enable.auto.commit": False,
                "enable.partition.eof": False,
            }
        )
        ends = wait_for(lambda: _bounds(consumer, topic), f"{topic} has leaders")
        consumer.assign([TopicPartition(topic, p, low) for p, (low, _) in ends.items()])
        wanted = sum(high - low for low, high in ends.values())
        found: list[Any] = []
        until = time.monotonic() + START_S
        while len(found) < wanted and time.monotonic() < until:
            found += [m for m in consumer.consume(1000, 0.2) if m.error() is None]
        consumer.close()
        return found


def _bounds(consumer: Consumer, topic: str) -> dict[int, tuple[int, int]]:
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    return {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10) for p in partitions}


def new_tenant(parts: Parts) -> dict[str, str]:
    """A tenant with a write, a read and an app key."""
    made: dict[str, str] = parts.cli("tenant", "create", f"t-{uuid.uuid4()}", "--json")
    return made


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The answer is a problem with this status and code."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["code"] == code, found
    assert found["message"]
    assert found["status"] == status
    return found
