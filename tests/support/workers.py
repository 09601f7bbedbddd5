"""Real Faust workers as child processes, for tests that start, freeze and kill them; and the pollers they need."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from app.lifecycle import EXIT_UNKNOWN_FAILURE
from infra.local.environment import STACK_MARK
from infra.local.home import ROOT
from infra.local.ports import free_port

READY_S = 60.0  # a start takes 3 s on two idle cores
EXIT_S = 60.0
POLL_S = 0.05
TAIL_LINES = 12
CHARACTERS_MAX = 400
MODULE = "agents.worker"

# Small batches, so that a burst of some hundred events makes several; a short session, so that a takeover is quick.
DEFAULTS = {
    "AFLUENTE_BATCH_ROWS_MAX": "150",
    "AFLUENTE_LINGER_MS": "100",
    "AFLUENTE_SESSION_TIMEOUT_S": "6",
    "MALLOC_ARENA_MAX": "2",
}
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


class Worker:
    """One process of `faust -A MODULE worker`, started at once. Its log is kept, one file a process."""

    def __init__(self, name: str, environ: Mapping[str, str], log: Path, module: str) -> None:
        self.name = name
        self.module = module
        self.environ = dict(environ)
        self.log = log
        self.port = int(environ["AFLUENTE_WORKER_PORT"])
        faust = str(Path(sys.executable).with_name("faust"))
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [faust, "-A", module, "worker", "-l", "info"],
                cwd=ROOT, env=self.environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def rss_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def signal(self, which: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(which)

    def await_ready(self, timeout_s: float = READY_S) -> "Worker":
        """Until it is a member of the group and the state of all its partitions is prepared."""
        poll(self._ready_or_dead, f"{self.name} is ready\n{self.tail()}", timeout_s)
        return self

    def _ready_or_dead(self) -> bool:
        assert self.alive, f"{self.name} ended with {self.process.returncode} while starting\n{self.tail()}"
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}/health/ready", trust_env=False).status_code == 200
        return False

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

    def assigned(self) -> set[str]:
        """The partitions that it owned last, as its log names them."""
        lines = self.lines("partitions assigned")
        return set(lines[-1]["partitions"]) if lines else set()

    def tail(self) -> str:
        """The end of the log, for a failure."""
        lines = [line for line in self.log.read_text("utf-8", "replace").splitlines() if '"[^' not in line]
        return f"--- end of {self.log} ---\n" + "\n".join(line[:CHARACTERS_MAX] for line in lines[-TAIL_LINES:])


class Fleet:
    """The workers of one stack. Names are static group members: a new process of one name takes its partitions back."""

    def __init__(self, environ: Mapping[str, str], home: Path) -> None:
        self._environ = {name: value for name, value in environ.items() if name != STACK_MARK}
        self.home = home
        self.logs = home / "worker-logs"
        self.logs.mkdir(exist_ok=True)
        self.workers: dict[str, Worker] = {}
        self._started = 0

    def start(
        self,
        name: str = "w0",
        *,
        module: str = MODULE,
        environ: Mapping[str, str] | None = None,
        wait: bool = True,
        **settings: Any,
    ) -> Worker:
        """A new process; one of that name must have ended. `settings` become AFLUENTE_* names."""
        assert name not in self.workers or not self.workers[name].alive
        self._started += 1
        whole = {**self._environment(name, settings), **(environ or {})}
        worker = Worker(name, whole, self.logs / f"{self._started:03}-{name}.log", module)
        self.workers[name] = worker
        return worker.await_ready() if wait else worker

    def ensure(self, name: str = "w0", **settings: Any) -> Worker:
        """The living worker of that name with these settings and no other, or a new one."""
        self.kill_all(but=name)
        worker = self.workers.get(name)
        if worker is not None and worker.alive and worker.module == MODULE:
            wanted = self._environment(name, settings) | {"AFLUENTE_WORKER_PORT": str(worker.port)}
            if worker.environ == wanted:
                return worker.await_ready()
        self.kill_all()
        return self.start(name, **settings)

    def kill_all(self, but: str = "") -> None:
        """SIGKILL: what it leaves is what every start must cope with."""
        for name, worker in self.workers.items():
            if worker.alive and name != but:
                worker.kill()

    def fired(self, failpoint: str) -> bool:
        """Whether that failpoint has killed a process since the last `rearm`."""
        return (self.home / "failpoints" / failpoint).exists()

    def rearm(self) -> None:
        """Forget which failpoints have fired."""
        for mark in (self.home / "failpoints").glob("*"):
            mark.unlink()

    def died(self) -> list[Worker]:
        """Workers that ended by themselves with the status of an unknown failure."""
        return [worker for worker in self.workers.values() if worker.process.poll() == EXIT_UNKNOWN_FAILURE]

    def tails(self) -> Iterator[str]:
        for worker in self.workers.values():
            yield worker.tail()

    def _environment(self, name: str, settings: Mapping[str, object]) -> dict[str, str]:
        chosen = {f"AFLUENTE_{key.upper()}": str(value) for key, value in settings.items()}
        own = {"AFLUENTE_WORKER_ID": name, "AFLUENTE_WORKER_PORT": str(free_port()), "AFLUENTE_HOME": str(self.home)}
        return {**os.environ, **self._environ, **DEFAULTS, **own, **chosen}
