"""Analytics over HTTP from the real engine: equal to Postgres under updates and merges, waiting, refusals, outages."""

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from api import analytics_answers, version_token
from api.analytics_periods import months_of, shifted
from api.freshness import WAITERS_MAX
from api.version_token import Written
from loadtest.analytics_questions import OF_NAME, as_clickhouse_says
from schemas.days import today
from tests.support.bill_changes import Household, Mirror
from tests.support.edge_parts import Parts, new_tenant, problem

CHANGES = 25  # in one round: some parts more in every partition
ROUNDS = 12
THIS_MONTH = today().replace(day=1)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    running = Parts(Path(tmp_path_factory.mktemp("analytics")))
    try:
        running.start_postgres()
        running.start_clickhouse()
        running.start_edge()
        yield running
    finally:
        running.stop_all()


@pytest.fixture
def tenant(parts: Parts) -> dict[str, str]:
    return new_tenant(parts)


@asynccontextmanager
async def postgres(parts: Parts) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(parts.settings.postgres_owner_url.get_secret_value())
    try:
        yield connection
    finally:
        await connection.close()


def get(parts: Parts, tenant: dict[str, str], path: str, **params: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {tenant['app_key']}"}
    return httpx.get(f"{parts.edge_url}/analytics/{path}", params=params, headers=headers, timeout=20)


def figures(parts: Parts, tenant: dict[str, str], path: str, **params: Any) -> dict[str, Any]:
    answer = get(parts, tenant, path, **params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def of_postgres(
    connection: Any, tenant: dict[str, str], name: str, first: date, last: date
) -> list[dict[str, Any]]:
    values = [uuid.UUID(tenant["tenant_id"]), first, last, *([today()] if name == "month" else [])]
    return [as_clickhouse_says(row) for row in await connection.fetch(OF_NAME[name], *values)]


async def compare(parts: Parts, connection: Any, tenant: dict[str, str]) -> None:
    month = months_of(THIS_MONTH, 1)
    rows = await of_postgres(connection, tenant, "month", month.first, month.last)
    assert figures(parts, tenant, "month", month=f"{THIS_MONTH:%Y-%m}")["currencies"] == rows
    first, last = shifted(THIS_MONTH, -3).replace(day=10), shifted(THIS_MONTH, 4).replace(day=20)
    rows = await of_postgres(connection, tenant, "categories", first, last)
    asked = {"from": first.isoformat(), "to": last.isoformat()}
    found = figures(parts, tenant, "categories", **asked)
    assert found["currencies"] == analytics_answers.by_category(rows)
    span = months_of(THIS_MONTH, 12)
    rows = await of_postgres(connection, tenant, "projections", span.first, span.last)
    assert figures(parts, tenant, "projections", months=12)["months"] == analytics_answers.by_month(rows, span.months)
    span = months_of(shifted(THIS_MONTH, -6), 12)
    rows = await of_postgres(connection, tenant, "cashflow", span.first, span.last)
    assert figures(parts, tenant, "cashflow")["currencies"] == analytics_answers.flows(rows, span.months)


async def test_figures_equal_postgres_to_the_cent_while_rows_change_and_parts_merge(
    parts: Parts, tenant: dict[str, str]
) -> None:
    """After every round of changes, with merges under way, each question gives what Postgres gives."""
    over = threading.Event()

    def merge() -> None:
        while not over.is_set():
            for table in ("bills", "bill_occurrences"):
                parts.clickhouse(f"OPTIMIZE TABLE afluente.{table} FINAL")

    merging = threading.Thread(target=merge)
    merging.start()
    try:
        async with postgres(parts) as connection:
            mirror = Mirror(parts)
            house = Household(connection, mirror, tenant["tenant_id"], seed=5, today=today())
            other = Household(connection, mirror, new_tenant(parts)["tenant_id"], seed=6, today=today())
            for _ in range(ROUNDS):
                for _ in range(CHANGES):
                    await house.change()
                    await other.change()
                await asyncio.to_thread(mirror.flush)
                await compare(parts, connection, tenant)
    finally:
        over.set()
        merging.join()


async def test_a_row_that_moves_within_its_month_is_counted_at_its_new_day_only(
    parts: Parts, tenant: dict[str, str]
) -> None:
    """A filter that ends between the two days does not bring the former version back, merged or not."""
    async with postgres(parts) as connection:
        mirror = Mirror(parts)
        house = Household(connection, mirror, tenant["tenant_id"], seed=1, today=today())
        bill = await house.bill(installments=1, due=date(2026, 11, 5), category="rent", currency="BRL")
        mirror.flush()
        row = await connection.fetchrow("SELECT * FROM bill_occurrences WHERE bill_id = $1", bill)
        await house.update(row, {"due_date": date(2026, 11, 20)})
        mirror.flush()
    early = figures(parts, tenant, "categories", **{"from": "2026-11-01", "to": "2026-11-10"})
    late = figures(parts, tenant, "categories", **{"from": "2026-11-11", "to": "2026-11-30"})
    assert early["currencies"] == []
    assert [found["due"] for found in late["currencies"]] == [f"{row['amount']:.2f}"]


async def test_currencies_are_never_added(parts: Parts, tenant: dict[str, str]) -> None:
    """Each currency has its own figures, and its categories and months add up to them exactly."""
    async with postgres(parts) as connection:
        mirror = Mirror(parts)
        house = Household(connection, mirror, tenant["tenant_id"], seed=2, today=today())
        for currency in ("BRL", "USD", "BRL", "JPY"):
            await house.bill(installments=3, due=THIS_MONTH, currency=currency)
        mirror.flush()
    for path, inner in (("categories", "categories"), ("cashflow", "months")):
        found = figures(parts, tenant, path)["currencies"]
        assert [line["currency"] for line in found] == ["BRL", "JPY", "USD"]
        for line in found:
            assert sum(Decimal(part["due"]) for part in line[inner]) == Decimal(line["due"])
            assert Decimal(line["due"]) == Decimal(line["paid"]) + Decimal(line["unpaid"])


async def test_a_tenant_sees_its_own_figures_alone(parts: Parts, tenant: dict[str, str]) -> None:
    """Another tenant's bills are in nobody else's figures, whatever the query string says."""
    async with postgres(parts) as connection:
        mirror = Mirror(parts)
        await Household(connection, mirror, tenant["tenant_id"], seed=3, today=today()).bill(3, THIS_MONTH)
        mirror.flush()
    stranger = new_tenant(parts)
    assert figures(parts, tenant, "cashflow")["currencies"]
    assert figures(parts, stranger, "cashflow")["currencies"] == []
    forced = get(parts, stranger, "cashflow", tenant_id=tenant["tenant_id"])
    assert problem(forced, 422, "unknown_parameter")["errors"][0]["pointer"] == "/query/tenant_id"


async def test_a_write_is_waited_for_and_then_in_the_figures(parts: Parts, tenant: dict[str, str]) -> None:
    """With at_least, the answer comes when the write has arrived, and says so."""
    async with postgres(parts) as connection:
        mirror = Mirror(parts)
        house = Household(connection, mirror, tenant["tenant_id"], seed=4, today=today())
        bill = await house.bill(installments=1, due=THIS_MONTH, currency="BRL")
        row = await connection.fetchrow("SELECT * FROM bill_occurrences WHERE bill_id = $1", bill)
        token = version_token.write([Written("bill_occurrences", row["id"], 1), Written("bills", bill, 1)])
        asking = asyncio.create_task(asyncio.to_thread(figures, parts, tenant, "cashflow", at_least=token))
        await asyncio.sleep(0.3)
        assert not asking.done()
        await asyncio.to_thread(mirror.flush)
        found = await asking
        assert found["caught_up"] is True
        assert found["currencies"][0]["due"] == f"{row['amount']:.2f}"
        await house.delete(row)
        gone = version_token.write([Written("bill_occurrences", row["id"], row["version"], deleted=True)])
        asking = asyncio.create_task(asyncio.to_thread(figures, parts, tenant, "cashflow", at_least=gone))
        await asyncio.to_thread(mirror.flush)
        assert await asking == {**await asking, "caught_up": True, "currencies": []}


def test_what_does_not_arrive_is_said_within_two_seconds(parts: Parts, tenant: dict[str, str]) -> None:
    """A write that ClickHouse does not have ends the wait after 2 s: the figures are given, and caught_up is false."""
    token = version_token.write([Written("bills", uuid.uuid4(), 1)])
    began = time.monotonic()
    found = figures(parts, tenant, "month", month="2026-11", at_least=token)
    assert found["caught_up"] is False
    assert 1.5 < time.monotonic() - began < 4


async def test_many_waiters_hold_nobody_up(parts: Parts, tenant: dict[str, str]) -> None:
    """More waiting requests than may look at once: all end in time, and a question that waits for nothing is quick."""
    token = version_token.write([Written("bills", uuid.uuid4(), 1)])
    began = time.monotonic()
    async with httpx.AsyncClient(timeout=30, headers={"X-App-Key": tenant["app_key"]}) as client:
        url = f"{parts.edge_url}/analytics/month"
        waiting = [
            asyncio.create_task(client.get(url, params={"month": "2026-11", "at_least": token}))
            for _ in range(3 * WAITERS_MAX)
        ]
        await asyncio.sleep(0.2)
        asked = time.monotonic()
        assert (await client.get(url, params={"month": "2026-11"})).status_code == 200
        assert time.monotonic() - asked < 1.5
        answers = await asyncio.gather(*waiting)
    assert {(answer.status_code, answer.json()["caught_up"]) for answer in answers} == {(200, False)}
    assert time.monotonic() - began < 10


async def test_as_of_follows_the_heartbeats_of_the_tenants_partition(parts: Parts) -> None:
    """as_of is null before CDC has run, then the position and time of the latest heartbeat; it never goes back."""
    parts.clickhouse("TRUNCATE TABLE afluente.cdc_progress")
    tenant = new_tenant(parts)
    assert figures(parts, tenant, "month", month="2026-11")["as_of"] is None
    mirror = Mirror(parts)
    seen = []
    for lsn in (0x16B3748, 0x116B3748, 1 << 32 | 0xABC):
        mirror.lsn = lsn
        mirror.flush()
        seen.append(figures(parts, tenant, "month", month="2026-11")["as_of"])
    assert [one["lsn"] for one in seen] == ["0/16B3748", "0/116B3748", "1/ABC"]
    assert sorted(one["time"] for one in seen) == [one["time"] for one in seen]
    assert seen[0]["time"].endswith("Z")


@pytest.mark.parametrize(
    ("path", "params", "pointer"),
    [
        ("month", {"month": "2026-13"}, "/query/month"),
        ("month", {"month": "0000-01"}, "/query/month"),
        ("month", {"month": "9999-01"}, "/query/month"),
        ("month", {"month": "2026-11-01"}, "/query/month"),
        ("month", {}, "/query/month"),
        ("categories", {"from": "2026-02-30"}, "/query/from"),
        ("categories", {"from": "0000-01-01"}, "/query/from"),
        ("categories", {"to": "tomorrow"}, "/query/to"),
        ("categories", {"from": "2026-11-02", "to": "2026-11-01"}, "/query/to"),
        ("categories", {"from": "2020-01-01", "to": "2026-11-01"}, "/query/to"),
        ("projections", {"months": "0"}, "/query/months"),
        ("projections", {"months": "1000"}, "/query/months"),
        ("projections", {"months": "x' OR 1=1"}, "/query/months"),
        ("cashflow", {"from": "2026-11", "to": "2020-01"}, "/query/to"),
        ("cashflow", {"from": "1900-01"}, "/query/from"),
        ("cashflow", {"at_least": "nonsense"}, "/query/at_least"),
        ("cashflow", {"at_least": "a" * 5_000}, "/query/at_least"),
    ],
)
def test_each_bad_parameter_is_named_with_what_is_allowed(
    parts: Parts, tenant: dict[str, str], path: str, params: dict[str, str], pointer: str
) -> None:
    """422, the field as a pointer, and a text."""
    answer = get(parts, tenant, path, **params)
    assert answer.status_code == 422, answer.text
    assert [(error["pointer"], bool(error["detail"])) for error in answer.json()["errors"]] == [(pointer, True)]


@pytest.mark.parametrize(("path", "params"), [
    ("month", {"month": "1970-01"}), ("month", {"month": "2149-05"}), ("projections", {"months": "36"}),
    ("categories", {"from": "2149-06-01"}), ("categories", {"to": "1970-01-05"}), ("cashflow", {"to": "1970-03"}),
    ("cashflow", {"from": "2149-04"}),
])  # fmt: skip
def test_the_ends_of_the_calendar_are_answered(
    parts: Parts, tenant: dict[str, str], path: str, params: dict[str, str]
) -> None:
    """The first and the last months that the stores can hold are no fault."""
    assert get(parts, tenant, path, **params).status_code == 200


def test_only_an_app_key_opens_analytics(parts: Parts, tenant: dict[str, str]) -> None:
    """No key, a wrong one and keys of tracking are refused."""
    url = f"{parts.edge_url}/analytics/cashflow"
    problem(httpx.get(url), 401, "key_missing")
    problem(httpx.get(url, headers={"X-App-Key": "afa_" + "x" * 43}), 401, "key_unknown")
    for kind in ("write_key", "read_key"):
        problem(httpx.get(url, headers={"X-App-Key": tenant[kind]}), 403, "wrong_kind_of_key")


def test_with_clickhouse_away_it_is_503_with_retry_after(parts: Parts, tenant: dict[str, str]) -> None:
    """No figures are better than wrong ones; they are back when ClickHouse is."""
    parts.stop("clickhouse")
    try:
        answer = get(parts, tenant, "cashflow")
        problem(answer, 503, "reads_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    finally:
        parts.start_clickhouse()
    assert get(parts, tenant, "cashflow").status_code == 200


async def test_a_kept_answer_gives_way_to_a_heartbeat_and_to_a_write_that_is_waited_for(
    parts: Parts, tenant: dict[str, str]
) -> None:
    """Within its bound an answer may be a kept one; a newer state and a caller's own write never are."""
    parts.stop("edge")
    parts.start_edge(AFLUENTE_CACHE_URL="memory:", AFLUENTE_CACHE_S="60")
    try:
        async with postgres(parts) as connection:
            mirror = Mirror(parts)
            mirror.lsn = 1 << 40
            house = Household(connection, mirror, tenant["tenant_id"], seed=8, today=today())
            await house.bill(installments=1, due=THIS_MONTH, currency="BRL")
            mirror.flush()
            first = figures(parts, tenant, "cashflow")
            bill = await house.bill(installments=1, due=THIS_MONTH, currency="BRL")
            mirror.flush(heartbeats=False)
            assert figures(parts, tenant, "cashflow") == first
            assert figures(parts, new_tenant(parts), "cashflow")["currencies"] == []
            token = version_token.write([Written("bills", bill, 1)])
            waited = figures(parts, tenant, "cashflow", at_least=token)
            assert waited["caught_up"] is True
            assert waited["currencies"] != first["currencies"]
            mirror.flush()
            assert figures(parts, tenant, "cashflow")["currencies"] == waited["currencies"]
    finally:
        parts.stop("edge")
        parts.start_edge()
