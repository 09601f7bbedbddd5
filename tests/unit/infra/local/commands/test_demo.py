"""The demo's table is called right only when everything it promises was seen."""

import dataclasses

import httpx
import pytest

from infra.local.commands.demo import Run, figures_of
from loadtest.drive import Drive, Probe, percentiles
from loadtest.history import History, Outcome, Stream, Verdict
from loadtest.traffic import Sender, Traffic

STREAM = Stream("3f0c7a86-5d1e-4c7b-9a53-5c5a1a2b3c4d", "tracking_events")
RUN = Run(poisons=1, killed_at=10.0, back_at=13.5, killed_pid=7, dead=1)


def verdict() -> Verdict:
    """Two events, one of them sent twice, both there once."""
    history = History()
    for key in ("a", "b", "b"):
        history.note(Outcome.INVOKED, STREAM, [key])
        history.note(Outcome.ACCEPTED, STREAM, [key])
    return history.judge(STREAM, {"a": 1, "b": 1})


def drive(**probes: Probe) -> Drive:
    """A drive that has ended, with these probes."""
    return Drive(httpx.AsyncClient(), Traffic(Sender(STREAM.tenant_id, "key"), 1), History(), probes=probes)


SEEN = {"early": Probe(1.0, 1.2), "held": Probe(9.9, 14.0), "late": Probe(15.0, 15.4)}


def test_a_run_that_kept_its_promises_is_right() -> None:
    """Counts add up: accepted = rows + dropped + DLQ, and the times leave the kill out or in."""
    figures = figures_of([verdict()], RUN, drive(**SEEN), 20.0)
    assert figures["right"]
    assert figures["accepted"] == figures["rows"] + figures["duplicates_dropped"] + figures["dlq"] == 4
    assert figures["produce_to_queryable_ms"]["probes"] == 2
    assert figures["produce_to_queryable_ms"]["p99"] < 500
    assert figures["produce_to_queryable_with_kill_ms"]["p99"] > 3_000


@pytest.mark.parametrize(
    ("change", "run", "probes"),
    [
        ({"missing": ("a",)}, {}, SEEN),
        ({"phantom": ("z",)}, {}, SEEN),
        ({"duplicated": ("a",), "rows": 3}, {}, SEEN),
        ({}, {"dead": 0}, SEEN),
        ({}, {"dead": 2}, SEEN),
        ({}, {"poisons": 0, "dead": 0}, SEEN),
        ({}, {"killed_at": 0.0, "back_at": 0.0}, SEEN),
        ({}, {"left": 1}, SEEN),
        ({"accepted": 2}, {}, SEEN),  # nothing was dropped: duplicates were never tried
        ({}, {}, {}),
        ({}, {}, {**SEEN, "lost": Probe(3.0)}),
    ],
)
def test_any_broken_promise_is_wrong(
    change: dict[str, object], run: dict[str, object], probes: dict[str, Probe]
) -> None:
    """Loss, doubles, phantoms, a poison not in the DLQ, no kill, no duplicates, no measurement: each is WRONG."""
    changed: Verdict = dataclasses.replace(verdict(), **change)  # type: ignore[arg-type]
    other: Run = dataclasses.replace(RUN, **run)  # type: ignore[arg-type]
    assert not figures_of([changed], other, drive(**probes), 20.0)["right"]


def test_a_run_without_streams_is_wrong() -> None:
    """Nothing sent proves nothing."""
    assert not figures_of([], RUN, drive(**SEEN), 20.0)["right"]


def test_percentiles_of_known_times() -> None:
    """1 to 101 ms: the median is 51, the 99th percentile 100."""
    assert percentiles([float(ms) for ms in range(1, 102)]) == {"p50": 51.0, "p99": 100.0, "probes": 101}
    assert percentiles([]) == {"p50": None, "p99": None, "probes": 0}
