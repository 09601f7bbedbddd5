"""One process of a test: started with its log in a file, frozen, asked to stop, killed, and looked at."""

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from infra.local.home import ROOT

EXIT_S = 60.0
READY_S = 60.0  # a start takes 3 s on two idle cores
POLL_S = 0.05
TAIL_LINES = 12
CHARACTERS_MAX = 400
T = TypeVar("T")


def poll(condition: Callable[[], T], what: str, timeout_s: float = READY_S, every_s: float = POLL_S) -> T:
    """The first true answer of `condition`; AssertionError with `what` when none came in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(every_s)


class Child:
    """A process that runs from the moment it is made."""

    def __init__(self, name: str, argv: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.environ = dict(environ)
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                list(argv), cwd=ROOT, env=self.environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def rss_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    @property
    def open_files(self) -> int:
        return int(psutil.Process(self.process.pid).num_fds())

    @property
    def threads(self) -> int:
        return int(psutil.Process(self.process.pid).num_threads())

    def signal(self, which: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(which)

    def await_exit(self, timeout_s: float = EXIT_S) -> int:
        """The exit status; negative for a signal."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended within {timeout_s:.0f} s\n{self.tail()}") from None

    def run_for(self, seconds: float) -> None:
        """Let it work for a while; AssertionError when it ends by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self.process.wait(seconds)
            raise AssertionError(f"{self.name} ended with {status}\n{self.tail()}")

    def kill(self) -> int:
        """SIGKILL, and the exit status."""
        self.signal(signal.SIGKILL)
        return self.await_exit()

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """The log's JSON lines, those of one event when it is named."""
        found = []
        for text in self.log.read_text("utf-8", "replace").splitlines():
            if text.startswith("{") and text.endswith("}"):
                with contextlib.suppress(ValueError):
                    found.append(json.loads(text))
        return [line for line in found if line.get("event") == event] if event else found

    def tail(self) -> str:
        """The end of the log, for a failure."""
        lines = [line for line in self.log.read_text("utf-8", "replace").splitlines() if '"[^' not in line]
        return f"--- end of {self.log} ---\n" + "\n".join(line[:CHARACTERS_MAX] for line in lines[-TAIL_LINES:])
