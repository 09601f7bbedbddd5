"""Tenants with a key for each direction, made by the project's own code, for cases that go in and out over HTTP."""

import asyncio
import uuid
from dataclasses import dataclass, field

from app import credentials
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Tenant:
    """Its id and its keys."""

    tenant_id: str
    write_key: str = field(repr=False)
    read_key: str = field(repr=False)
    app_key: str = field(repr=False)


def hire(settings: Settings, count: int) -> list[Tenant]:
    """New tenants."""
    return asyncio.run(_hire(settings, count))


async def _hire(settings: Settings, count: int) -> list[Tenant]:
    pool = await credentials.connect(settings.postgres_url.get_secret_value())
    try:
        directory = credentials.Credentials(pool, settings.master_key_bytes)
        found = []
        for _ in range(count):
            tenant_id = await directory.create_tenant(f"fault-{uuid.uuid4().hex[:12]}")
            _, write_key = await directory.create_key(tenant_id, "write")
            _, read_key = await directory.create_key(tenant_id, "read")
            _, app_key = await directory.create_key(tenant_id, "app")
            found.append(Tenant(str(tenant_id), write_key, read_key, app_key))
        return found
    finally:
        await pool.close()
