"""What the bills tests share: a bill that is valid, a client with an app key, and one connection behind the edge."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any, TypeVar

import asyncpg
import httpx

from tests.support.edge_parts import Parts

SOON = date(2090, 1, 31)  # far enough never to be overdue
PLAIN = {"user_id": "ana", "amount": "100.00", "currency": "BRL", "due_date": str(SOON)}
T = TypeVar("T")


def opened(parts: Parts, tenant: dict[str, str]) -> httpx.Client:
    """A client with the tenant's app key."""
    return httpx.Client(base_url=parts.edge_url, headers={"X-App-Key": tenant["app_key"]}, timeout=20)


def made(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    """A bill that was made."""
    answer = client.post("/bills", json={**PLAIN, **fields})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def parts_of(client: httpx.Client, bill_id: str) -> list[dict[str, Any]]:
    """The occurrences of a bill."""
    answer = client.get(f"/bills/{bill_id}/occurrences", params={"limit": 500})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


def as_owner(parts: Parts, work: Callable[["asyncpg.Connection[Any]"], Awaitable[T]]) -> T:
    """Do something in Postgres behind the edge's back, as the owner of the tables."""

    async def run() -> T:
        connection = await asyncpg.connect(parts.settings.postgres_owner_url.get_secret_value())
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())
