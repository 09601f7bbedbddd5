"""Answers of analytics kept for a moment: off, in this process, or in Redis. Never older than the bound, never needed.

The key holds the tenant, the question and how far ClickHouse had seen Postgres, so a heartbeat that has arrived since
makes a new key; the bound covers what arrives between two heartbeats. Redis away means no cache, not a failure.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import orjson
import redis.asyncio as redis
import structlog
from redis.exceptions import RedisError

from app.settings import Settings
from app.telemetry import metrics

ENTRIES_MAX: Final = 2_000  # in this process; an answer has a few kB
ENTRY_BYTES_MAX: Final = 1 << 20  # a larger one is asked anew
BYTES_MAX: Final = 32 << 20  # of all of them in this process
REDIS_S: Final = 0.1  # an answer takes about 0.05 s to compute: a slower cache is none
AWAY_PAUSE_S: Final = 5.0  # after a failure Redis is left alone so long
KEY_PREFIX: Final = "afluente:analytics:1:"

log = structlog.get_logger(__name__)


class Answers(Protocol):
    """Where answers are kept."""

    async def get(self, wanted: str) -> bytes | None:
        """A kept answer that is within the bound."""

    async def put(self, wanted: str, answer: bytes) -> None:
        """Keep an answer, if there is room and somebody to keep it."""

    async def close(self) -> None:
        """Let go of connections."""


def cache_key(tenant_id: str, question: str, parameters: Mapping[str, Any], lsn: str) -> str:
    """One key for one tenant, question and state. The tenant stands in front, unhashed: no collision crosses it."""
    asked = orjson.dumps([question, parameters, lsn], option=orjson.OPT_SORT_KEYS)
    return f"{KEY_PREFIX}{tenant_id}:{hashlib.sha256(asked).hexdigest()}"


def answers_for(settings: Settings) -> Answers:
    """What the settings ask for."""
    url = settings.cache_url.get_secret_value()
    if not url:
        return NoAnswers()
    return MemoryAnswers(settings.cache_s) if url == "memory:" else RedisAnswers(url, settings.cache_s)


class NoAnswers:
    """Keeps nothing."""

    async def get(self, wanted: str) -> bytes | None:
        """Nothing."""
        del wanted
        return None

    async def put(self, wanted: str, answer: bytes) -> None:
        """Forgotten at once."""

    async def close(self) -> None:
        """Nothing to close."""


class MemoryAnswers:
    """In this process: the oldest go when there are too many entries or bytes."""

    def __init__(self, bound_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._bound_s = bound_s
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, wanted: str) -> bytes | None:
        """A kept answer that is within the bound."""
        kept = self._entries.get(wanted)
        fresh = kept is not None and self._clock() - kept[0] < self._bound_s
        metrics.ANSWERS.labels("memory", "hit" if fresh else "miss").inc()
        return kept[1] if kept is not None and fresh else None

    async def put(self, wanted: str, answer: bytes) -> None:
        """Keep an answer, and drop the oldest until all fit."""
        if len(answer) > ENTRY_BYTES_MAX:
            return
        self._drop(wanted)
        self._entries[wanted] = (self._clock(), answer)
        self.bytes += len(answer)
        while len(self._entries) > ENTRIES_MAX or self.bytes > BYTES_MAX:
            self._drop(next(iter(self._entries)))

    async def close(self) -> None:
        """Forget all."""
        self._entries.clear()
        self.bytes = 0

    def _drop(self, key: str) -> None:
        kept = self._entries.pop(key, None)
        self.bytes -= len(kept[1]) if kept else 0


class RedisAnswers:
    """In Redis, shared by the edges; Redis itself forgets them at the bound."""

    def __init__(self, url: str, bound_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._bound_ms = max(1, round(bound_s * 1000))
        self._clock = clock
        self._away_until = 0.0
        self._client = redis.from_url(
            url, socket_timeout=REDIS_S, socket_connect_timeout=REDIS_S, retry=None, retry_on_timeout=False
        )

    async def get(self, wanted: str) -> bytes | None:
        """A kept answer that is within the bound, or None, also when Redis does not answer."""
        if self._clock() < self._away_until:
            return None
        try:
            kept = await self._client.get(wanted)
        except (RedisError, OSError, TimeoutError) as error:
            self._leave_alone(error)
            return None
        metrics.ANSWERS.labels("redis", "hit" if kept is not None else "miss").inc()
        return kept if isinstance(kept, bytes) else None

    async def put(self, wanted: str, answer: bytes) -> None:
        """Keep an answer; whether Redis took it changes nothing for who asked."""
        if len(answer) > ENTRY_BYTES_MAX or self._clock() < self._away_until:
            return
        try:
            await self._client.set(wanted, answer, px=self._bound_ms)
        except (RedisError, OSError, TimeoutError) as error:
            self._leave_alone(error)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _leave_alone(self, error: Exception) -> None:
        self._away_until = self._clock() + AWAY_PAUSE_S
        metrics.ANSWERS.labels("redis", "away").inc()
        log.warning("the cache does not answer; figures are computed", error=type(error).__name__)
