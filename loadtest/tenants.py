"""Tenants for a run, made by the same code as `./afluente tenant create`, and their keys revoked when it is over."""

import asyncio
import base64
import secrets
import uuid
from dataclasses import dataclass
from uuid import UUID

from app import credentials
from app.settings import Settings
from loadtest.rows import require_loopback
from loadtest.traffic import GATEWAYS, Sender

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Hired:
    """A sender and what has to be taken back from it."""

    sender: Sender
    name: str
    key_id: UUID


def hire(settings: Settings, prefix: str, count: int) -> list[Hired]:
    """New tenants, each with a write key and a secret for every gateway."""
    return asyncio.run(_hire(settings, prefix, count))


def dismiss(settings: Settings, hired: list[Hired]) -> None:
    """Revokes their keys. Their rows stay."""
    asyncio.run(_dismiss(settings, hired))


async def _hire(settings: Settings, prefix: str, count: int) -> list[Hired]:
    pool = await credentials.connect(_postgres(settings))
    try:
        directory = credentials.Credentials(pool, settings.master_key_bytes)
        hired = []
        for _ in range(count):
            name = f"{prefix}-{uuid.uuid4().hex[:12]}"
            tenant_id = await directory.create_tenant(name)
            key_id, write_key = await directory.create_key(tenant_id, "write")
            chosen = {gateway: new_secret(gateway) for gateway in GATEWAYS}
            for gateway, secret in chosen.items():
                await directory.set_webhook_secret(tenant_id, gateway, secret)
            hired.append(Hired(Sender(str(tenant_id), write_key, chosen), name, key_id))
        return hired
    finally:
        await pool.close()


async def _dismiss(settings: Settings, hired: list[Hired]) -> None:
    pool = await credentials.connect(_postgres(settings))
    try:
        directory = credentials.Credentials(pool, settings.master_key_bytes)
        for one in hired:
            await directory.revoke_key(one.key_id)
    finally:
        await pool.close()


def _postgres(settings: Settings) -> str:
    url = settings.postgres_url.get_secret_value()
    require_loopback(url)
    return url


def new_secret(gateway: str) -> str:
    """A fresh secret in the form that gateway uses."""
    if gateway == "standard":
        return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    return secrets.token_urlsafe(SECRET_BYTES)
