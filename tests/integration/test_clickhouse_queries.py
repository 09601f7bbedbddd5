"""docs/clickhouse-queries.md: every query on the page runs on the real engine, with rows, and is what the code asks."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from api import analytics_queries
from infra.local.home import ROOT
from schemas.days import today
from tests.support.bill_changes import Household, Mirror
from tests.support.edge_parts import Parts, new_tenant

PAGE = (ROOT / "docs" / "clickhouse-queries.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)\n```", PAGE, re.DOTALL)
ASKED = ("MONTH", "CATEGORIES", "PROJECTIONS", "CASHFLOW", "PROGRESS", "SEEN", "CAME_IN")
FAULTS = ("count() > 1", "NOT IN", "whole != parts")  # what these look for must not be there


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A household with some history, deleted occurrences among it, and the parameters that fit it."""
    parts = Parts(Path(tmp_path_factory.mktemp("queries")))
    try:
        parts.start_postgres()
        parts.start_clickhouse()
        tenant = new_tenant(parts)["tenant_id"]
        occurrence = asyncio.run(_live(parts, tenant))
        nobody = "00000000-0000-0000-0000-000000000000"
        named = {
            "tenant": tenant, "tenants": f"['{tenant}']", "id": occurrence, "today": str(today()), "limit": "20001",
            "first": "2025-01-01", "last": "2028-12-31", "topic": "bills.changes", "partition": "0",
            "since_ms": "600000", "bill": nobody, "bill_version": "0", "bill_deleted": "0",
            "occurrence": occurrence, "occurrence_version": "1", "occurrence_deleted": "0",
        }  # fmt: skip
        yield parts.settings.clickhouse_url, {f"param_{name}": value for name, value in named.items()}
    finally:
        parts.stop_all()


async def _live(parts: Parts, tenant: str) -> str:
    connection = await asyncpg.connect(parts.settings.postgres_owner_url.get_secret_value())
    mirror = Mirror(parts)
    house = Household(connection, mirror, tenant, seed=11, today=today())
    bill = await house.bill(installments=3, due=today(), category="rent", currency="BRL")
    for row in (await connection.fetch("SELECT * FROM bill_occurrences ORDER BY number"))[1:]:
        await house.update(row, {"due_date": row["due_date"].replace(day=1)})
    spare = await house.bill(installments=1)
    await house.delete(await connection.fetchrow("SELECT * FROM bill_occurrences WHERE bill_id = $1", spare))
    whole = await connection.fetchrow("SELECT * FROM bills WHERE id = $1", spare)
    await connection.execute("DELETE FROM bills WHERE id = $1", spare)
    mirror.change("bills", whole, None)
    mirror.flush()
    late = await house.bill(installments=1, due=today().replace(year=today().year - 1))
    mirror.flush()
    assert late
    found: str = str(await connection.fetchval("SELECT id FROM bill_occurrences WHERE bill_id = $1 LIMIT 1", bill))
    await connection.close()
    return found


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: " ".join(query.split())[:60])
def test_each_query_of_the_page_runs_and_finds_rows(rows: tuple[str, dict[str, str]], query: str) -> None:
    """It is accepted as it stands, within limits, and finds something unless it looks for faults."""
    url, parameters = rows
    used = {name: value for name, value in parameters.items() if "{" + name.removeprefix("param_") + ":" in query}
    answer = httpx.post(url, params={**used, "max_execution_time": "30"}, content=query, timeout=60)
    assert answer.status_code == 200, answer.text
    assert bool(answer.text.strip()) is not any(fault in query for fault in FAULTS), answer.text


@pytest.mark.parametrize("name", ASKED)
def test_the_page_shows_what_the_code_asks(name: str) -> None:
    """The queries of the API stand on the page, word for word."""
    assert getattr(analytics_queries, name).replace("{database:Identifier}.", "afluente.") in QUERIES


def test_the_page_has_a_dozen_questions_of_operators() -> None:
    """A page with less would send operators to the schema."""
    assert len(QUERIES) - len(ASKED) >= 12
