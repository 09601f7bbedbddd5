"""Laws of a crew: one name a process, one signal for all, and when one ends all end with its status."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from infra.local.home import ROOT
from tests.support.workers import poll

CHILD = """
import os, pathlib, signal, sys, time
name = os.environ["AFLUENTE_WORKER_ID"]
mark = pathlib.Path(sys.argv[1]) / name
def end(*_):
    (mark.parent / (name + ".ended")).touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
mark.write_text(str(os.getpid()))
while True:
    time.sleep(0.05)
"""
PARENT = """
import os, sys
from infra.local import crew
sys.exit(crew.run([sys.executable, "-c", sys.argv[1], sys.argv[2]], os.environ, "w", 3, 5.0))
"""


def started(folder: Path) -> subprocess.Popen[bytes]:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(folder)], cwd=ROOT)
    poll(lambda: len(list(folder.glob("w-?"))) == 3 and all(one.read_text() for one in folder.glob("w-?")), "three run")
    return parent


def test_a_signal_reaches_every_process(tmp_path: Path) -> None:
    """SIGTERM to the command drains all of its workers, and a calm end is status 0."""
    parent = started(tmp_path)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(20) == 0
    assert {one.name for one in tmp_path.glob("*.ended")} == {"w-0.ended", "w-1.ended", "w-2.ended"}


def test_when_one_dies_all_end_and_the_status_tells(tmp_path: Path) -> None:
    """A crew with a member missing would be slow in silence: it ends, calmly for the others, and is started again."""
    parent = started(tmp_path)
    os.kill(int((tmp_path / "w-1").read_text()), signal.SIGKILL)
    assert parent.wait(20) == 128 + signal.SIGKILL
    assert {one.name for one in tmp_path.glob("*.ended")} == {"w-0.ended", "w-2.ended"}
