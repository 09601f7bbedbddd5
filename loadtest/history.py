"""What was sent, what was answered, and what the tables hold: the history of a run and the verdict on it. Pure.

An event is known by its key in its table (loadtest/rows.py says which columns make it). Sending it again is another
copy of the same event. Three answers are told apart, because only one of them is a promise:

- accepted: the edge said yes. The event must be there, once.
- refused: the edge said no (4xx). The event must not be there.
- unknown: no answer, or a 5xx (the record may have reached Kafka all the same). It may be there, once.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

EXAMPLES_MAX = 5  # keys of each kind of fault that a report shows


class Outcome(StrEnum):
    """One line of a history: an event goes out, or an answer to it comes in."""

    INVOKED = "invoked"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, order=True, slots=True)
class Stream:
    """The events of one tenant in one table; a verdict is about one of these."""

    tenant_id: str
    table: str


@dataclass(slots=True)
class _Copies:
    """How often each event had each outcome."""

    invoked: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a stream's events. Counts are of copies where they say so, else of events."""

    stream: Stream
    sent: int  # copies
    accepted: int  # copies
    refused: int  # copies
    unknown: int  # copies, those still without an answer included
    events: int  # events of which at least one copy was accepted
    resent: int  # copies beyond the first of their event
    rows: int
    distinct: int  # distinct events among the rows
    missing: tuple[str, ...]  # accepted and not there
    phantom: tuple[str, ...]  # there, and never sent, or refused
    duplicated: tuple[str, ...]  # there more than once

    @property
    def duplicates(self) -> int:
        """Rows beyond the first of their event."""
        return self.rows - self.distinct

    @property
    def right(self) -> bool:
        """Whether every promise was kept, and nothing else happened."""
        return not (self.missing or self.phantom or self.duplicated)

    def summary(self) -> dict[str, object]:
        """The verdict for `--json`: counts, and a few keys of each fault to look for."""
        counts: dict[str, object] = {
            name: getattr(self, name)
            for name in ("sent", "accepted", "refused", "unknown", "events", "resent", "rows", "distinct", "duplicates")
        }
        faults = {"missing": self.missing, "phantom": self.phantom, "duplicated": self.duplicated}
        counts |= {name: len(keys) for name, keys in faults.items()}
        examples = {name: list(keys[:EXAMPLES_MAX]) for name, keys in faults.items() if keys}
        return {"tenant_id": self.stream.tenant_id, "table": self.stream.table, **counts, "examples": examples}


class History:
    """The outcomes of a run by stream. Written by senders, read by `judge`."""

    def __init__(self) -> None:
        self._streams: dict[Stream, _Copies] = {}

    def note(self, outcome: Outcome, stream: Stream, keys: Iterable[str]) -> None:
        """One outcome of one copy of each of these events."""
        copies = self._streams.setdefault(stream, _Copies())
        counter: Counter[str] = getattr(copies, outcome.value)
        counter.update(keys)

    @property
    def streams(self) -> list[Stream]:
        """Every stream that something was sent to."""
        return sorted(self._streams)

    def promised(self, stream: Stream) -> set[str]:
        """The events that must be there."""
        return set(self._streams[stream].accepted)

    def copies(self, outcome: Outcome) -> int:
        """How many copies had this outcome, over all streams."""
        return sum(getattr(copies, outcome.value).total() for copies in self._streams.values())

    def judge(self, stream: Stream, rows: Mapping[str, int]) -> Verdict:
        """The verdict on one stream, given how many rows each of its events has."""
        copies = self._streams.get(stream, _Copies())
        # A copy without any answer was sent by a process that died: what became of it is unknown too.
        unanswered = copies.invoked - copies.accepted - copies.refused - copies.unknown
        possible = set(copies.accepted) | set(copies.unknown) | set(unanswered)
        return Verdict(
            stream=stream,
            sent=copies.invoked.total(),
            accepted=copies.accepted.total(),
            refused=copies.refused.total(),
            unknown=copies.unknown.total() + unanswered.total(),
            events=len(copies.accepted),
            resent=copies.invoked.total() - len(copies.invoked),
            rows=sum(rows.values()),
            distinct=len(rows),
            missing=tuple(sorted(copies.accepted.keys() - rows.keys())),
            phantom=tuple(sorted(rows.keys() - possible)),
            duplicated=tuple(sorted(key for key, count in rows.items() if count > 1)),
        )


def line(outcome: Outcome, stream: Stream, keys: Iterable[str]) -> str:
    """One outcome as a line of a history file, for senders in another process."""
    return json.dumps([outcome.value, stream.tenant_id, stream.table, *keys]) + "\n"


def read(path: Path) -> History:
    """The history in a file. A last line cut short by a killed process is not an outcome."""
    history = History()
    for outcome, tenant_id, table, *keys in _lines(path):
        history.note(Outcome(outcome), Stream(tenant_id, table), keys)
    return history


def _lines(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8") as file:
        for text in file:
            if text.endswith("\n"):
                yield json.loads(text)
