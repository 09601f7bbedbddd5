"""How the commands about tenants reach Postgres: one pool, one question, and faults that say what to do."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from app.credentials import ADMIN_TIMEOUT_S, Credentials, Refused, connect
from app.postgres import GONE
from app.settings import Settings
from infra.local.faults import Fault

T = TypeVar("T")


def with_credentials(ask: Callable[[Credentials], Awaitable[T]]) -> T:
    """Run one question or change. What is refused ends the command with a sentence, not with a stack trace."""

    async def run() -> T:
        settings = Settings.load()
        master_key = settings.master_key_bytes
        pool = await connect(settings.postgres_url.get_secret_value(), ADMIN_TIMEOUT_S)
        try:
            return await ask(Credentials(pool, master_key))
        finally:
            await pool.close()

    try:
        return asyncio.run(run())
    except asyncpg.UndefinedTableError:
        raise Fault("the tables are missing; run `./afluente migrate`") from None
    except (*GONE, asyncpg.PostgresError) as error:
        text = f"Postgres does not answer ({type(error).__name__}); is the stack up? `./afluente status` tells"
        raise Fault(text) from None
    except (Refused, ValueError) as error:
        raise Fault(str(error)) from None
