"""One stack for all of tests/security: real Kafka, Postgres, ClickHouse, edge and worker, with canaries for secrets."""

import base64
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local.environment import password_of
from infra.local.ports import free_port
from tests.support.canaries import Canaries
from tests.support.collector import collecting
from tests.support.edge_parts import Parts
from tests.support.edges import Edge
from tests.support.workers import DEFAULTS, MODULE, Worker


@pytest.fixture(scope="package")
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture(scope="package")
def parts(tmp_path_factory: pytest.TempPathFactory, canaries: Canaries) -> Iterator[Parts]:
    master_key = base64.b64encode(secrets.token_bytes(32)).decode()
    with collecting() as collector:
        running = Parts(
            Path(tmp_path_factory.mktemp("security")),
            AFLUENTE_MASTER_KEY=canaries.add("master key", master_key),
            AFLUENTE_CLICKHOUSE_PASSWORD=canaries.new("clickhouse-password"),
            # Nobody listens there: the cache is away all the time, which is an error to be logged.
            AFLUENTE_CACHE_URL=f"redis://:{canaries.new('cache-password')}@127.0.0.1:{free_port()}/0",
            AFLUENTE_OTLP_ENDPOINT=collector,
            AFLUENTE_CREDENTIAL_CACHE_S="0",
            AFLUENTE_LOG_LEVEL="DEBUG",
            OTEL_BSP_SCHEDULE_DELAY="200",
        )
        for role in ("postgres_url", "postgres_owner_url", "postgres_cdc_url"):
            canaries.add(role, password_of(getattr(running.settings, role).get_secret_value()))
        with running.all_running():
            yield running


@pytest.fixture(scope="package")
def worker(parts: Parts) -> Iterator[Worker]:
    environ = {**os.environ, **parts.environ, **DEFAULTS, "AFLUENTE_WORKER_PORT": str(free_port())}
    started = Worker("w0", environ, parts.home.root / "worker.log", MODULE)
    try:
        yield started.await_ready()
    finally:
        if started.alive:
            started.kill()


@pytest.fixture(scope="package")
def broken_edge(parts: Parts) -> Iterator[Edge]:
    """An edge with every planted fault, beside the whole one and over the same stores."""
    environ = {**os.environ, **parts.environ}
    edge = Edge(environ, parts.home.root / "broken-edge.txt", "tests.security.edge_mutants").await_ready()
    try:
        yield edge
    finally:
        edge.kill()
