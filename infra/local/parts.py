"""What the embedded stack consists of: one row a part, in the order of the data path.

A new part is one more row in PARTS and one more module beside kafka.py.
"""

import asyncio
import http.client
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from app.settings import Settings
from infra.local import connect, kafka, postgres
from infra.local.home import Home
from infra.local.launch import Launch
from infra.local.ports import Need

PROBE_TIMEOUT_S = 2.0  # one answer of one readiness check
READY_TIMEOUT_S = 90.0  # a start on a busy machine; an idle one needs 2 to 6 s
STOP_TIMEOUT_S = 15.0  # then SIGKILL; every part survives that by design
JAVA_STOP_TIMEOUT_S = 40.0  # its first end in good order writes the start-up cache: 5 s of an idle machine
DRAIN_SLACK_S = 5.0  # on top of the worker's own limit, so that it is the worker that decides


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the stack, or one step that runs to its end between two of them (`step`)."""

    name: str
    title: str
    launch: Callable[[Home, Settings], Launch]
    probe: Callable[[Settings], Awaitable[bool]] | None = None
    prepare: Callable[[Home, Settings], None] = lambda _home, _settings: None
    after: tuple[str, ...] = ()
    port_field: str = ""
    url: str = ""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: Callable[[Settings], float] = lambda _settings: STOP_TIMEOUT_S
    jars: str = ""  # the group of jars that it runs on
    is_extra: bool = False  # started only when asked for, by its name or by `up --cdc`

    @property
    def is_step(self) -> bool:
        return self.probe is None

    def port(self, settings: Settings) -> int:
        """The port that this part listens on; 0 for a step."""
        return int(getattr(settings, self.port_field)) if self.port_field else 0

    def address(self, settings: Settings) -> str:
        """Where a person or a client finds this part."""
        return self.url.format(port=self.port(settings))

    def need(self, settings: Settings) -> Need:
        """The port to check before the start."""
        host = settings.edge_host if self.name == "edge" else "127.0.0.1"
        return Need(self.title, host, self.port(settings), f"AFLUENTE_{self.port_field.upper()}")


def _python(*arguments: str) -> Callable[[Home, Settings], Launch]:
    return lambda _home, _settings: Launch([sys.executable, *arguments])


def worker_command() -> list[str]:
    """The worker exactly as a Faust user would start it."""
    return [str(Path(sys.executable).with_name("faust")), "-A", "agents.worker", "worker", "-l", "info"]


def _edge(_home: Home, settings: Settings) -> Launch:
    # Nobody balances this one: who stops it waits for nothing, unless told otherwise.
    told = "edge_drain_s" in settings.model_fields_set
    return Launch([sys.executable, "-m", "api.main"], {} if told else {"AFLUENTE_EDGE_DRAIN_S": "0"})


def _get(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    finally:
        connection.close()


def _http(port_field: str, path: str) -> Callable[[Settings], Awaitable[bool]]:
    async def probe(settings: Settings) -> bool:
        return await asyncio.to_thread(_get, getattr(settings, port_field), path)

    return probe


async def _postgres(settings: Settings) -> bool:
    return await asyncio.to_thread(postgres.accepts, settings)


PARTS: tuple[Part, ...] = (
    Part(
        "kafka", "Kafka", kafka.launch, kafka.probe, kafka.prepare,
        port_field="kafka_port", url="127.0.0.1:{port}",
        stop_timeout_s=lambda _settings: JAVA_STOP_TIMEOUT_S, jars="kafka",
    ),
    Part(
        "postgres", "Postgres", postgres.launch, _postgres, postgres.prepare,
        port_field="postgres_port", url="postgresql://127.0.0.1:{port}/afluente",
        stop_signal=signal.SIGINT,  # its "fast" stop: SIGTERM would wait for every client to leave
    ),
    Part(
        "clickhouse", "ClickHouse", _python("-m", "infra.local.clickhouse"), _http("clickhouse_port", "/ping"),
        port_field="clickhouse_port", url="http://127.0.0.1:{port}",
    ),
    Part("migrate", "Migrations", _python("-m", "app.migrate"), after=("postgres", "clickhouse")),
    Part("topics", "Topics", _python("-m", "infra.local.cli", "topics", "apply"), after=("kafka",)),
    Part(
        "connect", "Connect", connect.launch, _http("connect_port", "/connectors"), connect.prepare,
        after=("kafka",), port_field="connect_port", url="http://127.0.0.1:{port}",
        stop_timeout_s=lambda _settings: JAVA_STOP_TIMEOUT_S, jars="connect", is_extra=True,
    ),
    Part(
        "connector", "Connector", _python("-m", "infra.local.cli", "cdc", "apply"),
        after=("connect", "postgres", "migrate", "topics"),
    ),
    Part(
        "watch", "CDC watch", _python("-m", "infra.local.cdc_watch"), _http("watch_port", "/health/live"),
        after=("postgres", "migrate", "connector"), port_field="watch_port", url="http://127.0.0.1:{port}/metrics",
        is_extra=True,
    ),
    Part(
        "edge", "Edge", _edge, _http("edge_port", "/health/ready"),
        after=("kafka", "postgres", "clickhouse", "migrate", "topics"),
        port_field="edge_port", url="http://127.0.0.1:{port}",
        stop_timeout_s=lambda settings: settings.edge_drain_s + STOP_TIMEOUT_S,
    ),
    Part(
        "worker", "Worker", lambda _home, _settings: Launch(worker_command()), _http("worker_port", "/health/ready"),
        after=("kafka", "postgres", "clickhouse", "migrate", "topics"),
        port_field="worker_port", url="http://127.0.0.1:{port}",
        stop_timeout_s=lambda settings: settings.drain_timeout_s + DRAIN_SLACK_S,
    ),
)  # fmt: skip

BY_NAME = {part.name: part for part in PARTS}
SERVICES = tuple(part.name for part in PARTS if not part.is_step)
EXTRAS = tuple(part.name for part in PARTS if part.is_extra)
USUAL = tuple(name for name in SERVICES if name not in EXTRAS)
STEPS = tuple(part.name for part in PARTS if part.is_step)


def steps_of(wanted: set[str]) -> list[str]:
    """The steps between these parts: those whose requirements are all there. A step may come after another step."""
    steps: list[str] = []
    for name in STEPS:
        if set(BY_NAME[name].after) <= wanted.union(steps):
            steps.append(name)
    return steps


def stop_waves() -> list[list[str]]:
    """The parts in the order they may end: nobody before those that depend on it."""
    left = {part.name: set(part.after) for part in PARTS}
    waves = []
    while left:
        needed = set().union(*left.values())
        wave = [name for name in left if name not in needed]
        waves.append(wave)
        for name in wave:
            del left[name]
    return waves
