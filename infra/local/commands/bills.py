"""`./afluente bills ...`: what is done to bills from outside the edge."""

import asyncio
from typing import Final

import asyncpg
import typer

from api import bills_overdue, bills_store
from api.errors import Refusal
from app.settings import Settings
from infra.local.faults import Fault
from infra.local.terminal import AsJson, out, print_json

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
        pool = await bills_store.connect(Settings.load().postgres_url.get_secret_value())
        try:
            return await bills_overdue.sweep(bills_store.BillsStore(pool))
        finally:
            await pool.close()

    try:
        turned = asyncio.run(run())
    except asyncpg.UndefinedFunctionError:
        raise Fault("the tables are missing; run `./afluente migrate`") from None
    except Refusal:
        raise Fault("Postgres does not answer; is the stack up? `./afluente status` tells") from None
    if json:
        print_json({"bills_turned_overdue": turned})
    else:
        out.print(f"{turned} bills turned overdue.")
