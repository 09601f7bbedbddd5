"""Verdicts as a table for people. `./afluente load` and the demo share it."""

from collections.abc import Iterable

from rich.table import Table

from loadtest.history import EXAMPLES_MAX, Verdict

TENANT_CHARACTERS = 8  # of its id: enough to tell the tenants of one run apart
COLUMNS = ("sent", "accepted", "resent", "unknown", "refused", "events", "rows", "missing", "phantom", "duplicates")


def table(verdicts: Iterable[Verdict]) -> Table:
    """One line a stream."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("tenant", "table"):
        found.add_column(name)
    for name in COLUMNS:
        found.add_column(name, justify="right")
    for verdict in verdicts:
        summary = verdict.summary()
        cells = [f"{summary[name]:,}" for name in COLUMNS[:-3]]
        cells += [_fault(int(str(summary[name]))) for name in COLUMNS[-3:]]
        found.add_row(verdict.stream.tenant_id[:TENANT_CHARACTERS], verdict.stream.table, *cells)
    return found


def faults(verdicts: Iterable[Verdict]) -> list[str]:
    """A sentence for each kind of fault, with a few keys to look for."""
    sentences = []
    for verdict in verdicts:
        where = f"{verdict.stream.table} of tenant {verdict.stream.tenant_id}"
        kinds = {
            "accepted and missing": verdict.missing,
            "there and never sent": verdict.phantom,
            "there more than once": verdict.duplicated,
        }
        sentences += [
            f"{where}: {len(keys)} {kind}: {', '.join(keys[:EXAMPLES_MAX])}" for kind, keys in kinds.items() if keys
        ]
    return sentences


def _fault(count: int) -> str:
    return f"[red]{count:,}[/]" if count else "[green]0[/]"
