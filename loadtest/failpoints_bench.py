"""What the failpoints of loop and edge cost a release, where none is armed: a test of an empty dictionary each."""

import ast
import timeit
from pathlib import Path
from typing import Any, Final

from app import failpoints
from infra.local.home import ROOT

LOOP: Final = ROOT / "app" / "pipeline.py"
TIMES: Final = 2_000_000
REPEATS: Final = 7
GUARD: Final = "failpoints.armed"


def guards(path: Path) -> int:
    """How many tests a file has. Raises AssertionError for a failpoint without one: it would cost a call each time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == GUARD]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and "failpoints.hit" in ast.unparse(node)]
    inside = {id(node) for guard in guarded for node in ast.walk(guard)}
    bare = [node.lineno for node in calls if id(node) not in inside]
    if bare:
        raise AssertionError(f"{path.name}: failpoints without `if {GUARD}` in lines {bare}")
    return len(guarded)


def measure() -> dict[str, Any]:
    """Nanoseconds a test, microseconds a batch that passes all of the loop's. A request passes one."""
    assert not failpoints.armed
    names = {"failpoints": failpoints}
    tested = min(timeit.repeat(f"if {GUARD}: pass", globals=names, number=TIMES, repeat=REPEATS))
    empty = min(timeit.repeat("pass", globals=names, number=TIMES, repeat=REPEATS))
    each_ns = (tested - empty) / TIMES * 1e9
    count = guards(LOOP)
    return {"tests_a_batch": count, "ns_a_test": round(each_ns, 1), "us_a_batch": round(count * each_ns / 1e3, 2)}
