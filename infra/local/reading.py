"""A command that reads Kafka for a while: its progress bar, its question, and its failures as sentences."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import aiohttp
import asyncpg
import typer
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import KafkaException
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.dead_letter_actions import Busy
from app.dead_letters import TooMany, Unreadable
from app.errors import Backpressure
from app.producer import NotProduced
from infra.local.faults import Fault
from infra.local.terminal import err

T = TypeVar("T")


def carry_out(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work; what a person can mend becomes a Fault."""
    try:
        return asyncio.run(work)
    except (Busy, TooMany, Unreadable, LookupError) as error:
        raise Fault(str(error.args[0] if error.args else error)) from None
    except NotProduced as error:
        raise Fault(
            f"Kafka did not confirm ({error}). What was confirmed is marked; run the same command again for the rest: "
            "what arrives twice is dropped."
        ) from None
    except (KafkaException, TimeoutError) as error:
        raise Fault(f"Kafka or Postgres does not answer ({error or type(error).__name__}); is the stack up?") from None
    except asyncpg.UndefinedTableError:
        raise Fault("The table dlq_actions is missing: run `./afluente migrate`.") from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise Fault(f"Postgres: {type(error).__name__}: {error}") from None
    except (ClickHouseError, Backpressure, aiohttp.ClientError) as error:
        raise Fault(f"ClickHouse does not answer: {str(error)[:500]}") from None
    except OSError as error:
        raise Fault(f"A part of the stack does not answer ({error}); `./afluente status` tells.") from None


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr while something is read; nothing stays of it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as shown:
        task = shown.add_task(title, total=None)

        def report(done: int, total: int) -> None:
            shown.update(task, completed=done, total=total)

        yield report


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless told yes. Without a terminal to ask on, --yes must be given."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Fault("Nobody is here to confirm: give --yes, or look first with --dry-run.")
    typer.confirm(question, abort=True, err=True)
