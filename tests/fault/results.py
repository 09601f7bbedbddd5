"""What a run of the fault suite found: one row a case, in tests/fault/results/latest.json and in a table.

`python -m tests.fault.results` writes the table of that file into docs/reliability.md, between its markers.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from infra.local.home import ROOT

LATEST = ROOT / "tests" / "fault" / "results" / "latest.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
RIGHT, WRONG, FAILED, CAUGHT, NOT_CAUGHT, NOT_RUN = "right", "WRONG", "FAILED", "caught", "NOT CAUGHT", "not run"
COLUMNS = (
    "id", "hit", "accepted", "rows", "missing", "duplicates", "in DLQ", "recovery s", "drain s", "verdict",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One case. `fired` says how the window was proven to be hit; times are None where nothing was lifted."""

    id: str
    fault: str
    fired: str
    verdict: str
    accepted: int | None = None
    rows: int | None = None
    missing: int | None = None
    duplicates: int | None = None
    dead: int | None = None
    recovery_s: float | None = None
    drain_s: float | None = None

    @property
    def cells(self) -> list[str]:
        numbers = (self.accepted, self.rows, self.missing, self.duplicates, self.dead, self.recovery_s, self.drain_s)
        return [self.id, self.fired, *("" if one is None else str(one) for one in numbers), self.verdict]


def _not_run(name: str, fault: str, reason: str) -> Row:
    return Row(name, fault, reason, NOT_RUN)


# What would belong into this suite and has no test in it, with the reason.
NOT_HERE = (
    _not_run(
        "power/cut", "power cut under load", "needs a machine that can be switched off; kill -9 keeps the page cache"
    ),
    _not_run(
        "network/packet_loss", "40 % of packets lost", "needs a network of its own for each part; the proxy stands in"
    ),
    _not_run(
        "clickhouse/replica_lost", "a replica of a cluster lost", "the embedded engine has no Keeper and no replicas"
    ),
)


@dataclass(slots=True)
class Results:
    """The rows of one run. A mutant is listed with every case that caught it."""

    rows: list[Row] = field(default_factory=list)
    caught: dict[str, list[str]] = field(default_factory=dict)
    began: float = field(default_factory=time.time)

    def add(self, row: Row) -> None:
        """Keep a case's row; a later row of the same case replaces the first."""
        self.rows = [one for one in self.rows if one.id != row.id] + [row]

    def mutant(self, name: str, case_id: str, *, caught: bool) -> None:
        """Note what a case said to a planted fault."""
        self.caught.setdefault(name, []).extend([case_id] if caught else [])

    def write(self, *, whole: bool, left_out: Collection[str] = (), path: Path = LATEST) -> None:
        """Write the file; a run of some cases replaces theirs and leaves the others as they were.

        After a whole run its conditions stay, and cases that were run by themselves later are named with their time.
        `left_out` are cases that a whole run of the short form does not have: their rows stay, and are named as such.
        """
        former = read(path) if path.exists() else {"cases": [], "mutants": []}
        cases = {one["id"]: one for one in former["cases"] if not whole or one["id"] in left_out}
        kept = sorted(cases) if whole else []
        mutants = {
            one["id"]: one["caught_by"]
            for one in former["mutants"]
            if not whole or set(one["caught_by"]) & set(left_out)
        }
        cases |= {row.id: asdict(row) for row in self.rows}
        mutants |= self.caught
        about = {**conditions(self.began, whole=whole), "kept": kept, "later": {}}
        if not whole and former.get("conditions", {}).get("whole_run"):
            later = {row.id: about["date"] for row in self.rows if row.verdict != NOT_RUN}
            about = former["conditions"] | {"later": former["conditions"].get("later", {}) | later}
        document = {
            "conditions": about,
            "cases": [cases[name] for name in sorted(cases)],
            "mutants": [{"id": name, "caught_by": mutants[name]} for name in sorted(mutants)],
        }
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def conditions(began: float, *, whole: bool) -> dict[str, Any]:
    """What a reader needs to judge the times."""
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return {
        "form": "full" if os.environ.get("FULL") == "1" else "short",
        "whole_run": whole,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began)),
        "seconds": round(time.time() - began),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "load_at_end": load,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def read(path: Path = LATEST) -> dict[str, Any]:
    """The latest results."""
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return document


def aligned(rows: Iterable[Row]) -> list[str]:
    """The rows as lines for a terminal."""
    texts = [list(COLUMNS), *(row.cells for row in rows)]
    widths = [max(len(line[n]) for line in texts) for n in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in texts]


def markdown(document: Mapping[str, Any]) -> str:
    """The tables of docs/reliability.md."""
    rows = [Row(**case) for case in document["cases"]]
    run = [row for row in rows if row.verdict != NOT_RUN]
    idle = [row for row in rows if row.verdict == NOT_RUN]
    lines = [_conditions(document["conditions"]), "", *_table(COLUMNS, [row.cells for row in run]), ""]
    lines += ["Planted faults, and the cases that caught them:", ""]
    caught = [[one["id"], ", ".join(one["caught_by"]) or "**none**"] for one in document["mutants"]]
    lines += _table(("planted fault", "caught by"), caught)
    if idle:
        lines += ["", "Not run:", "", *_table(("id", "reason"), [[row.id, row.fired] for row in idle])]
    return "\n".join(lines)


def _conditions(found: Mapping[str, Any]) -> str:
    form = f"{found['form']} form, {'one whole run' if found['whole_run'] else 'several runs'}"
    kept = found.get("kept") or []
    older = f" From earlier runs, since the short form leaves them out: {', '.join(kept)}." if kept else ""
    again = ", ".join(f"{name} ({date})" for name, date in sorted((found.get("later") or {}).items()))
    later = f" Run by themselves later: {again}." if again else ""
    return (
        f"Run of {found['date']}: {form}, {found['seconds']} s, {found['cores']} cores, {found['memory_gib']} GiB, "
        f"load {found['load_at_end']}, {found['system']}, Python {found['python']}. All parts on that one machine."
        f"{older}{later}"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def write_page() -> None:
    """Put the table of the latest results between the markers of docs/reliability.md."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{markdown(read())}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    write_page()
    sys.stdout.write(f"{PAGE.relative_to(ROOT)} has the table of {LATEST.relative_to(ROOT)}\n")
