"""Writes of bills straight into Postgres, and what is known of each: for cases in which something dies meanwhile.

Every transaction is noted as confirmed, refused or unknown: an error after the commit was sent says nothing.
"""

import asyncio
import contextlib
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from app.postgres import GONE
from tests.support.children import READY_S, poll

PAUSE_S = 0.04  # 20 transactions of some 8 rows a second: work for each part, and time to look in between
RETRY_S = 0.05
CONNECT_S = 1.0
COMMAND_S = 5.0
OCCURRENCES = 4
BILL = """INSERT INTO bills (tenant_id, id, user_id, description, category, amount, currency, due_date, installments)
    VALUES ($1, $2, 'u', 'rent', $3, 100.01, 'BRL', date '2026-01-01' + $4::int, $5)"""
PARTS = """INSERT INTO bill_occurrences (tenant_id, id, bill_id, user_id, number, installments, category, amount,
    currency, due_date) SELECT $1, id, $2, 'u', n, $4, $5, 25.01, 'BRL', date '2026-01-01' + n::int * 30
    FROM unnest($3::uuid[]) WITH ORDINALITY AS t (id, n)"""
PAY = """UPDATE bill_occurrences SET status = 'paid', paid_at = now(), amount = amount + 0.01
    WHERE tenant_id = $1 AND id = ANY($2)"""
MOVE = "UPDATE bill_occurrences SET due_date = due_date + $3::int WHERE tenant_id = $1 AND id = ANY($2)"
DELETE = "DELETE FROM bill_occurrences WHERE tenant_id = $1 AND id = $2"


@dataclass(slots=True)
class Ledger:
    """Rows by what is known: made and kept for certain, taken away for certain, and neither."""

    kept: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    transactions: int = 0
    errors: int = 0

    def confirmed(self, made: list[str], taken: list[str]) -> None:
        self.transactions += 1
        self.kept |= set(made) - self.unknown
        for one in taken:
            self.kept.discard(one)
            self.gone.add(one)

    def in_doubt(self, made: list[str], taken: list[str]) -> None:
        self.errors += 1
        self.kept -= set(taken)
        self.unknown |= {*made, *taken}


class Load:
    """One writer on a thread, for tenants that are given. `ledger` grows while it runs."""

    def __init__(self, url: Callable[[], str], tenants: list[str], seed: int) -> None:
        self._url = url
        self._tenants = [uuid.UUID(one) for one in tenants]
        self._chance = random.Random(seed)
        self._rows: dict[uuid.UUID, list[uuid.UUID]] = {one: [] for one in self._tenants}
        self._done = threading.Event()
        self._inside = threading.Event()
        self._writing: Future[None] = Future()
        self.ledger = Ledger()

    @contextmanager
    def flowing(self) -> Iterator["Load"]:
        """Write while the body runs, beginning with something that is there."""
        self._done.clear()
        with ThreadPoolExecutor(1) as pool:
            self._writing = pool.submit(lambda: asyncio.run(self._run()))
            try:
                self.await_more(5)
                yield self
            finally:
                self._done.set()
        self._writing.result()

    def await_more(self, transactions: int) -> None:
        """Until so many more were confirmed."""
        wanted = self.ledger.transactions + transactions
        poll(lambda: self._writing.done() or self.ledger.transactions >= wanted, f"{transactions} more transactions")
        if self._writing.done():
            self._writing.result()  # what it ended with

    def await_inside(self) -> None:
        """Until a transaction is under way: the moment to kill."""
        assert self._inside.wait(READY_S)

    async def _run(self) -> None:
        connection: asyncpg.Connection[Any] | None = None
        while not self._done.is_set():
            if connection is None or connection.is_closed():
                with contextlib.suppress(*GONE, asyncpg.PostgresError):
                    connection = await asyncpg.connect(self._url(), timeout=CONNECT_S, command_timeout=COMMAND_S)
                if connection is None or connection.is_closed():
                    await asyncio.sleep(RETRY_S)
                    continue
            await self._write(connection)
            await asyncio.sleep(PAUSE_S)
        if connection is not None:
            connection.terminate()

    async def _write(self, connection: "asyncpg.Connection[Any]") -> None:
        tenant = self._chance.choice(self._tenants)
        rows = self._rows[tenant]
        bill, parts = self._id(), [self._id() for _ in range(OCCURRENCES)]
        known = self._chance.sample(rows, min(len(rows), 6))
        taken = [rows.pop(rows.index(known[-1]))] if len(rows) > 40 and self._chance.random() < 0.3 else []
        made, lost = [str(one) for one in (bill, *parts)], [str(one) for one in taken]
        self._inside.set()
        try:
            async with connection.transaction():
                category = self._chance.choice(["", "home", "café"])
                await connection.execute(BILL, tenant, bill, category, self._chance.randrange(700), OCCURRENCES)
                await connection.execute(PARTS, tenant, bill, parts, OCCURRENCES, category)
                await connection.execute(PAY, tenant, known[:3])
                await connection.execute(MOVE, tenant, known[3:5], self._chance.randint(-60, 60))
                for one in taken:
                    await connection.execute(DELETE, tenant, one)
        except (*GONE, asyncpg.PostgresError):
            self.ledger.in_doubt(made, lost)
            connection.terminate()
        else:
            rows.extend(parts)
            self.ledger.confirmed(made, lost)
        finally:
            self._inside.clear()

    def _id(self) -> uuid.UUID:
        return uuid.UUID(int=self._chance.getrandbits(128), version=4)
