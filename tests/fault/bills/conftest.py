"""One stack with Connect for all cases of bills: it is there for this folder's tests alone, and gone after them."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault import case as cases
from tests.fault.bills.case import BillsCase
from tests.fault.conftest import named, run_case
from tests.fault.results import Results
from tests.support.bills_stack import BillsStack
from tests.support.workers import Fleet

PARTS = ("kafka", "postgres", "clickhouse", "connect", "watch")


@pytest.fixture(scope="package")
def bills(request: pytest.FixtureRequest) -> Iterator[BillsStack]:
    home = Path(tempfile.mkdtemp(prefix="afluente-bills-")) / "home"
    with BillsStack.running(home, PARTS) as running:
        yield running
        if request.session.testsfailed:
            cases.KEPT = f"{home.parent}/kept"
            shutil.copytree(home / "logs", cases.KEPT)
            shutil.copytree(home / "worker-logs", f"{cases.KEPT}/workers")
    if not request.session.testsfailed:
        shutil.rmtree(home.parent)


@pytest.fixture(scope="package")
def crew(bills: BillsStack) -> Iterator[Fleet]:
    """The workers on that stack."""
    fleet = Fleet(bills.stack.environ, bills.stack.home.root)
    yield fleet
    fleet.kill_all()


@pytest.fixture
def bills_case(request: pytest.FixtureRequest, bills: BillsStack, crew: Fleet, results: Results) -> Iterator[BillsCase]:
    yield from run_case(request, BillsCase(bills, crew, results, *named(request)))
