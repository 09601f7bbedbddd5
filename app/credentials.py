"""Who sends this? Keys, tenants and webhook secrets in Postgres, and the cache that keeps the edge off it.

A key that resolved is trusted for `credential_cache_s`, so a revoked key lives at most that long. With Postgres away,
keys and secrets that were known go on working for STALE_S; unknown ones get `Unavailable`, never a guess.
"""

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar
from uuid import UUID

import asyncpg
import structlog

from app import audit
from app.postgres import GONE
from app.sealing import Sealer, Unsealable
from app.telemetry import metrics

Kind = Literal["write", "read", "app"]
Purpose = Literal["current", "next"]

KEY_PREFIX: Final[dict[Kind, str]] = {"write": "afw_", "read": "afr_", "app": "afa_"}
KEY_BYTES: Final = 32  # 256 random bits: not to be guessed, so a plain SHA-256 may stand for it
KEY_CHARACTERS: Final = 4 + 43  # prefix and 32 bytes in base64url
DISPLAY_CHARACTERS: Final = 12  # enough to tell keys apart in a list, useless to an attacker
SECRET_BYTES_MAX: Final = 4_096

STALE_S: Final = 3_600.0  # with Postgres away, what was known goes on this long
NEGATIVE_S: Final = 5.0  # an unknown key is not asked for again: a wrong client cannot load Postgres
ENTRIES_MAX: Final = 20_000  # about 0.5 kB each, per cache; the least recently used go first
LOOKUP_TIMEOUT_S: Final = 0.5  # leaves time for Kafka within the 2 s of the edge
LOOKUP_LIFE_S: Final = 2.0  # then a lookup that nobody waits for any more is ended with its connection
AWAY_PAUSE_S: Final = 1.0  # after a failed lookup nobody waits for Postgres again this long
POOL_MAX: Final = 8  # connections; lookups are index hits behind a cache
ADMIN_TIMEOUT_S: Final = 10.0

Pool: TypeAlias = "asyncpg.Pool[Any]"

log = structlog.get_logger(__name__)
V = TypeVar("V")


class Unavailable(Exception):  # noqa: N818 - it says what Postgres is
    """Postgres does not answer and the cache does not know: nobody can say whether the key is good."""


class Refused(ValueError):  # noqa: N818 - what happened to the change
    """A change that cannot be made; the text says why and what is allowed."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a key stands for. The tenant of everything a request does comes from here alone."""

    tenant_id: str
    kind: Kind
    rate_limit_per_s: float | None = None
    shards: int = 1
    cors_origins: frozenset[str] = frozenset()
    key_id: str = ""

    @property
    def actor(self) -> str:
        """How a change names who made it."""
        return f"key:{self.key_id}"


@dataclass(frozen=True, slots=True)
class WebhookSecrets:
    """The secrets a signature may be made with: the current one and, while rotating, the next. Repr hides them."""

    candidates: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tenant:
    """One row of the directory."""

    id: UUID
    name: str
    created_at: datetime
    rate_limit_per_s: float | None
    shards: int
    cors_origins: list[str]


@dataclass(frozen=True, slots=True)
class Key:
    """One key as it may be shown: never the key itself."""

    id: UUID
    kind: str
    prefix: str
    created_at: datetime
    revoked_at: datetime | None


async def connect(url: str, timeout_s: float = LOOKUP_LIFE_S) -> Pool:
    """A pool that does not need Postgres to be there yet: the edge starts and says `not ready` instead."""
    return await asyncpg.create_pool(
        url, min_size=0, max_size=POOL_MAX, timeout=timeout_s, command_timeout=ADMIN_TIMEOUT_S
    )


class _Cache(Generic[V]):
    """Remembers answers of Postgres, "there is none" included, and gives stale ones while it is away."""

    def __init__(self, fresh_s: float, clock: Callable[[], float]) -> None:
        self._fresh_s = fresh_s
        self._clock = clock
        self._entries: OrderedDict[Any, tuple[float, V | None]] = OrderedDict()
        self._asking: dict[Any, asyncio.Task[V | None]] = {}
        self._away_until = 0.0

    async def get(self, wanted: Any, ask: Callable[[], Awaitable[V | None]]) -> V | None:
        now = self._clock()
        entry = self._entries.get(wanted)
        if entry is not None and now - entry[0] < (self._fresh_s if entry[1] is not None else NEGATIVE_S):
            return entry[1]
        if now >= self._away_until:
            try:
                return await self._ask_once(wanted, ask)
            except (*GONE, asyncpg.PostgresError) as error:
                self._away_until = self._clock() + AWAY_PAUSE_S
                log.warning("postgres does not answer a lookup", error=type(error).__name__)
        if entry is not None and entry[1] is not None and now - entry[0] < STALE_S:
            metrics.CREDENTIAL_LOOKUPS.labels("stale").inc()
            return entry[1]
        metrics.CREDENTIAL_LOOKUPS.labels("unavailable").inc()
        raise Unavailable

    async def _ask_once(self, wanted: Any, ask: Callable[[], Awaitable[V | None]]) -> V | None:
        # A thousand requests with one key make one lookup. Shielded: the first client may leave, the others stay.
        task = self._asking.get(wanted)
        if task is None:
            task = asyncio.ensure_future(self._ask(wanted, ask))
            self._asking[wanted] = task
            task.add_done_callback(lambda done: self._forget(wanted, done))
        # Waited for, not cancelled: ending a query of a server that hangs would wait for that server.
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                return await asyncio.shield(task)
        except TimeoutError:
            self._forget(wanted, task)  # the next one asks anew: this one may hang on a server that is gone
            raise

    def _forget(self, wanted: Any, task: "asyncio.Task[V | None]") -> None:
        if self._asking.get(wanted) is task:
            del self._asking[wanted]
        if task.done() and not task.cancelled():
            task.exception()  # seen, also when nobody waited for it any more

    async def _ask(self, wanted: Any, ask: Callable[[], Awaitable[V | None]]) -> V | None:
        found = await ask()
        metrics.CREDENTIAL_LOOKUPS.labels("found" if found is not None else "unknown").inc()
        self._entries[wanted] = (self._clock(), found)
        self._entries.move_to_end(wanted)
        while len(self._entries) > ENTRIES_MAX:
            self._entries.popitem(last=False)
        return found


class Credentials:
    """The lookups of the edge and the changes of the operator, over one pool."""

    def __init__(
        self,
        pool: Pool,
        master_key: bytes,
        *,
        cache_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._sealer = Sealer(master_key, "webhook-secret")
        self._keys: _Cache[Credential] = _Cache(cache_s, clock)
        self._secrets: _Cache[WebhookSecrets] = _Cache(cache_s, clock)

    async def resolve(self, key: str) -> Credential | None:
        """What the key stands for, or None when it is unknown or revoked. Unavailable when nobody can say."""
        if len(key) != KEY_CHARACTERS or key[:4] not in KEY_PREFIX.values():
            return None  # not the shape of a key: no lookup
        digest = _digest(key)
        return await self._keys.get(digest, lambda: self._resolve(digest))

    async def webhook_secrets(self, tenant_id: str, gateway: str) -> WebhookSecrets | None:
        """The secrets of a tenant's gateway, or None when none is set."""
        return await self._secrets.get((tenant_id, gateway), lambda: self._open_secrets(tenant_id, gateway))

    async def ping(self) -> None:
        """Raises when Postgres does not answer."""
        async with asyncio.timeout(LOOKUP_TIMEOUT_S), self._lookup() as connection:
            await connection.fetchval("SELECT 1")

    async def create_tenant(self, name: str) -> UUID:
        """A new tenant, without keys."""
        async with self._pool.acquire() as connection, connection.transaction():
            try:
                tenant_id: UUID = await connection.fetchval("INSERT INTO tenants (name) VALUES ($1) RETURNING id", name)
            except asyncpg.UniqueViolationError:
                raise Refused(f"there is a tenant {name!r} already; names are unique") from None
            except asyncpg.CheckViolationError:
                raise Refused("a tenant's name has 1 to 200 characters") from None
            await _enter(connection, tenant_id)
            await audit.record(connection, "tenant.create", tenant_id=tenant_id, target=name)
            return tenant_id

    async def list_tenants(self) -> list[Tenant]:
        """Every tenant, oldest first."""
        rows = await self._pool.fetch(
            "SELECT id, name, created_at, rate_limit_per_s, shards, cors_origins FROM tenants ORDER BY created_at, id"
        )
        return [Tenant(**row) for row in rows]

    async def find_tenant(self, name_or_id: str) -> UUID:
        """The id of a tenant given by id or by name."""
        found: UUID | None = await self._pool.fetchval(
            "SELECT id FROM tenants WHERE id::text = lower($1) OR name = $1 ORDER BY id::text = lower($1) DESC LIMIT 1",
            name_or_id,
        )
        if found is None:
            raise Refused(f"there is no tenant {name_or_id!r}; `tenant list` shows those there are")
        return found

    async def set_tenant(
        self,
        tenant_id: UUID,
        *,
        rate_limit_per_s: float | None,
        shards: int,
        cors_origins: Sequence[str],
    ) -> None:
        """Replace a tenant's settings. The number of shards only grows: fewer would move keys back."""
        async with self._change(tenant_id) as connection:
            now: int = await connection.fetchval("SELECT shards FROM tenants WHERE id = $1 FOR UPDATE", tenant_id)
            if shards < now:
                raise Refused(f"the tenant has {now} shards; the number may only grow")
            try:
                await connection.execute(
                    "UPDATE tenants SET rate_limit_per_s = $2, shards = $3, cors_origins = $4 WHERE id = $1",
                    tenant_id, rate_limit_per_s, shards, list(cors_origins),
                )  # fmt: skip
            except asyncpg.CheckViolationError as error:
                limits = "the limit is above 0, shards are 1 to 256, origins at most 100"
                raise Refused(f"out of range ({error.constraint_name}): {limits}") from None
            detail = {"rate_limit_per_s": rate_limit_per_s, "shards": shards, "cors_origins": list(cors_origins)}
            await audit.record(connection, "tenant.set", tenant_id=tenant_id, detail=detail)

    async def create_key(self, tenant_id: UUID, kind: Kind) -> tuple[UUID, str]:
        """A new key: its id, and the key itself, which is shown this once and stored only as its hash."""
        key = KEY_PREFIX[kind] + secrets.token_urlsafe(KEY_BYTES)
        async with self._change(tenant_id) as connection:
            key_id: UUID = await connection.fetchval(
                "INSERT INTO api_keys (tenant_id, kind, prefix, key_sha256) VALUES ($1, $2, $3, $4) RETURNING id",
                tenant_id, kind, key[:DISPLAY_CHARACTERS], _digest(key),
            )  # fmt: skip
            await audit.record(connection, "key.create", tenant_id=tenant_id, target=str(key_id), detail={"kind": kind})
        return key_id, key

    async def list_keys(self, tenant_id: UUID) -> list[Key]:
        """The keys of a tenant, revoked ones too, oldest first."""
        async with self._change(tenant_id) as connection:
            rows = await connection.fetch(
                "SELECT id, kind, prefix, created_at, revoked_at FROM api_keys ORDER BY created_at, id"
            )
        return [Key(**row) for row in rows]

    async def revoke_key(self, key_id: UUID) -> bool:
        """Revoke a key for good. False when it was revoked before. Edges let it go within `credential_cache_s`."""
        tenant_id: UUID | None = await self._pool.fetchval("SELECT tenant_of_key($1)", key_id)
        if tenant_id is None:
            raise Refused(f"there is no key {key_id}; `key list` shows the ids")
        async with self._change(tenant_id) as connection:
            changed: str = await connection.execute(
                "UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL", key_id
            )
            if changed == "UPDATE 0":
                return False
            await audit.record(connection, "key.revoke", tenant_id=tenant_id, target=str(key_id))
            return True

    async def set_webhook_secret(
        self, tenant_id: UUID, gateway: str, secret: str, purpose: Purpose = "current"
    ) -> None:
        """Store a gateway's secret, sealed. Setting the current one ends a rotation: the next one is forgotten."""
        plain = secret.strip().encode()
        if not plain or len(plain) > SECRET_BYTES_MAX:
            raise Refused(f"a webhook secret has 1 to {SECRET_BYTES_MAX} bytes")
        sealed = self._sealer.seal(plain, _context(str(tenant_id), gateway, purpose))
        async with self._change(tenant_id) as connection:
            await connection.execute(
                "INSERT INTO webhook_secrets (tenant_id, gateway, purpose, sealed) VALUES ($1, $2, $3, $4)"
                " ON CONFLICT (tenant_id, gateway, purpose) DO UPDATE SET sealed = excluded.sealed, set_at = now()",
                tenant_id, gateway, purpose, sealed,
            )  # fmt: skip
            if purpose == "current":
                await connection.execute("DELETE FROM webhook_secrets WHERE gateway = $1 AND purpose = 'next'", gateway)
            await audit.record(connection, "webhook.set_secret", tenant_id=tenant_id, target=f"{gateway}/{purpose}")

    async def _resolve(self, digest: bytes) -> Credential | None:
        async with self._lookup() as connection:
            row = await connection.fetchrow("SELECT * FROM resolve_key($1)", digest)
        if row is None:
            return None
        return Credential(
            tenant_id=str(row["tenant_id"]),
            kind=row["kind"],
            rate_limit_per_s=row["rate_limit_per_s"],
            shards=row["shards"],
            cors_origins=frozenset(row["cors_origins"]),
            # An edge may be newer than the tables for a moment: tracking must not notice.
            key_id=str(row.get("key_id", "")),
        )

    async def _open_secrets(self, tenant_id: str, gateway: str) -> WebhookSecrets | None:
        async with self._lookup() as connection, connection.transaction():
            await _enter(connection, UUID(tenant_id))
            rows = await connection.fetch(
                "SELECT purpose, sealed FROM webhook_secrets WHERE gateway = $1 ORDER BY purpose", gateway
            )
        candidates = []
        for row in rows:
            try:
                candidates.append(self._sealer.open(row["sealed"], _context(tenant_id, gateway, row["purpose"])))
            except Unsealable:
                log.exception("webhook secret does not open", tenant=tenant_id, gateway=gateway)
        return WebhookSecrets(tuple(candidates)) if candidates else None

    @asynccontextmanager
    async def _lookup(self) -> AsyncIterator[audit.Connection]:
        """A connection for one short question. A server that is silent on one connection is so on all.

        After a failover they lead to a server that is gone, and one after the other would cost its own deadline: at the
        first silence the idle ones are replaced before they are used, and this one is given up.
        """
        connection = await self._pool.acquire(timeout=LOOKUP_LIFE_S)
        loop = asyncio.get_running_loop()
        timers = (
            loop.call_later(LOOKUP_TIMEOUT_S, lambda: loop.create_task(self._pool.expire_connections())),
            loop.call_later(LOOKUP_LIFE_S, connection.terminate),
        )
        try:
            yield connection
        except asyncio.CancelledError:
            connection.terminate()  # it is in the middle of something that nobody waits for
            raise
        finally:
            for timer in timers:
                timer.cancel()
            await self._pool.release(connection)

    @asynccontextmanager
    async def _change(self, tenant_id: UUID) -> AsyncIterator[audit.Connection]:
        """A transaction that sees the rows of one tenant."""
        async with self._pool.acquire() as connection, connection.transaction():
            await _enter(connection, tenant_id)
            yield connection


async def _enter(connection: audit.Connection, tenant_id: UUID) -> None:
    await connection.execute("SELECT set_config('afluente.tenant_id', $1, true)", str(tenant_id))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _context(tenant_id: str, gateway: str, purpose: str) -> str:
    return f"{tenant_id}|{gateway}|{purpose}"
