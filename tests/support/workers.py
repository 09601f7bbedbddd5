"""Real Faust workers as child processes, for tests that start, freeze and kill them."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from app.lifecycle import EXIT_UNKNOWN_FAILURE
from infra.local.environment import STACK_MARK
from infra.local.ports import free_port
from tests.support.children import READY_S, Child, poll

MODULE = "agents.worker"

# Small batches, so that a burst of some hundred events makes several; a short session, so that a takeover is quick.
DEFAULTS = {
    "AFLUENTE_BATCH_ROWS_MAX": "150",
    "AFLUENTE_LINGER_MS": "100",
    "AFLUENTE_SESSION_TIMEOUT_S": "6",
    "MALLOC_ARENA_MAX": "2",
}


class Worker(Child):
    """One process of `faust -A MODULE worker`, started at once. Its log is kept, one file a process."""

    def __init__(self, name: str, environ: Mapping[str, str], log: Path, module: str) -> None:
        self.module = module
        self.port = int(environ["AFLUENTE_WORKER_PORT"])
        faust = str(Path(sys.executable).with_name("faust"))
        super().__init__(name, [faust, "-A", module, "worker", "-l", "info"], environ, log)

    def await_ready(self, timeout_s: float = READY_S) -> "Worker":
        """Until it is a member of the group and the state of all its partitions is prepared."""
        poll(self._ready_or_dead, f"{self.name} is ready\n{self.tail()}", timeout_s)
        return self

    def _ready_or_dead(self) -> bool:
        assert self.alive, f"{self.name} ended with {self.process.returncode} while starting\n{self.tail()}"
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}/health/ready", trust_env=False).status_code == 200
        return False

    def assigned(self) -> set[str]:
        """The partitions that it owned last, as its log names them."""
        lines = self.lines("partitions assigned")
        return set(lines[-1]["partitions"]) if lines else set()


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
        whole = {**self.environment(name, settings), **(environ or {})}
        worker = Worker(name, whole, self.next_log(name), module)
        self.workers[name] = worker
        return worker.await_ready() if wait else worker

    def next_log(self, name: str) -> Path:
        """A file of its own for each process."""
        self._started += 1
        return self.logs / f"{self._started:03}-{name}.log"

    def ensure(self, name: str = "w0", **settings: Any) -> Worker:
        """The living worker of that name with these settings and no other, or a new one."""
        self.kill_all(but=name)
        worker = self.workers.get(name)
        if worker is not None and worker.alive and worker.module == MODULE:
            wanted = self.environment(name, settings) | {"AFLUENTE_WORKER_PORT": str(worker.port)}
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

    def environment(self, name: str, settings: Mapping[str, object]) -> dict[str, str]:
        """What a process of that name gets: `settings` become AFLUENTE_* names."""
        chosen = {f"AFLUENTE_{key.upper()}": str(value) for key, value in settings.items()}
        own = {"AFLUENTE_WORKER_ID": name, "AFLUENTE_WORKER_PORT": str(free_port()), "AFLUENTE_HOME": str(self.home)}
        return {**os.environ, **self._environ, **DEFAULTS, **own, **chosen}
