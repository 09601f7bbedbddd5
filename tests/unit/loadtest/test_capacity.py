"""The capacity page: more events never need less, units are right, walls have names, and the page says the same."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local.home import ROOT
from loadtest.capacity import (
    RATES,
    RESULTS,
    Figures,
    MissingFigure,
    Need,
    main,
    markdown,
    measured,
    need,
)  # fmt: skip

PLAIN = Figures(
    edge_request_us=100, edge_event_us=20, worker_event_us=10, worker_events_per_s=60_000, clickhouse_rows_per_s=200_000
)
RATE = st.floats(1, 1e8)
WALLS = {"broker network", "ClickHouse parts per second", "dedupe state size", "rebalance time"}
COUNTED = ("edge_cores", "worker_cores", "workers", "brokers", "partitions", "clickhouse_nodes")
POSITIVE = st.floats(0.5, 100)
FIGURES = st.builds(
    lambda request, event, worker, per_s, rows, size: Figures(
        request, event, worker, per_s * 1e3, rows * 1e3, size * 100
    ),
    POSITIVE, POSITIVE, POSITIVE, POSITIVE, POSITIVE, POSITIVE,
)  # fmt: skip


def counts(one: Need) -> list[float]:
    return [getattr(one, name) for name in COUNTED] + [one.kafka_bytes, one.state_bytes]


@given(FIGURES, RATE, RATE)
def test_more_events_never_need_less(figures: Figures, one: float, other: float) -> None:
    """Cores, workers, brokers, partitions, nodes and disks grow with the rate, or stay."""
    few, many = (need(rate, figures) for rate in sorted((one, other)))
    assert all(a <= b for a, b in zip(counts(few), counts(many), strict=True))


@given(FIGURES, RATE, st.floats(1, 50))
def test_dearer_events_never_need_less(figures: Figures, rate: float, times: float) -> None:
    """What costs more, or is larger, needs at least as much of what it uses."""
    cheap = need(rate, figures)
    dear = need(
        rate,
        replace(
            figures,
            edge_event_us=figures.edge_event_us * times,
            worker_event_us=figures.worker_event_us * times,
            event_bytes=figures.event_bytes * times,
            window_hours=figures.window_hours * times,
        ),
    )
    assert all(a <= b for a, b in zip(counts(cheap), counts(dear), strict=True))
    assert dear.rebuild_s >= cheap.rebuild_s


@given(FIGURES, RATE)
def test_every_plan_names_its_walls(figures: Figures, rate: float) -> None:
    """Each of the four walls has a use and a way out, and the first is the one that is used most."""
    found = need(rate, figures)
    assert {wall.name for wall in found.walls} == WALLS
    assert all(wall.used > 0 and wall.turn for wall in found.walls)
    assert found.first_wall.used == max(wall.used for wall in found.walls)


@given(FIGURES, RATE)
def test_a_plan_bears_its_rate(figures: Figures, rate: float) -> None:
    """Workers and nodes together take the rate within their share, and a partition is there for every worker."""
    found = need(rate, figures)
    assert found.workers * figures.worker_events_per_s * figures.used_share >= rate * 0.999
    assert found.clickhouse_nodes * figures.clickhouse_rows_per_s * figures.used_share >= rate * 0.999
    assert found.partitions >= 2 * found.workers
    assert found.brokers >= 3


@given(FIGURES, RATE)
def test_the_window_that_fits_does_fit(figures: Figures, rate: float) -> None:
    """With the window that the plan names, neither the state nor its rebuilding is a wall."""
    fits = need(rate, figures).window_hours_that_fit
    if fits == 0:
        return
    walls = {wall.name: wall.used for wall in need(rate, replace(figures, window_hours=fits)).walls}
    assert max(walls["dedupe state size"], walls["rebalance time"]) <= 1.001


def test_units_by_hand() -> None:
    """One plan worked out on paper: 100,000 events/s of 1,024 bytes, one a request."""
    found = need(100_000, PLAIN)
    assert found.edge_cores == 20  # 100,000 * 120 us = 12 s a second, at 60 %
    assert found.worker_cores == 2  # 1 s a second, at 60 %
    assert found.workers == 3  # 100,000 / 36,000
    assert found.partitions == 8
    assert found.kafka_bytes == pytest.approx(100_000 * 1_224 * 0.5 * 3 * 168 * 3_600)
    assert found.state_bytes == pytest.approx(100_000 * 72 * 3_600 * 48)
    assert found.rebuild_s == pytest.approx(10 + 100_000 * 72 * 3_600 / 3 / 100_000)


def test_batches_make_requests_cheap() -> None:
    """A request's own cost is shared by the events in it."""
    assert need(1e6, replace(PLAIN, request_events=100)).edge_cores == 35  # 21 us an event, at 60 %


def test_figures_come_from_the_results_and_flags_go_before(tmp_path: Path) -> None:
    """Two rates of the edge give the cost of a request and of an event; what is missing is named by its flag."""
    results = {
        "edge": {"edge_events_per_s_per_core": {"single": 5_000, "batch_100": 40_000}},
        "contest": {
            "1024": {
                "contestants": {
                    "afluente": {"cpu_us_per_event": 10, "median_events_per_s": 1},
                    "floor": {"median_events_per_s": 2},
                }
            }
        },
    }
    found = measured(results, {})
    assert found.edge_request_us + found.edge_event_us == pytest.approx(200)
    assert found.edge_request_us / 100 + found.edge_event_us == pytest.approx(25)
    assert found.worker_event_us == 10
    assert measured(results, {"worker_event_us": 3}).worker_event_us == 3
    with pytest.raises(MissingFigure, match="--worker-event-us"):
        measured({"edge": results["edge"]}, {})


def test_json_has_every_figure_and_every_need(capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` prints what the table is made of."""
    main(["--events-per-s", "5000", "20000", "--json", "--event-bytes", "333"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["figures"]["event_bytes"] == 333
    assert [one["events_per_s"] for one in printed["needs"]] == [5_000, 20_000]
    assert {wall["name"] for wall in printed["needs"][0]["walls"]} == WALLS


@pytest.mark.parametrize("flag", ["0", "-1"])
def test_nothing_is_not_a_figure(flag: str) -> None:
    """Zero and less are refused, not divided by."""
    with pytest.raises(SystemExit):
        main(["--event-bytes", flag])


def test_the_page_shows_what_the_program_prints() -> None:
    """The table in docs/capacity.md is that of the committed results; `--update docs/capacity.md` writes it anew."""
    figures = measured(json.loads(RESULTS.read_text(encoding="utf-8")), {})
    page = (ROOT / "docs" / "capacity.md").read_text(encoding="utf-8")
    assert markdown([need(rate, figures) for rate in RATES]) in page
