"""One real stack for the whole fault suite, a fresh case for each test, and the table of results at the end."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.local.environment import PREFIX, STACK_ONLY
from infra.local.ports import free_port
from infra.local.stack import Stack
from tests.fault import case as cases
from tests.fault.case import Case
from tests.support.oracle import Oracle
from tests.support.traffic import Channel
from tests.support.workers import Fleet

PORTS = ("EDGE", "KAFKA", "POSTGRES", "CLICKHOUSE", "WORKER")
STORES = ("kafka", "postgres", "clickhouse")


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    # What the caller's shell says about another stack must not reach this one.
    for name in [name for name in os.environ if name.startswith(PREFIX) and name not in STACK_ONLY]:
        del os.environ[name]
    home = Path(tempfile.mkdtemp(prefix="afluente-fault-"))
    stack = Stack(home, {f"AFLUENTE_{name}_PORT": str(free_port()) for name in PORTS})
    try:
        stack.up(STORES)
        yield stack
    finally:
        stack.kill_everything()  # its folder goes too, so there is nothing to end calmly
        stack.down()
        # The logs of a failed run are all that can tell why.
        if request.session.testsfailed:
            cases.KEPT = str(home)
        else:
            shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def fleet(stack: Stack) -> Iterator[Fleet]:
    fleet = Fleet(stack.environ, stack.home.root)
    yield fleet
    fleet.kill_all()


@pytest.fixture(scope="session")
def oracle(stack: Stack) -> Iterator[Oracle]:
    oracle = Oracle(stack.settings)
    oracle.forbid_merges()
    yield oracle
    oracle.close()


@pytest.fixture(scope="session")
def channel(stack: Stack) -> Iterator[Channel]:
    channel = Channel(stack.settings.kafka_url)
    yield channel
    channel.close()


@pytest.fixture
def case(
    request: pytest.FixtureRequest, stack: Stack, fleet: Fleet, oracle: Oracle, channel: Channel
) -> Iterator[Case]:
    name = str(request.node.name).removeprefix("test_").replace("_", " ")
    case = Case(stack, fleet, oracle, channel, fault=name)
    yield case
    if request.node.stash.get(FAILED, False):
        cases.LINES.append((case.fault, case.fired, *[""] * 6, "FAILED"))
        # A broken case must not break the next one: nobody is left, nothing is frozen, the parts run.
        fleet.kill_all()


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed and call.when == "call":
        item.stash[FAILED] = True
        fleet = getattr(item, "funcargs", {}).get("fleet") or getattr(item, "funcargs", {}).get("case")
        fleet = getattr(fleet, "fleet", fleet)
        for text in fleet.tails() if fleet is not None else ():
            report.sections.append(("worker", text))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The results, one line a case."""
    if cases.LINES:
        terminalreporter.section("fault suite")
        if cases.KEPT:
            terminalreporter.write_line(f"logs are kept in {cases.KEPT}")
        for line in cases.table():
            terminalreporter.write_line(line)
