"""How fast analytics answers: each question of ClickHouse and of Postgres, over the same rows, while they change.

One tenant has a fifth of all occurrences, and is the one that is asked about; the rest are spread over the others.
During the measurement a batch of changes comes in every second, four of five near today. `measure` is one part of
`make bench-bills`.
"""

import asyncio
import os
import statistics
import time
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import asyncpg

from api import analytics_store
from api.analytics_periods import Span, months_of, shifted
from api.analytics_queries import QUERY_SETTINGS, ROWS_MAX
from api.analytics_store import Question
from api.reading_store import ReadingStore
from app.migrate import SCHEMAS, read_migrations, render
from app.settings import Settings
from loadtest.analytics_questions import INDEX, OF_NAME
from schemas.days import today

DATABASE: Final = "afluente_bench"  # in ClickHouse, and the schema in Postgres: made anew each time, dropped at the end
LARGEST: Final = uuid.UUID(int=1)
PARTS: Final = 10  # occurrences of a bill
SLICE: Final = 250_000  # rows of one insert
MONTHS: Final = 39  # in which bills begin, 35 of them past; their occurrences follow month by month: 48 in all
ROUNDS: Final = 100  # of each question
POSTGRES_EVERY: Final = 5  # rounds: over 2 million rows of one tenant it takes seconds
CHANGES: Final = 100  # rows of one batch
PAUSE_S: Final = 1.0  # between two batches
LOAD_TIMEOUT_S: Final = 900.0

_ROWS: Final = """\
WITH intDiv(number, {parts:UInt64}) AS bill, number % {parts:UInt64} AS part,
    if(bill % 5 = 0, 1, 2 + cityHash64(bill, 't') % {others:UInt64}) AS tenant,
    addMonths({first:Date}, toUInt32(cityHash64(bill, 'm') % {months:UInt64} + part))
        + toUInt16(cityHash64(bill, 'd') % 28) AS due,
    cityHash64(number, 's') % 100 AS chance,
    multiIf(
        due < {today:Date}, multiIf(chance < 90, 'paid', chance < 97, 'overdue', 'cancelled'),
        multiIf(chance < 85, 'open', chance < 95, 'paid', 'cancelled')
    ) AS state
SELECT toUUID(concat('00000000-0000-0000-0000-', leftPad(lower(hex(toUInt32(tenant))), 12, '0'))) AS tenant_id,
    reinterpretAsUUID(MD5(concat('occurrence', toString(number)))) AS id,
    reinterpretAsUUID(MD5(concat('bill', toString(bill)))) AS bill_id,
    concat('user-', toString(bill % 5)) AS user_id, part + 1 AS number_, {parts:UInt64} AS installments,
    if(bill % 3 = 0, 'monthly', 'none') AS recurrence,
    concat('category-', toString(cityHash64(bill, 'c') % 20)) AS category,
    toDecimal64(1000 + cityHash64(bill, 'a') % 200000, 2) / 100 AS amount,
    multiIf(bill % 100 < 90, 'BRL', bill % 100 < 97, 'USD', 'EUR') AS currency, due AS due_date, state AS status,
    if(state = 'paid', toDateTime64(due, 6, 'UTC'), NULL) AS paid_at
FROM numbers({begin:UInt64}, {count:UInt64})"""
_COLUMNS: Final = (
    "tenant_id, id, bill_id, user_id, number, installments, recurrence, category, amount, currency, due_date, status,"
    " paid_at"
)
_INSERT: Final = f"""\
INSERT INTO {{database:Identifier}}.bill_occurrences
    ({_COLUMNS}, actor, version, created_at, updated_at, is_deleted, _version, _changed_at, _topic, _partition, _offset)
SELECT *, 'bench', 1, now64(6), now64(6), 0, rowNumberInAllBlocks() + {{begin:UInt64}}, now64(3), 'bench', 0, 0
FROM ({_ROWS})"""  # noqa: S608 - constants of this module, every value bound
_CHANGE: Final = """\
INSERT INTO {database:Identifier}.bill_occurrences SELECT * REPLACE (
    if(status = 'paid', 'open', 'paid') AS status, if(status = 'paid', NULL, now64(6)) AS paid_at,
    version + 1 AS version, {lsn:UInt64} AS _version, now64(3) AS _changed_at, now64(3) AS _ingested_at)
FROM {database:Identifier}.bill_occurrences FINAL
WHERE tenant_id = {tenant:UUID} AND due_date = {day:Date} LIMIT {count:UInt32}"""
_CHANGE_POSTGRES: Final = """\
UPDATE bill_occurrences SET status = CASE status WHEN 'paid' THEN 'open' ELSE 'paid' END,
    paid_at = CASE status WHEN 'paid' THEN NULL ELSE now() END
WHERE tenant_id = $1 AND id IN (SELECT id FROM bill_occurrences WHERE tenant_id = $1 AND due_date = $2 LIMIT $3)"""
_TABLE_POSTGRES: Final = """\
CREATE TABLE bill_occurrences (
    tenant_id uuid NOT NULL, id uuid NOT NULL, bill_id uuid NOT NULL, user_id text NOT NULL, number smallint NOT NULL,
    installments smallint NOT NULL, recurrence text NOT NULL, category text NOT NULL, amount numeric(14, 2) NOT NULL,
    currency text NOT NULL, due_date date NOT NULL, status text NOT NULL, paid_at timestamptz
)"""
_INDEXES_POSTGRES: Final = (
    "ALTER TABLE bill_occurrences ADD PRIMARY KEY (tenant_id, id)",
    "CREATE INDEX ON bill_occurrences (tenant_id, status, due_date)",
    "CREATE INDEX ON bill_occurrences (tenant_id, due_date, id)",
    INDEX,
    "VACUUM ANALYZE bill_occurrences",
)


def questions() -> dict[str, Question]:
    """What is asked, as the API asks it by default, and the widest windows that it takes."""
    month = today().replace(day=1)
    year, two = months_of(shifted(month, -6), 12), months_of(shifted(month, -12), 24)
    return {
        "month": analytics_store.month_question(month),
        "categories, 1 month": analytics_store.categories_question(months_of(month, 1)),
        "categories, 12 months": analytics_store.categories_question(year),
        "projections, 12 months": analytics_store.projections_question(12),
        "cashflow, 12 months": analytics_store.cashflow_question(year),
        "cashflow, 24 months": analytics_store.cashflow_question(two),
    }


class ClickHouse:
    """The bench's own database, over HTTP."""

    def __init__(self, settings: Settings, http: aiohttp.ClientSession) -> None:
        self.settings = settings.model_copy(update={"clickhouse_database": DATABASE})
        self._http = http
        self._lsn = 1 << 40

    async def make(self, occurrences: int, tenants: int) -> None:
        """The tables as the schema has them, full, and at rest: as an hour without changes leaves their partitions."""
        await self.drop()
        for migration in read_migrations(SCHEMAS / "clickhouse"):
            for statement in render(migration, self.settings):
                await self.run(statement)
        for begin in range(0, occurrences, SLICE):
            count = min(SLICE, occurrences - begin)
            await self.run(_INSERT, **slice_of(begin, count, tenants))
        await self.run("OPTIMIZE TABLE {database:Identifier}.bill_occurrences FINAL")

    async def change(self, day: Any) -> None:
        """One batch of changes."""
        self._lsn += 1
        await self.run(_CHANGE, tenant=LARGEST, day=day, count=CHANGES, lsn=self._lsn)

    async def drop(self) -> None:
        """Nothing is left."""
        await self.run("DROP DATABASE IF EXISTS {database:Identifier} SYNC")

    async def run(self, statement: str, **parameters: Any) -> bytes:
        """One statement, to its end."""
        async with self._post(statement, parameters) as answer:
            found: bytes = await answer.read()
            if answer.status != 200:
                raise RuntimeError(found.decode(errors="replace")[:500])
            return found

    def stream(self, statement: str, **parameters: Any) -> Any:
        """One statement whose answer is read piece by piece."""
        return self._post(statement, parameters)

    def _post(self, statement: str, parameters: Mapping[str, Any]) -> Any:
        headers = {
            "X-ClickHouse-User": self.settings.clickhouse_user,
            "X-ClickHouse-Key": self.settings.clickhouse_password.get_secret_value(),
        }
        bound = {f"param_{name}": str(value) for name, value in {"database": DATABASE, **parameters}.items()}
        return self._http.post(self.settings.clickhouse_url, params=bound, data=statement.encode(), headers=headers)


def slice_of(begin: int, count: int, tenants: int) -> dict[str, Any]:
    """The parameters of one slice of rows."""
    return {
        "begin": begin,
        "count": count,
        "parts": PARTS,
        "others": max(1, tenants - 1),
        "months": MONTHS,
        "first": shifted(today().replace(day=1), -34),
        "today": today(),
    }


async def make_postgres(
    connection: "asyncpg.Connection[asyncpg.Record]", clickhouse: ClickHouse, occurrences: int, tenants: int
) -> None:
    """The same rows in Postgres, with the indexes that these questions want."""
    await connection.execute(f"DROP SCHEMA IF EXISTS {DATABASE} CASCADE; CREATE SCHEMA {DATABASE}")
    await connection.execute(f"SET search_path = {DATABASE}, public")
    await connection.execute(_TABLE_POSTGRES)
    columns = _COLUMNS.split(", ")
    for begin in range(0, occurrences, SLICE):
        wanted = slice_of(begin, min(SLICE, occurrences - begin), tenants)
        async with clickhouse.stream(f"{_ROWS} FORMAT CSV", **wanted) as answer:
            if answer.status != 200:
                raise RuntimeError((await answer.text())[:500])
            await connection.copy_to_table(
                "bill_occurrences", source=answer.content.iter_any(), columns=columns, schema_name=DATABASE,
                format="csv", null="\\N", timeout=LOAD_TIMEOUT_S,
            )  # fmt: skip
    for statement in _INDEXES_POSTGRES:
        await connection.execute(statement, timeout=LOAD_TIMEOUT_S)


async def _storm(clickhouse: ClickHouse, connection: Any, over: asyncio.Event) -> int:
    """Changes, a batch a second in both stores, until the questions are through."""
    batches = 0
    while not over.is_set():
        # Four of five near today, as people pay; the fifth anywhere.
        days = (batches * 37) % 60 - 30 if batches % 5 else (batches * 211) % 1_400 - 1_000
        day = today() + timedelta(days=days)
        await clickhouse.change(day)
        await connection.execute(_CHANGE_POSTGRES, LARGEST, day, CHANGES)
        batches += 1
        await asyncio.sleep(PAUSE_S)
    return batches


async def _ask_clickhouse(store: ReadingStore, question: Question) -> float:
    span: Span = question.span
    parameters = {
        "database": DATABASE, "tenant": LARGEST, "first": span.first, "last": span.last, "today": today(),
        "limit": ROWS_MAX + 1,
    }  # fmt: skip
    began = time.perf_counter()
    question.shape(await store.rows(question.query, parameters, QUERY_SETTINGS))
    return time.perf_counter() - began


async def _ask_postgres(connection: Any, question: Question) -> float:
    values = [LARGEST, question.span.first, question.span.last, *([today()] if question.name == "month" else [])]
    began = time.perf_counter()
    await connection.fetch(OF_NAME[question.name], *values)
    return time.perf_counter() - began


async def _round(store: ReadingStore, connection: Any | None, seconds: dict[str, dict[str, list[float]]]) -> None:
    """Each question of ClickHouse, and of Postgres when there is a connection."""
    for name, question in questions().items():
        seconds[name]["clickhouse"].append(await _ask_clickhouse(store, question))
        if connection is not None:
            seconds[name]["postgres"].append(await _ask_postgres(connection, question))


def _figures(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {"p50_ms": round(statistics.median(ordered) * 1e3, 1), "p99_ms": round(p99 * 1e3, 1)}


async def _measure(settings: Settings, occurrences: int, tenants: int, rounds: int) -> dict[str, Any]:
    owner = settings.postgres_owner_url.get_secret_value() or settings.postgres_url.get_secret_value()
    timeout = aiohttp.ClientTimeout(total=LOAD_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        clickhouse = ClickHouse(settings, http)
        asking, changing = await asyncpg.connect(owner), await asyncpg.connect(owner)
        store = ReadingStore(clickhouse.settings)
        try:
            began = time.perf_counter()
            await clickhouse.make(occurrences, tenants)
            clickhouse_s = time.perf_counter() - began
            await make_postgres(asking, clickhouse, occurrences, tenants)
            postgres_s = time.perf_counter() - began - clickhouse_s
            await changing.execute(f"SET search_path = {DATABASE}, public")
            over = asyncio.Event()
            storm = asyncio.create_task(_storm(clickhouse, changing, over))
            seconds: dict[str, dict[str, list[float]]] = {
                name: {"clickhouse": [], "postgres": []} for name in questions()
            }
            for number in range(rounds):
                await _round(store, asking if number % POSTGRES_EVERY == 0 else None, seconds)
            over.set()
            batches = await storm
        finally:
            await store.close()
            await asking.execute(f"DROP SCHEMA IF EXISTS {DATABASE} CASCADE")
            await asking.close()
            await changing.close()
            await clickhouse.drop()
    return {
        "conditions": {
            "host": urlsplit(settings.clickhouse_url).hostname, "cores": os.cpu_count(), "occurrences": occurrences,
            "tenants": tenants, "of_largest_tenant": occurrences // 5, "rounds": rounds,
            "changes": batches * CHANGES, "load_clickhouse_s": round(clickhouse_s, 1),
            "load_postgres_s": round(postgres_s, 1),
        },
        "questions": {
            name: {store_name: _figures(found) for store_name, found in stores.items()}
            for name, stores in seconds.items()
        },
    }  # fmt: skip


def measure(settings: Settings, occurrences: int, tenants: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """Fill both stores, ask every question of both in turn while rows change, and leave nothing behind."""
    return asyncio.run(_measure(settings, occurrences, tenants, rounds))
