"""GET /health/..., /metrics: is this edge alive, can it take events, and what is missing when it cannot.

Probes run in the background and the answer is what they last saw, so it comes at once whatever hangs.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import orjson
import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api import contract
from api.deps import Edge
from app.telemetry import metrics
from schemas.topics import GATEWAY_RECEIVED, TRACKING_COLLECTED

router: Final = APIRouter(tags=["health"])
PROBE_EVERY_S: Final = 1.0
PROBE_TIMEOUT_S: Final = 1.5
STALE_S: Final = 5.0  # a probe that has not come back for so long counts as a part that is away
NEEDED_TO_WRITE: Final = ("kafka", "postgres")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    ok: bool
    detail: str
    at: float


class Probes:
    """Looks at each part once a second and remembers what it saw."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._seen: dict[str, _Seen] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin probing."""
        checks: dict[str, Callable[[], Awaitable[None]]] = {
            "kafka": self._kafka,
            "postgres": self._edge.credentials.ping,
            "clickhouse": self._edge.store.ping,
        }
        self._tasks = [asyncio.create_task(self._watch(part, check)) for part, check in checks.items()]

    async def stop(self) -> None:
        """End probing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def report(self) -> tuple[bool, dict[str, dict[str, str]]]:
        """Whether events can be taken, and each part with its state."""
        now = time.monotonic()
        parts: dict[str, dict[str, str]] = {}
        for part in ("kafka", "postgres", "clickhouse"):
            seen = self._seen.get(part, _Seen(False, "not probed yet", now))
            ok = seen.ok and now - seen.at < STALE_S
            detail = seen.detail if not ok and not seen.ok else "" if ok else "the probe hangs"
            parts[part] = {"state": "ok" if ok else "missing", "detail": detail}
        return all(parts[part]["state"] == "ok" for part in NEEDED_TO_WRITE), parts

    async def _watch(self, part: str, check: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await check()
                seen = _Seen(True, "", time.monotonic())
            except Exception as error:  # noqa: BLE001 - whatever it is, the part did not answer
                # Addresses and the like are for the log: anybody may ask for this page.
                log.debug("probe", part=part, detail=str(error)[:300])
                text = str(error.args[0]) if isinstance(error, LookupError) else type(error).__name__
                seen = _Seen(False, text, time.monotonic())
            before = self._seen.get(part)
            if before is None or before.ok != seen.ok:
                log.info("part", part=part, ok=seen.ok, detail=seen.detail)
            self._seen[part] = seen
            metrics.READY.labels(part).set(seen.ok)
            await asyncio.sleep(PROBE_EVERY_S)

    async def _kafka(self) -> None:
        found = await self._edge.producer.topics(PROBE_EVERY_S)
        absent = {TRACKING_COLLECTED.name, GATEWAY_RECEIVED.name} - found
        if absent:
            raise LookupError(f"topics are absent: {', '.join(sorted(absent))}; run `afluente topics apply`")


@router.get("/health/live", **contract.LIVE)
async def live() -> Response:
    """The process serves requests. For restarts: it says nothing of Kafka."""
    return Response(b'{"live":true}', media_type="application/json")


@router.get("/health/ready", **contract.READY)
async def ready(request: Request) -> Response:
    """Events can be taken. 503 names what is missing; without ClickHouse reads alone fail, so that is `degraded`.

    An edge that was asked to end is not ready either, and says `draining`, while it still takes all that comes.
    """
    probes: Probes = request.app.state.probes
    able, parts = probes.report()
    draining: bool = request.app.state.is_draining()
    able = able and not draining
    missing = [part for part in NEEDED_TO_WRITE if parts[part]["state"] != "ok"]
    degraded = [part for part in parts if part not in NEEDED_TO_WRITE and parts[part]["state"] != "ok"]
    content = {"ready": able, "missing": missing, "degraded": degraded, "draining": draining, "parts": parts}
    return Response(orjson.dumps(content), 200 if able else 503, {"Cache-Control": "no-store"}, "application/json")


@router.get("/metrics", **contract.METRICS)
async def exposition() -> Response:
    """Prometheus metrics of this process."""
    return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)
