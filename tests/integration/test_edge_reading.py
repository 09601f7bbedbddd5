"""Reading back through the edge from the real ClickHouse engine: the key's tenant, whole lists, no more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.edge_parts import Parts, new_tenant, problem


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    running = Parts(Path(tmp_path_factory.mktemp("edge")))
    try:
        running.start_postgres()
        running.start_clickhouse()
        running.start_edge()
        yield running
    finally:
        running.stop_all()


@pytest.fixture(scope="module")
def readers(parts: Parts) -> tuple[dict[str, str], dict[str, str]]:
    mine, other = new_tenant(parts), new_tenant(parts)
    for tenant, count in ((mine, 250), (other, 3)):
        parts.clickhouse(
            "INSERT INTO afluente.tracking_events (tenant_id, event_id, event_type, occurred_at, received_at,"
            " session_id, properties, value, currency)"
            f" SELECT '{tenant['tenant_id']}', concat('e', toString(number)), if(number % 2, 'click', 'pageview'),"
            " toDateTime64('2026-11-01 00:00:00.000', 3, 'UTC') + toIntervalSecond(intDiv(number, 2) * 60),"
            f" now64(3), toString(number % 7), '{{\"n\":1}}', 12.5, 'BRL' FROM numbers({count})"
        )
    parts.clickhouse(
        "INSERT INTO afluente.gateway_events (tenant_id, event_id, gateway, event_type, order_id, occurred_at,"
        f" amount, currency) VALUES ('{mine['tenant_id']}', 's1', 'kiwify', 'order_approved', 'o1',"
        " '2026-11-01 00:00:00.000', 197.9, 'BRL'),"
        f" ('{mine['tenant_id']}', 's2', 'kiwify', 'order_refunded', 'o1', '2026-11-02 00:00:00.000', 197.9, 'BRL')"
    )
    return mine, other


def get(parts: Parts, tenant: dict[str, str], path: str, **params: Any) -> httpx.Response:
    return httpx.get(f"{parts.edge_url}{path}", params=params, headers={"X-Read-Key": tenant["read_key"]}, timeout=20)


def test_pages_hold_every_event_once_newest_first(parts: Parts, readers: tuple[dict[str, str], dict[str, str]]) -> None:
    """Following `next_cursor` gives each event of the tenant exactly once, in order, and no other's."""
    mine, _ = readers
    seen: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = get(parts, mine, "/tracking/events", limit=37, **cursor).json()
        seen += page["items"]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert sorted(event["event_id"] for event in seen) == sorted(f"e{i}" for i in range(250))
    order = [(event["occurred_at"], event["event_id"]) for event in seen]
    assert order == sorted(order, reverse=True)
    assert seen[0]["properties"] == {"n": 1}
    assert seen[0]["value"] == "12.5"
    assert seen[-1]["occurred_at"] == "2026-11-01T00:00:00.000Z"
    assert not any(name.startswith("_") or name == "tenant_id" for name in seen[0])


def test_filters_hold(parts: Parts, readers: tuple[dict[str, str], dict[str, str]]) -> None:
    """type, from (inclusive) and to (exclusive) bound what is returned."""
    mine, _ = readers
    window = {"from": "2026-11-01T00:10:00Z", "to": "2026-11-01T00:20:00Z"}
    found = get(parts, mine, "/tracking/events", type="click", **window).json()["items"]
    assert sorted(event["event_id"] for event in found) == sorted(f"e{i}" for i in range(21, 41, 2))


def test_a_cursor_is_good_for_its_own_list_only(parts: Parts, readers: tuple[dict[str, str], dict[str, str]]) -> None:
    """Another tenant's, another filter's, and a forged cursor are 422; no page comes from them."""
    mine, other = readers
    cursor = get(parts, mine, "/tracking/events", limit=5).json()["next_cursor"]
    for answer in (
        get(parts, other, "/tracking/events", cursor=cursor),
        get(parts, mine, "/tracking/events", cursor=cursor, type="click"),
        get(parts, mine, "/tracking/events", cursor=cursor[:-2] + "AA"),
        get(parts, mine, "/tracking/events", cursor="é"),
        get(parts, mine, "/sales", cursor=cursor),
    ):
        problem(answer, 422, "invalid_cursor")


def test_nobody_reads_another_tenant(parts: Parts, readers: tuple[dict[str, str], dict[str, str]]) -> None:
    """The key decides the tenant; a tenant_id in the query changes nothing."""
    mine, other = readers
    found = get(parts, other, "/tracking/events", tenant_id=mine["tenant_id"], limit=1000).json()["items"]
    assert len(found) == 3
    assert get(parts, other, "/sales").json()["items"] == []


def test_the_summary_counts_buckets(parts: Parts, readers: tuple[dict[str, str], dict[str, str]]) -> None:
    """The buckets of a summary add up to the events in its range."""
    mine, _ = readers
    span = {"from": "2026-11-01T00:00:00Z", "to": "2026-11-01T03:00:00Z"}
    for by in ("minute", "hour", "day"):
        found = get(parts, mine, "/tracking/summary", by=by, **span).json()["buckets"]
        assert sum(bucket["events"] for bucket in found) == 250
        assert {bucket["event_type"] for bucket in found} == {"click", "pageview"}
    hours = get(parts, mine, "/tracking/summary", by="hour", **span).json()["buckets"]
    assert hours[0] == {"start": "2026-11-01T00:00:00Z", "event_type": "click", "events": 60, "sessions": 7}
    long = get(parts, mine, "/tracking/summary", by="minute", **{"from": "2020-01-01T00:00:00Z"})
    problem(long, 422, "range_too_long")


def test_sales_are_listed_by_order(parts: Parts, readers: tuple[dict[str, str], dict[str, str]]) -> None:
    """Each status of an order is a row, newest first, money as text."""
    mine, _ = readers
    found = get(parts, mine, "/sales", order_id="o1").json()["items"]
    assert [(row["event_type"], row["amount"]) for row in found] == [
        ("order_refunded", "197.9"), ("order_approved", "197.9"),
    ]  # fmt: skip


def test_bad_parameters_are_422_with_pointers(parts: Parts, readers: tuple[dict[str, str], dict[str, str]]) -> None:
    """Every refused parameter is pointed at."""
    mine, _ = readers
    found = problem(get(parts, mine, "/tracking/events", limit=0, to="x"), 422, "invalid_parameters")
    assert {error["pointer"] for error in found["errors"]} == {"/query/limit", "/query/to"}
