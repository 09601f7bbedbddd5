"""Writes the figures of a run where people read them: tables between markers in docs and both READMEs, and the plot.

`python -m loadtest.page` does it again from the committed results; the plot is plain SVG, made here.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from infra.local.home import ROOT
from loadtest import front_page

RESULTS = Path(__file__).with_name("results") / "latest.json"
PERFORMANCE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance.svg"
BEGIN, END = "<!-- bench:{name} -->", "<!-- /bench:{name} -->"
TITLES = {
    "afluente": "Afluente, one worker, all guarantees",
    "afluente_two_workers": "Afluente, two workers",
    "afluente_processes_2": "Afluente, `worker --processes 2`",
    "stock_faust": "stock Faust: take, RocksDB table, insert",
    "stock_faust_events": "stock Faust event by event, table, no insert",
    "quix": "Quix Streams: state, batching sink",
    "hand_loop": "hand-written loop: JSON, insert, commit; no dedupe",
    "floor": "floor: consume and insert the same bytes",
    "consume_alone": "consume alone",
    "insert_alone": "insert alone",
}
RESTART_KNOWN = "10000000"  # the ids that a restart's goal is about
EDGE_RSS_MB = 512  # what the Kubernetes manifest gives an edge
ROW_PX, LABEL_PX, BAR_PX, VALUE_PX = 26, 340, 420, 120


def contest_lines(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """One line a contestant and size: name, size, rate, spread, CPU, lost, doubled, our ratio to it."""
    lines: list[tuple[str, ...]] = []
    for size, found in results.get("contest", {}).items():
        if not size.isdigit():
            continue
        ours = found["contestants"]["afluente"]["median_events_per_s"]
        for name, title in TITLES.items():
            one = found["contestants"].get(name)
            if one is None:
                continue
            rate = one["median_events_per_s"]
            counted = ("-", "-") if name in {"consume_alone", "stock_faust_events"} else _worst(one)
            lines.append((title, size, f"{rate:,}", f"±{one['spread'] / 2:.0%}", f"{one['cpu_us_per_event']}",
                          *counted, f"{ours / rate:.2f}x"))  # fmt: skip
    return lines


def _worst(one: dict[str, Any]) -> tuple[str, str]:
    return f"{max(one['lost']):,}", f"{max(one['doubled']):,}"


def contest_table(results: dict[str, Any]) -> str:
    """The contest as Markdown."""
    head = ("contestant", "bytes", "events/s", "spread", "CPU µs/event", "lost", "doubled", "Afluente is")
    return markdown_table(head, contest_lines(results))


def goals_table(results: dict[str, Any]) -> str:
    """Each goal, what was measured, met or missed."""
    ratios, latency, state = (results.get(name, {}) for name in ("ratios", "latency", "state"))
    contest = results.get("contest", {}).get("1024", {}).get("contestants", {})
    trickle, half = latency.get("trickle", {}), latency.get("half_load", {})
    fresh = results.get("growth", {}).get("backlog", {}).get("fresh", {})
    known = list(state.get("known", {}).values())
    last = known[-1] if known else {}
    restarted = state.get("known", {}).get(RESTART_KNOWN, last)
    rows: list[tuple[str, Any, str, bool | None]] = [
        ("vs stock Faust, at least 20x", ratios.get("stock_faust"), "x", _least(ratios.get("stock_faust"), 20)),
        ("vs the hand-written loop, at least 2x", ratios.get("hand_loop"), "x", _least(ratios.get("hand_loop"), 2)),
        ("vs the floor, at least 0.6x", ratios.get("floor"), "x", _least(ratios.get("floor"), 0.6)),
        ("one worker, 1 KB, at least 60,000 events/s", results.get("worker_events_per_s"), " events/s",
         _least(results.get("worker_events_per_s"), 60_000)),
        ("CPU of the worker under 10 µs an event", contest.get("afluente", {}).get("cpu_us_per_event"), " µs",
         _most(contest.get("afluente", {}).get("cpu_us_per_event"), 10)),
        ("most known ids vs fewest, at least 0.7x", state.get("ratio_last_to_first"), "x",
         _least(state.get("ratio_last_to_first"), 0.7)),
        ("worker RSS under 600 MB", last.get("rss_mb"), " MB", _most(last.get("rss_mb"), 600)),
        ("restart, 10 million ids on disk: first row under 3 s", restarted.get("restart_to_first_row_s"), " s",
         _most(restarted.get("restart_to_first_row_s"), 3)),
        ("rebuild of lost state, 500,000 ids/s", restarted.get("rebuilt_ids_per_s"), " ids/s",
         _least(restarted.get("rebuilt_ids_per_s"), 500_000)),
        ("queryable at half load, p50 under 0.5 s", half.get("p50_s"), " s", _most(half.get("p50_s"), 0.5)),
        ("queryable at half load, p99 under 2 s", half.get("p99_s"), " s", _most(half.get("p99_s"), 2)),
        ("queryable at 100 events/s, p99 under 1.2 s", trickle.get("p99_s"), " s", _most(trickle.get("p99_s"), 1.2)),
        ("another tenant's event beside a backlog: p99 at most twice its fair share", fresh.get("p99_s"), " s",
         _most(fresh.get("p99_s"), 2 * fresh.get("fair_s", 0))),
        *edge_goals(results),
    ]  # fmt: skip
    verdicts = {True: "met", False: "**missed**", None: "not measured"}
    lines = [(goal, "-" if value is None else f"{value:,}{unit}", verdicts[met]) for goal, value, unit, met in rows]
    return markdown_table(("goal", "measured", ""), lines)


def edge_goals(results: dict[str, Any]) -> list[tuple[str, Any, str, bool | None]]:
    """The edge's goals, what was measured, its unit, whether it is met."""
    edge = results.get("edge", {})
    cores, flood = edge.get("edge_events_per_s_per_core", {}), edge.get("overload", {})
    late_ms, memory = flood.get("accepted_p99_ms"), flood.get("rss_mb") or [None]
    return [
        ("edge, one event a request, vs an empty FastAPI endpoint, at least 0.8x", edge.get("edge_noop"), "x",
         _least(edge.get("edge_noop"), 0.8)),
        ("edge, one event a request, at least 2,500 requests/s a core", cores.get("single"), " requests/s",
         _least(cores.get("single"), 2_500)),
        ("edge, batch of 100, at least 40,000 events/s a core", cores.get("batch_100"), " events/s",
         _least(cores.get("batch_100"), 40_000)),
        ("edge, ten times too many connections for 60 s: p99 of the accepted under 1 s", late_ms, " ms",
         _most(late_ms, 1_000)),
        ("edge, the same: memory bounded", memory[-1], " MB", _most(memory[-1], EDGE_RSS_MB)),
    ]  # fmt: skip


def details_table(results: dict[str, Any]) -> str:
    """State, growth and backlog, one line a point."""
    lines: list[tuple[str, ...]] = []
    for count, one in results.get("state", {}).get("known", {}).items():
        rest = f"RSS {one['rss_mb']} MB; restart {one['restart_to_first_row_s']} s"
        if "starting_rows_per_s" in one:
            rest += f"; the first {one['filters_made_s']} s, without filters, {one['starting_rows_per_s']:,} rows/s"
        lines.append(("known ids", f"{int(count):,}", f"{one['events_per_s']:,}", rest))
    if off := results.get("failpoints"):
        rest = f"{off['us_a_batch']} µs a batch, {off['ns_a_test']} ns a request"
        lines.append(("failpoints, off", f"{off['tests_a_batch']} tests a batch", "", rest))
    for name in ("partitions", "tenants", "batch_rows", "event_bytes"):
        for value, one in results.get("growth", {}).get(name, {}).items():
            rest = f"{one['cpu_us']} µs CPU/event"
            lines.append((name.replace("_", " "), f"{int(value):,}", f"{one['events_per_s']:,}", rest))
    if backlog := results.get("growth", {}).get("backlog"):
        rest = "RSS by quarter " + ", ".join(map(str, backlog["rss_mb_by_quarter"])) + " MB"
        lines.append(("backlog", f"{backlog['records']:,}", f"{backlog['events_per_s']:,}", rest))
        if fresh := backlog.get("fresh"):
            rest = f"queryable p50 {fresh['p50_s']} s, p99 {fresh['p99_s']} s; fair share {fresh['fair_s']} s"
            lines.append(("another tenant beside it", "", f"{fresh['events_per_s']:,.0f}", rest))
    return markdown_table(("what", "value", "events/s", ""), lines)


def conditions_text(results: dict[str, Any]) -> str:
    """One paragraph."""
    found = results.get("conditions", {})
    versions = ", ".join(f"{name} {number}" for name, number in found.get("versions", {}).items())
    commits: dict[str, list[str]] = {}
    for name, part in results.items():
        if isinstance(part, dict) and "conditions" in part:
            commits.setdefault(part["conditions"]["commit"], []).append(name)
    ran = "; ".join(f"{', '.join(names)}: commit {commit}" for commit, names in commits.items())
    return (
        f"{ran}. {found.get('cores')} cores ({found.get('processor')}), "
        f"{found.get('memory_gib')} GiB, Python {found.get('python')}, {found.get('rounds')} interleaved rounds; "
        "medians. "
        f"Load average before: {', '.join(map(str, found.get('load_average_before', [])))}. {versions}."
    )


def plot(results: dict[str, Any]) -> str:
    """Bars of the first size, as SVG."""
    found = next((one for size, one in results.get("contest", {}).items() if size.isdigit()), None)
    if found is None:
        return ""
    rates = {name: found["contestants"][name]["median_events_per_s"] for name in TITLES if name in found["contestants"]}
    shown = sorted(rates.items(), key=lambda pair: -pair[1])
    scale = BAR_PX / shown[0][1]
    height = ROW_PX * (len(shown) + 1)
    width = LABEL_PX + BAR_PX + VALUE_PX
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="17" font-weight="bold" font-size="13">events/s, {found["event_bytes"]} bytes, median</text>',
    ]
    for row, (name, rate) in enumerate(shown, start=1):
        y = row * ROW_PX
        colour = "#1f7a8c" if name.startswith("afluente") else "#b0b7bf"
        title = escape(TITLES[name].replace("`", ""))
        parts += [
            f'<text x="{LABEL_PX - 8}" y="{y + 16}" font-size="13" text-anchor="end" fill="#222222">{title}</text>',
            f'<rect x="{LABEL_PX}" y="{y + 4}" width="{max(1, round(rate * scale))}" height="16" fill="{colour}"/>',
            f'<text x="{LABEL_PX + rate * scale + 6:.0f}" y="{y + 16}" font-size="13" fill="#222222">{rate:,}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _least(value: float | None, goal: float) -> bool | None:
    return None if value is None else value >= goal


def _most(value: float | None, goal: float) -> bool | None:
    return None if value is None else value < goal


def markdown_table(head: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> str:
    rows = [head, tuple("---" for _ in head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def between(text: str, name: str, content: str) -> str:
    """The text with what stands between the markers of that name replaced; unchanged when there are none."""
    begin, end = BEGIN.format(name=name), END.format(name=name)
    if begin not in text or end not in text:
        return text
    head, rest = text.split(begin, 1)
    return f"{head}{begin}\n\n{content}\n\n{end}{rest.split(end, 1)[1]}"


def pages(results: dict[str, Any]) -> dict[Path, str]:
    """What each page and the plot are, with these results in them."""
    made = {
        "contest": contest_table(results),
        "goals": goals_table(results),
        "details": details_table(results),
        "conditions": conditions_text(results),
    }
    found = {PERFORMANCE: PERFORMANCE.read_text(encoding="utf-8")}
    for name, content in made.items():
        found[PERFORMANCE] = between(found[PERFORMANCE], name, content)
    for language in front_page.LANGUAGES:
        text = language.page.read_text(encoding="utf-8")
        content = front_page.table(results, language)
        found[language.page] = between(text, "figures", content) if content else text
    if drawn := plot(results):
        found[PLOT] = drawn
    return found


def write(results: dict[str, Any]) -> None:
    """Docs, both READMEs and the plot."""
    for path, text in pages(results).items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(json.loads(RESULTS.read_text(encoding="utf-8")))
