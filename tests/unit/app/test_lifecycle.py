"""Laws of ending: an unknown failure leaves what SIGKILL leaves, with a status and a reason."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.lifecycle import EXIT_UNKNOWN_FAILURE

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import atexit
import structlog
from app.lifecycle import stop_loudly
atexit.register(print, "atexit ran")
try:
    stop_loudly(structlog.get_logger(), ValueError("the reason"))
finally:
    print("finally ran")
"""
UNHEARD = """
import sys
import structlog
from app.lifecycle import stop_loudly
print("a rest", file=sys.{stream}, end="")
stop_loudly(structlog.get_logger(), ValueError("nobody can read it"))
"""


def test_an_unknown_failure_ends_the_process_at_once_and_says_why() -> None:
    """Nothing that could still commit may run: no finally, no atexit. The status is one that supervisors restart on."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == EXIT_UNKNOWN_FAILURE != 0
    assert "the reason" in ended.stdout + ended.stderr
    assert "ran" not in ended.stdout


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_it_ends_although_its_log_is_full(stream: str) -> None:
    """An unknown failure ends the process with its status even where no line can be written any more."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        command = [sys.executable, "-c", UNHEARD.format(stream=stream)]
        ended = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, stdout=full, stderr=full, check=False)
    assert ended.returncode == EXIT_UNKNOWN_FAILURE
