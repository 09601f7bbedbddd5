"""The audit trail: who changed what, written in the transaction of the change itself. Append-only in Postgres."""

import getpass
from collections.abc import Mapping
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import orjson

Connection: TypeAlias = "asyncpg.Connection[Any] | asyncpg.pool.PoolConnectionProxy[Any]"


async def record(
    connection: Connection,
    action: str,
    *,
    tenant_id: UUID | None,
    target: str = "",
    detail: Mapping[str, Any] | None = None,
    actor: str = "",
) -> None:
    """Append one line. `action` is `noun.verb`, e.g. `key.revoke`; `detail` never holds a secret or a person."""
    await connection.execute(
        "INSERT INTO audit (actor, action, tenant_id, target, detail) VALUES ($1, $2, $3, $4, $5)",
        actor or operator(),
        action,
        tenant_id,
        target,
        orjson.dumps(detail or {}).decode(),
    )


def operator() -> str:
    """Who runs this process, as the operating system knows it."""
    try:
        return f"os:{getpass.getuser()}"
    except (KeyError, OSError):  # a container without a passwd entry for its user
        return "os:unknown"
