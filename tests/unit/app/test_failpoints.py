"""Laws of failpoints: off unless named, they kill for real, once, and leave the proof that they did."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app import failpoints
from app.settings import Settings
from loadtest import failpoints_bench

STEPS = 8  # of the loop, each with one
ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import sys
from app import failpoints
from app.settings import Settings
failpoints.arm(Settings.load())
for number in range(5):
    print(number, flush=True)
    if failpoints.armed:
        failpoints.hit("6_write")
"""


def run(home: Path, points: str) -> subprocess.CompletedProcess[str]:
    """A process that passes the failpoint `6_write` five times."""
    environment = {"AFLUENTE_HOME": str(home), "AFLUENTE_FAILPOINTS": points, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)


def test_it_kills_at_the_nth_time_once_and_leaves_a_file(tmp_path: Path) -> None:
    """The file proves that the window was hit, and lets the restarted process pass."""
    first = run(tmp_path, "6_write=kill@3")
    assert first.returncode == -signal.SIGKILL
    assert first.stdout.split() == ["0", "1", "2"]
    assert [path.name for path in (tmp_path / "failpoints").iterdir()] == ["6_write"]
    second = run(tmp_path, "6_write=kill@3")
    assert (second.returncode, len(second.stdout.split())) == (0, 5)


def test_a_point_that_is_not_named_does_nothing(tmp_path: Path) -> None:
    """Other points of the loop go on, and nothing is written."""
    done = run(tmp_path, "7_remember=kill")
    assert (done.returncode, len(done.stdout.split())) == (0, 5)
    assert not (tmp_path / "failpoints").exists()


def test_nothing_is_armed_by_default(tmp_path: Path) -> None:
    """A release has no failpoints: the loop pays one test of an empty dictionary."""
    failpoints.arm(Settings(home=tmp_path))
    assert failpoints.armed == {}


@pytest.mark.parametrize("text", ["6_write", "6_write=stop", "6_write=kill@", "6 write=kill", "6_write=kill@x"])
def test_a_text_that_is_no_failpoint_is_refused(tmp_path: Path, text: str) -> None:
    """A fault test that silently tests nothing is worse than none."""
    with pytest.raises(ValueError, match="NAME=kill"):
        failpoints.arm(Settings(home=tmp_path, failpoints=text))


def test_no_step_calls_a_failpoint_that_is_not_armed() -> None:
    """What the benchmark times is all that a release pays: every call stands behind the test of the dictionary."""
    files = [path for room in ("app", "api", "agents") for path in (ROOT / room).rglob("*.py")]
    assert sum(failpoints_bench.guards(path) for path in files) >= STEPS


def test_a_failpoint_without_its_test_is_seen(tmp_path: Path) -> None:
    """A planted bare call is named with its line."""
    bare = tmp_path / "bare.py"
    bare.write_text('if failpoints.armed:\n    failpoints.hit("a")\nfailpoints.hit("b")\n')
    with pytest.raises(AssertionError, match=r"\[3\]"):
        failpoints_bench.guards(bare)
