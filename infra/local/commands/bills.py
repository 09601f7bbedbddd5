"""`./afluente bills ...`: what is done to bills from outside the edge."""

import asyncio
from typing import Final

import asyncpg
import typer

from app.postgres import GONE
from app.settings import Settings
from infra.local.faults import Fault
from infra.local.terminal import AsJson, out, print_json

BILLS_MAX: Final = 500  # in one transaction: it holds them for less than a second
CONNECT_S: Final = 10.0

app: Final = typer.Typer(no_args_is_help=True, help="Bills: turn what is past its day overdue.")


@app.callback()
def bills() -> None:
    """Keep this a group of commands while it has one."""


@app.command()
def overdue(json: AsJson = False) -> None:
    """Turn open occurrences overdue whose day is over everywhere, and their bills with them.

    Every edge does the same once a minute; safe to run at any time, and by several at once.
    """

    async def run() -> int:
        connection = await asyncpg.connect(Settings.load().postgres_url.get_secret_value(), timeout=CONNECT_S)
        turned = 0
        try:
            while count := await connection.fetchval("SELECT bills_turn_overdue($1)", BILLS_MAX):
                turned += count
        finally:
            await connection.close()
        return turned

    try:
        turned = asyncio.run(run())
    except asyncpg.UndefinedFunctionError:
        raise Fault("the tables are missing; run `./afluente migrate`") from None
    except (*GONE, asyncpg.PostgresError) as error:
        text = f"Postgres does not answer ({type(error).__name__}); is the stack up? `./afluente status` tells"
        raise Fault(text) from None
    if json:
        print_json({"bills_turned_overdue": turned})
    else:
        out.print(f"{turned} bills turned overdue.")
