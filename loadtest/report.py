"""Verdicts as a table for people. `./afluente load` and the demo share it."""

from collections.abc import Iterable

from rich.table import Table

from loadtest.history import EXAMPLES_MAX, Verdict

TENANT_CHARACTERS = 8  # of its id: enough to tell the tenants of one run apart
COUNTS = ("sent", "accepted", "resent", "rows")
FAULTS = ("missing", "phantom", "duplicates")


def table(verdicts: Iterable[Verdict]) -> Table:
    """One line a stream, in the 80 columns of a plain terminal."""
    found = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for name in ("tenant", "events"):
        found.add_column(name)
    for name in (*COUNTS, *FAULTS):
        found.add_column(name, justify="right", no_wrap=True)
    for verdict in verdicts:
        summary = verdict.summary()
        cells = [f"{summary[name]:,}" for name in COUNTS] + [_fault(int(str(summary[name]))) for name in FAULTS]
        found.add_row(verdict.stream.tenant_id[:TENANT_CHARACTERS], verdict.stream.table.split("_")[0], *cells)
    return found


def open_ends(verdicts: list[Verdict]) -> str:
    """What was not promised: empty when every copy was accepted."""
    unknown, refused = (sum(getattr(verdict, name) for verdict in verdicts) for name in ("unknown", "refused"))
    if not unknown and not refused:
        return ""
    return f"{unknown:,} sent without a yes or no (they may be there once), {refused:,} refused (they must not)"


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
