"""The plan of a locust run, handed from `./afluente load` to loadtest/locustfile.py in a private file.

A file, because keys and secrets on a command line or in an environment can be read by others.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loadtest.traffic import Sender

EVENTS_MAX = 2_000_000  # copies in one run: the checker holds every key of it in memory, about 200 bytes each


@dataclass(frozen=True, slots=True)
class Plan:
    """Who sends, how fast, and where the history goes."""

    senders: list[Sender]
    history: str
    requests_per_s: float  # of one user
    seed: int
    events_max: int = EVENTS_MAX
    weights: list[float] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """For the owner's eyes only."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)


def read(path: Path) -> Plan:
    """The plan in a file."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return Plan(**{**found, "senders": [Sender(**sender) for sender in found["senders"]]})


def skewed(tenants: int) -> list[float]:
    """One tenant has most of the traffic, the next half of that, then a third: as tenants do."""
    return [1 / rank for rank in range(1, tenants + 1)]
