"""The tables of `make bench` say met, missed and not measured as it is."""

from typing import Any

import pytest

from loadtest import page

FRESH = "| another tenant's event beside a backlog: p99 at most twice its fair share |"


def line(results: dict[str, Any], begins: str) -> str:
    """The line of one goal."""
    return next(one for one in page.goals_table(results).splitlines() if one.startswith(begins))


@pytest.mark.parametrize(("p99_s", "verdict"), [(1.9, "met"), (2.0, "**missed**"), (7.0, "**missed**")])
def test_a_goal_is_met_or_missed_by_its_figure(p99_s: float, verdict: str) -> None:
    """A fresh event may wait for twice the share that it was measured beside, and no longer."""
    results = {"growth": {"backlog": {"fresh": {"p99_s": p99_s, "fair_s": 1.0}}}}
    assert line(results, FRESH) == f"{FRESH} {p99_s} s | {verdict} |"


def test_what_was_not_measured_is_not_met() -> None:
    """A benchmark that has not run says so, on every line."""
    assert all(one.endswith("| - | not measured |") for one in page.goals_table({}).splitlines()[2:])


def test_parts_of_other_commits_are_named() -> None:
    """A part that was run by itself later must not pass for the rest."""
    results = {
        name: {"conditions": {"commit": commit}} for name, commit in (("edge", "a"), ("state", "b"), ("growth", "b"))
    }
    assert page.conditions_text(results).startswith("edge: commit a; state, growth: commit b. ")


def test_a_page_without_markers_is_left_alone() -> None:
    """A table goes between its own markers and nowhere else."""
    assert page.between("text", "goals", "table") == "text"
    marked = "a\n<!-- bench:goals -->\nold\n<!-- /bench:goals -->\nz"
    assert page.between(marked, "goals", "new") == "a\n<!-- bench:goals -->\n\nnew\n\n<!-- /bench:goals -->\nz"
