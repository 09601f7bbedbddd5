"""How the commands about tenants reach Postgres and speak: one connection, one answer, one way to fail."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import asyncpg
import orjson
import typer
from rich.console import Console

from app.credentials import Credentials, Refused, connect
from app.settings import Settings

T = TypeVar("T")
console: Final = Console()
errors: Final = Console(stderr=True)
FAILED: Final = 1


def with_credentials(ask: Callable[[Credentials], Awaitable[T]]) -> T:
    """Run one question or change. What is refused ends the command with a sentence, not with a stack trace."""

    async def run() -> T:
        settings = Settings.load()
        pool = await connect(settings.postgres_url.get_secret_value())
        try:
            return await ask(Credentials(pool, settings.master_key_bytes))
        finally:
            await pool.close()

    try:
        return asyncio.run(run())
    except (Refused, ValueError) as error:
        return _fail(str(error))
    except asyncpg.UndefinedTableError:
        return _fail("the tables are missing; run `./afluente migrate`")
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return _fail(f"Postgres does not answer ({type(error).__name__}); is the stack up? `./afluente status` tells")


def as_json(content: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(orjson.dumps(content, default=str, option=orjson.OPT_INDENT_2).decode() + "\n")


def _fail(text: str) -> Any:
    errors.print(text, style="red", highlight=False)
    raise typer.Exit(FAILED)
