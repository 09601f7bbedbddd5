"""`./afluente demo` and `./afluente load` on a stack of their own: what a stranger runs first must be true."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from infra.local.home import ROOT
from infra.local.ports import free_port

PORTS = ("EDGE", "KAFKA", "POSTGRES", "CLICKHOUSE", "WORKER")
COMMAND_TIMEOUT_S = 200


def afluente(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line as a user runs it."""
    command = [sys.executable, "-m", "infra.local.cli", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A home and ports of its own; nothing is left running."""
    home: Path = tmp_path_factory.mktemp("demo")
    found = {"AFLUENTE_HOME": str(home), **{f"AFLUENTE_{name}_PORT": str(free_port()) for name in PORTS}}
    yield found
    afluente(found, "clean", "--yes")


def test_the_demo_is_right_and_leaves_nothing_running(environ: dict[str, str]) -> None:
    """From no stack at all: nothing missing, nothing twice, the poison in the DLQ, and everything stopped again."""
    ran = afluente(environ, "demo", "--json")
    assert ran.returncode == 0, ran.stderr + ran.stdout
    figures = json.loads(ran.stdout)
    assert figures["right"]
    assert (figures["missing"], figures["phantom"], figures["duplicates"]) == (0, 0, 0)
    assert figures["dlq"] == 1
    assert figures["accepted"] == figures["rows"] + figures["duplicates_dropped"] + figures["dlq"]
    assert figures["duplicates_dropped"] > 0
    assert figures["worker_killed_pid"] > 0
    status = json.loads(afluente(environ, "status", "--json").stdout)
    assert {service["state"] for service in status["services"]} == {"stopped"}


def test_load_verifies_what_it_sent(environ: dict[str, str]) -> None:
    """The load is right on a healthy stack, and its sums are what the tables hold."""
    assert afluente(environ, "up").returncode == 0
    ran = afluente(environ, "load", "--users", "5", "--seconds", "4", "--rate", "50", "--tenants", "2", "--json")
    assert ran.returncode == 0, ran.stderr + ran.stdout
    document: dict[str, Any] = json.loads(ran.stdout)
    assert document["right"]
    assert {stream["table"] for stream in document["streams"]} == {"tracking_events", "gateway_events"}
    assert sum(stream["resent"] for stream in document["streams"]) > 0
    # Said a second way, straight from ClickHouse: the sums of the verdicts are what the tables hold.
    for stream in document["streams"]:
        table, tenant_id = stream["table"], stream["tenant_id"]
        query = f"SELECT count(), uniqExact(event_id) FROM afluente.{table} WHERE tenant_id = '{tenant_id}'"
        answer = httpx.post(f"http://127.0.0.1:{environ['AFLUENTE_CLICKHOUSE_PORT']}/", content=query, trust_env=False)
        assert answer.text.split() == [str(stream["rows"]), str(stream["rows"])]
