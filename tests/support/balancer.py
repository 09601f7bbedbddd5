"""A balancer in front of edges, as Kubernetes has one: it spreads connections over those that say they are ready.

It works on connections, not on requests: who keeps a connection stays where it is, ready or not, until one side ends
it. It tries nothing twice, so an edge that goes without a word is a failed request.
"""

import asyncio
import contextlib
import http
import itertools

import httpx

from tests.support.proxy import Proxy

PROBE_EVERY_S = 0.1
PROBE_TIMEOUT_S = 0.5


class Balancer(Proxy):
    """One address for several edges. `ports` may be changed while it runs; a new one is asked before it is used."""

    def __init__(self, ports: list[int], probe_every_s: float = PROBE_EVERY_S) -> None:
        self.ports = list(ports)
        self.ready: set[int] = set()
        self._probe_every_s = probe_every_s
        self._turns = itertools.count()
        super().__init__(0)
        self._probing = asyncio.run_coroutine_threadsafe(self._probe(), self._loop)

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def replace(self, old: int, new: int) -> None:
        """Another process in the place of one."""
        self.ports = [new if port == old else port for port in self.ports]

    def close(self) -> None:
        """Ask nobody any more, and end every connection."""
        self._probing.cancel()
        super().close()

    def _choose(self) -> int:
        able = [port for port in self.ports if port in self.ready]
        if not able:
            raise ConnectionRefusedError("no edge is ready")
        return able[next(self._turns) % len(able)]

    async def _probe(self) -> None:
        async with httpx.AsyncClient(timeout=PROBE_TIMEOUT_S, trust_env=False) as client:
            while True:
                for port in self.ports:
                    ready = False
                    with contextlib.suppress(httpx.HTTPError):
                        answer = await client.get(f"http://127.0.0.1:{port}/health/ready")
                        ready = answer.status_code == http.HTTPStatus.OK
                    (self.ready.add if ready else self.ready.discard)(port)
                await asyncio.sleep(self._probe_every_s)
