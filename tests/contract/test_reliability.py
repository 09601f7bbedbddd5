"""The published matrix is the matrix that exists: every case of the fault suite has a row, and every row a case."""

import ast
import re
from pathlib import Path

from tests.contract.tree import ROOT

PAGE = ROOT / "docs" / "reliability.md"
SUITE = ROOT / "tests" / "fault"
ROW = re.compile(r"^\| (?P<id>[a-z_]+/[^ |]+)", re.MULTILINE)
UNCAUGHT = "**none**"


def cases() -> set[str]:
    """File and name of each test of the suite, without its parameters."""
    found = set()
    for path in SUITE.rglob("test_*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.add(f"{path.stem.removeprefix('test_')}/{node.name.removeprefix('test_')}")
    return found


def published(page: str) -> set[str]:
    """The same of each row of the page, those that were not run included."""
    return {match["id"].partition("[")[0] for match in ROW.finditer(page)}


def files_of_the_suite() -> set[str]:
    return {path.stem.removeprefix("test_") for path in SUITE.rglob("test_*.py")}


def test_every_case_is_in_the_published_table() -> None:
    """A case without a row was never shown to anybody; a row without a case promises what nothing checks."""
    page = PAGE.read_text("utf-8")
    assert cases() <= published(page)
    files = files_of_the_suite()
    stale = {name for name in published(page) - cases() if name.partition("/")[0] in files}
    # Rows that no test can produce are listed with their reason, and by results.py alone.
    listed = (SUITE / "results.py").read_text("utf-8")
    assert not {name for name in stale if f'"{name}"' not in listed}


def test_every_planted_fault_is_caught_and_every_verdict_is_right() -> None:
    """What is published has no open wound: the page is regenerated when the product is fixed, not before."""
    page = PAGE.read_text("utf-8")
    assert UNCAUGHT not in page
    assert not re.search(r"\| (WRONG|FAILED|NOT CAUGHT) \|", page)


def test_a_missing_row_is_seen(tmp_path: Path) -> None:
    """The check is itself checked: a page without a case's row fails it."""
    name = min(cases())
    cut = tmp_path / "page.md"
    cut.write_text(PAGE.read_text("utf-8").replace(f"| {name}", "| gone"))
    assert name not in published(cut.read_text())
