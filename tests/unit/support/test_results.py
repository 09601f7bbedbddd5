"""The published results: a run replaces what it ran, and hides nothing of what it did not."""

from collections.abc import Collection
from pathlib import Path

from tests.fault.results import CAUGHT, RIGHT, Results, Row, markdown, read


def written(
    path: Path, *rows: Row, whole: bool, caught: dict[str, list[str]] | None = None, left_out: Collection[str] = ()
) -> None:
    """One run with these rows."""
    results = Results()
    for row in rows:
        results.add(row)
    results.caught = caught or {}
    results.write(whole=whole, left_out=left_out, path=path)


def verdicts(path: Path) -> dict[str, str]:
    return {one["id"]: one["verdict"] for one in read(path)["cases"]}


def test_a_run_of_some_cases_leaves_the_others(tmp_path: Path) -> None:
    """Rows of other cases and their planted faults stay."""
    path = tmp_path / "latest.json"
    written(path, Row("a/x", "", "", RIGHT), whole=True, caught={"m": ["a/x"]})
    written(path, Row("b/y", "", "", CAUGHT), whole=False, caught={"n": ["b/y"]})
    assert verdicts(path) == {"a/x": RIGHT, "b/y": CAUGHT}
    assert [one["id"] for one in read(path)["mutants"]] == ["m", "n"]
    assert "one whole run" in markdown(read(path))
    assert f"Run by themselves later: b/y ({read(path)['conditions']['later']['b/y']})." in markdown(read(path))
    written(path, Row("a/x", "", "", RIGHT), Row("b/y", "", "", CAUGHT), whole=True)
    assert "later" not in markdown(read(path))


def test_a_whole_run_starts_anew_but_for_what_its_form_leaves_out(tmp_path: Path) -> None:
    """A case of the full form keeps its last row in the short form, with its planted fault, and is named."""
    path = tmp_path / "latest.json"
    full = (Row("a/long", "", "hit", RIGHT), Row("a/gone", "", "", RIGHT))
    written(path, *full, whole=True, caught={"m": ["a/long"], "old": ["a/gone"]})
    written(path, Row("a/short", "", "", RIGHT), whole=True, left_out={"a/long"})
    assert verdicts(path) == {"a/long": RIGHT, "a/short": RIGHT}
    assert read(path)["mutants"] == [{"id": "m", "caught_by": ["a/long"]}]
    assert "From earlier runs, since the short form leaves them out: a/long." in markdown(read(path))
