"""A real stack with Connect for tests of bills: Postgres by Debezium into ClickHouse, and questions to both ends."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from uuid import UUID, uuid4

import asyncpg
import httpx

from infra.local.environment import STACK_MARK
from infra.local.home import ROOT
from infra.local.ports import free_port
from infra.local.stack import Stack
from tests.support.workers import poll

PORTS = ("EDGE", "KAFKA", "POSTGRES", "CLICKHOUSE", "WORKER", "CONNECT", "WATCH")
PARTS = ("kafka", "postgres", "clickhouse", "worker", "connect")
CONVERGE_S = 90.0
COMMAND_S = 240.0
OCCURRENCES = 4

FIGURES = """SELECT toYYYYMM(due_date) AS month, toString(currency), category, status, toString(count()),
    toString(sum(toInt64(amount * 100))) FROM afluente.{table} FINAL WHERE tenant_id = '{tenant}'
    GROUP BY ALL ORDER BY ALL FORMAT JSONCompact"""
SAME_FIGURES = """SELECT (extract(year FROM due_date) * 100 + extract(month FROM due_date))::int AS month, currency,
    category, status, count(*)::text, sum((amount * 100)::bigint)::text FROM {table} WHERE tenant_id = '{tenant}'
    GROUP BY 1, 2, 3, 4"""


class BillsStack:
    """One stack; make it with `running()`."""

    def __init__(self, home: Path) -> None:
        self.stack = Stack(home, {f"AFLUENTE_{name}_PORT": str(free_port()) for name in PORTS})
        self.primary_port = 0  # where the primary is found, when that is not the stack's own server

    @classmethod
    @contextmanager
    def running(cls, home: Path, parts: Sequence[str] = PARTS) -> Iterator[Self]:
        """Up, and gone with its folder at the end."""
        made = cls(home)
        try:
            made.stack.chosen_cdc(True)
            made.stack.up(parts)
            yield made
        finally:
            made.stack.kill_everything()
            made.stack.down()
            shutil.rmtree(home, ignore_errors=True)

    @property
    def settings(self) -> Any:
        return self.stack.settings

    # -- Postgres

    def postgres(self, sql: str, *given: Any) -> list[Any]:
        """One statement as the owner."""

        async def ask() -> list[Any]:
            connection = await self.connect()
            try:
                return list(await connection.fetch(sql, *given))
            finally:
                await connection.close()

        return asyncio.run(ask())

    async def connect(self) -> Any:
        return await asyncpg.connect(self.owner_url)

    @property
    def owner_url(self) -> str:
        return self.at_primary(str(self.settings.postgres_owner_url.get_secret_value()))

    def at_primary(self, url: str) -> str:
        """The URL of a role where the primary is found now."""
        here = self.settings.postgres_port
        return url.replace(f":{here}/", f":{self.primary_port or here}/")

    def tenant(self) -> str:
        """A new one."""
        return str(self.postgres("INSERT INTO tenants (name) VALUES ($1) RETURNING id", f"t-{uuid4()}")[0][0])

    def fill(self, tenant: str, bills: int) -> None:
        """Bills over two years and their occurrences, in two currencies."""
        self.postgres(
            "INSERT INTO bills (tenant_id, user_id, description, category, amount, currency, due_date, installments)"
            " SELECT $1, 'u' || i % 7, 'é ' || chr(39) || i, CASE WHEN i % 2 = 0 THEN '' ELSE 'café' END, i + 0.10,"
            " CASE WHEN i % 5 = 0 THEN 'USD' ELSE 'BRL' END, date '2026-01-01' + (i * 31) % 700, $3"
            " FROM generate_series(1, $2::int) i",
            UUID(tenant), bills, OCCURRENCES,
        )  # fmt: skip
        self.postgres(
            "INSERT INTO bill_occurrences (tenant_id, bill_id, user_id, number, installments, category, amount,"
            " currency, due_date) SELECT tenant_id, id, user_id, n, $2, category, round(amount / $2, 2), currency,"
            " (due_date + n * interval '1 month')::date FROM bills, generate_series(1, $2::int) n WHERE tenant_id = $1",
            UUID(tenant), OCCURRENCES,
        )  # fmt: skip

    # -- ClickHouse

    def clickhouse(self, sql: str) -> str:
        answer = httpx.post(self.settings.clickhouse_url, content=sql, timeout=60, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.text.strip()

    def clickhouse_rows(self, sql: str) -> list[list[Any]]:
        """The answer of a query with FORMAT JSONCompactEachRow."""
        return [json.loads(line) for line in self.clickhouse(sql).splitlines()]

    def ids(self, tenant: str, count: int, table: str = "bill_occurrences") -> list[str]:
        """Some ids that ClickHouse has."""
        return self.clickhouse(
            f"SELECT id FROM afluente.{table} FINAL WHERE tenant_id = '{tenant}' ORDER BY id LIMIT {count}"
        ).split()

    # -- both

    def figures(self, tenant: str, table: str) -> tuple[list[Any], list[Any]]:
        """The same figures, in hundredths, as ClickHouse and as Postgres give them."""
        theirs = json.loads(self.clickhouse(FIGURES.format(table=table, tenant=tenant)))["data"]
        ours = [list(row) for row in self.postgres(SAME_FIGURES.format(table=table, tenant=tenant))]
        return sorted(theirs), sorted(ours)

    def converge(self, *tenants: str, seconds: float = CONVERGE_S) -> None:
        """Until both ends give the same figures."""

        def same() -> bool:
            pairs = [self.figures(tenant, table) for tenant in tenants for table in ("bills", "bill_occurrences")]
            return all(theirs == ours and ours for theirs, ours in pairs)

        poll(same, "ClickHouse has the figures of Postgres", seconds, 0.2)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        return poll(condition, what, CONVERGE_S, 0.1)

    def afluente(self, *arguments: str, status: int | None = 0) -> Any:
        """A command; its JSON document when it was asked for one. `status` None: whatever it ends with."""
        environ = {name: value for name, value in self.stack.environ.items() if name != STACK_MARK}
        done = subprocess.run(
            [sys.executable, "-m", "infra.local.cli", *arguments],
            cwd=ROOT, env={**os.environ, **environ}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=COMMAND_S, check=False,
        )  # fmt: skip
        assert status in {None, done.returncode}, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout) if "--json" in arguments and done.stdout else done.stdout + done.stderr
