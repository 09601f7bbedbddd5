"""One real stack for the whole fault suite, a fresh case for each test, and the table of results at the end."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

from infra.local.environment import PREFIX, STACK_ONLY
from infra.local.ports import free_port
from infra.local.stack import Stack
from tests.fault import case as cases
from tests.fault.bills.case import BillsCase
from tests.fault.case import Case
from tests.fault.results import FAILED as FAILED_VERDICT
from tests.fault.results import NOT_HERE, RIGHT, Results, Row, aligned
from tests.support.cluster import Cluster
from tests.support.oracle import Oracle
from tests.support.traffic import Channel
from tests.support.workers import Fleet

PORTS = ("EDGE", "KAFKA", "POSTGRES", "CLICKHOUSE", "WORKER")
STORES = ("kafka", "postgres", "clickhouse")
C = TypeVar("C", Case, BillsCase)


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


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Results:
    return request.config.stash.setdefault(RESULTS, Results())


@pytest.fixture
def case(
    request: pytest.FixtureRequest, stack: Stack, fleet: Fleet, oracle: Oracle, channel: Channel, results: Results
) -> Iterator[Case]:
    yield from run_case(request, Case(stack, fleet, oracle, channel, results, *named(request)))


@pytest.fixture(scope="session")
def cluster(stack: Stack) -> Iterator[Cluster]:
    cluster = Cluster(stack.home.root)
    try:
        yield cluster.start()
    finally:
        cluster.kill_all()


@pytest.fixture(scope="session")
def site(stack: Stack, cluster: Cluster) -> Iterator[tuple[Fleet, Oracle, Channel]]:
    """Workers, questions and traffic on the cluster; ClickHouse and Postgres are the stack's."""
    home = stack.home.root / "cluster"
    home.mkdir()
    environ = {**stack.environ, "AFLUENTE_KAFKA_URL": cluster.url}
    secrets = stack.settings.model_dump(include={"master_key", "postgres_url", "clickhouse_url"})
    environ |= {f"AFLUENTE_{name.upper()}": revealed(secret) for name, secret in secrets.items()}
    settings = stack.settings.model_copy(update={"kafka_url": cluster.url})
    fleet, oracle, channel = Fleet(environ, home), Oracle(settings), Channel(cluster.url)
    yield fleet, oracle, channel
    fleet.kill_all()
    oracle.close()
    channel.close()


def revealed(setting: object) -> str:
    """A setting as a process reads it from its environment."""
    return setting.get_secret_value() if isinstance(setting, SecretStr) else str(setting)


@pytest.fixture
def cluster_case(
    request: pytest.FixtureRequest,
    stack: Stack,
    cluster: Cluster,
    site: tuple[Fleet, Oracle, Channel],
    results: Results,
) -> Iterator[Case]:
    cluster.mend()
    case = Case(stack, *site, results, *named(request))
    case.proxied_url, case.proxies = cluster.proxied_url, cluster.proxies
    yield from run_case(request, case)


def named(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The id of a case, by its file and name, and the same in words."""
    return named_item(request.node)


def named_item(item: Any) -> tuple[str, str]:
    """The same of a collected test."""
    module = Path(str(item.path)).stem.removeprefix("test_")
    name = str(item.name).removeprefix("test_")
    return f"{module}/{name}", name.replace("_", " ")


def run_case(request: pytest.FixtureRequest, case: C) -> Iterator[C]:
    """Hand the case over; a broken one must not break the next: nobody is left, nothing is frozen, the parts run."""
    yield case
    case.end()
    if request.node.stash.get(FAILED, False):
        case.told(FAILED_VERDICT)
        case.fleet.kill_all()


FAILED = pytest.StashKey[bool]()
LEFT_OUT = pytest.StashKey[list[pytest.Item]]()  # cases of the full form, in a run of the short one
RESULTS = pytest.StashKey[Results]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if call.when == "call" and not any(
        isinstance(one, (Case, BillsCase)) for one in getattr(item, "funcargs", {}).values()
    ):
        verdict = FAILED_VERDICT if report.failed else RIGHT
        item.config.stash.setdefault(RESULTS, Results()).add(Row(*named_item(item), "its own comparison", verdict))
    if report.failed and call.when == "call":
        item.stash[FAILED] = True
        given = getattr(item, "funcargs", {})
        for case in [one for one in given.values() if isinstance(one, (Case, BillsCase))]:
            for text in case.fleet.tails():
                report.sections.append(("worker", text))
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The short form leaves out what is marked `full`; its rows stay as an earlier run wrote them."""
    left = [] if cases.FULL else [item for item in items if item.get_closest_marker("full")]
    config.stash[LEFT_OUT] = left
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """The rows into their file. A run of the whole folder that came to its end starts the file anew."""
    results = session.config.stash.get(RESULTS, None)
    if results is not None and results.rows:
        left = session.config.stash[LEFT_OUT]
        mine = {Path(str(item.path)) for item in (*session.items, *left)}
        ended = exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}
        whole = ended and set(Path(__file__).parent.rglob("test_*.py")) <= mine and not session.config.option.keyword
        for row in NOT_HERE:
            results.add(row)
        results.write(whole=whole, left_out={named_item(item)[0] for item in left})


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The results, one line a case."""
    results = terminalreporter.config.stash.get(RESULTS, None)
    if results is not None and results.rows:
        terminalreporter.section("fault suite")
        if cases.KEPT:
            terminalreporter.write_line(f"logs are kept in {cases.KEPT}")
        for line in aligned(results.rows):
            terminalreporter.write_line(line)
        for name, caught_by in sorted(results.caught.items()):
            terminalreporter.write_line(f"planted: {name}: caught by {', '.join(caught_by) or 'NOTHING'}")
