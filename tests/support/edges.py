"""An edge as a child process, for tests that start several, freeze and kill them."""

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from infra.local.ports import free_port
from tests.support.children import READY_S, Child, poll

MODULE = "api.main"


class Edge(Child):
    """One process of `python -m MODULE` on a port of its own."""

    def __init__(self, environ: Mapping[str, str], log: Path, module: str = MODULE) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__("edge", [sys.executable, "-m", module], {**environ, "AFLUENTE_EDGE_PORT": str(self.port)}, log)

    def await_ready(self, timeout_s: float = READY_S) -> "Edge":
        """Until it reaches all its parts."""
        poll(self._ready_or_dead, f"the edge is ready\n{self.tail()}", timeout_s)
        return self

    def _ready_or_dead(self) -> bool:
        assert self.alive, f"the edge ended with {self.process.returncode}\n{self.tail()}"
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health/ready", trust_env=False).status_code == 200
        return False
