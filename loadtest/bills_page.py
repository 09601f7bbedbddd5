"""Writes the figures of `make bench-bills` where people read them: the tables between markers in docs/performance.md.

`python -m loadtest.bills_page` does it again from the committed results.
"""

import json
from pathlib import Path
from typing import Any, Final

from loadtest.page import PERFORMANCE, between, markdown_table

RESULTS: Final = Path(__file__).with_name("results") / "bills.json"
P99_GOAL_MS: Final = 150
TIMES_GOAL: Final = 3
STRETCHES: Final = {
    "connect_snapshot": "Debezium's first snapshot",
    "worker_snapshot": "the worker, the same records",
    "connect_changes": "Debezium, changes that have piled up",
    "worker_changes": "the worker, the same changes, an event told for each",
}


def stretches_table(found: dict[str, Any]) -> str:
    """One line a stretch, then latency and agreement."""
    lines = []
    for name, title in STRETCHES.items():
        one = found[name]
        times = one.get("times_the_connector")
        rest = "" if times is None else f"{times}x the connector ({TIMES_GOAL}x wanted)"
        cpu = f"{one['cpu_us_per_record']} µs, {one['rss_mb']} MB"
        lines.append((title, f"{one['records']:,}", f"{one['records_per_s']:,}", cpu, rest))
    return markdown_table(("stretch", "records", "records/s", "CPU a record, RSS", ""), lines)


def questions_table(found: dict[str, Any]) -> str:
    """One line a question."""
    lines = []
    for name, stores in found["analytics"]["questions"].items():
        ours, theirs = stores["clickhouse"], stores["postgres"]
        verdict = "met" if ours["p99_ms"] < P99_GOAL_MS else "**missed**"
        lines.append((name, *(f"{one[p]:,}" for one in (ours, theirs) for p in ("p50_ms", "p99_ms")), verdict))
    head = ("question", "ClickHouse p50 ms", "p99", "Postgres p50 ms", "p99", f"p99 under {P99_GOAL_MS} ms")
    return markdown_table(head, lines)


def conditions_text(found: dict[str, Any]) -> str:
    """One paragraph."""
    about, asked = found["conditions"], found["analytics"]["conditions"]
    latency, agreed = found["commit_to_queryable"], found["reconcile"]
    return (
        f"Commit {about['commit']}, {about['cores']} cores ({about['processor']}), {about['memory_gib']} GiB, all "
        f"on that machine; one run. {found['fill']['rows']:,} rows of {found['fill']['tenants']} tenants in Postgres. "
        f"Commit to queryable at {latency['commits_per_s']} commits a second: p50 {latency['p50_ms']:.0f} ms, p99 "
        f"{latency['p99_ms']:.0f} ms. `reconcile bills` afterwards: {agreed['rows']:,} rows, "
        f"{'equal' if agreed['equal'] else 'NOT EQUAL'}, {agreed['seconds']} s. Questions: {asked['occurrences']:,} "
        f"occurrences, {asked['of_largest_tenant']:,} of them of the tenant that asks, while "
        f"{asked['changes']:,} rows changed."
    )


def page(found: dict[str, Any]) -> str:
    """The page, with these results in it."""
    text = PERFORMANCE.read_text(encoding="utf-8")
    made = {
        "bills": stretches_table(found),
        "bills-questions": questions_table(found),
        "bills-conditions": conditions_text(found),
    }
    for name, content in made.items():
        text = between(text, name, content)
    return text


def write(found: dict[str, Any]) -> None:
    """Into the page."""
    PERFORMANCE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    write(json.loads(RESULTS.read_text(encoding="utf-8")))
