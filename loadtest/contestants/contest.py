"""What a contestant is told, through its environment, and what it says at the end: one line of JSON.

Standard library alone, since Quix Streams runs in a virtual environment of its own.
"""

import json
import os
import time
from dataclasses import dataclass
from typing import Any

NUMBERS = ("records", "distinct")
COLUMNS = ("tenant_id", "event_id", "event_type", "occurred_at", "received_at", "url", "properties")


@dataclass(frozen=True, slots=True)
class Contest:
    """The course: which records to carry, and where to."""

    kafka: str
    topic: str
    group: str
    records: int
    distinct: int  # events among them
    clickhouse: str  # host:port
    password: str
    database: str
    table: str
    folder: str

    @classmethod
    def read(cls) -> "Contest":
        """From the environment, as `environ` wrote it."""
        values: dict[str, Any] = {name: os.environ[f"CONTEST_{name.upper()}"] for name in cls.__slots__}
        return cls(**values | {name: int(values[name]) for name in NUMBERS})

    def environ(self) -> dict[str, str]:
        """What `read` reads."""
        return {f"CONTEST_{name.upper()}": str(getattr(self, name)) for name in self.__slots__}

    @property
    def server(self) -> dict[str, Any]:
        """The arguments of clickhouse-connect's clients."""
        host, _, port = self.clickhouse.partition(":")
        return {"host": host, "port": int(port), "password": self.password, "database": self.database}


class Clock:
    """Starts with the first record, so that nobody pays for a slow start; the end is when the last row is in."""

    def __init__(self) -> None:
        self.began = 0.0
        self._cpu = 0.0

    def start(self) -> None:
        """The first record is here; later calls do nothing."""
        if not self.began:
            self.began, self._cpu = time.monotonic(), time.process_time()

    def finish(self, records: int) -> None:
        """Say how it went."""
        seconds, cpu = time.monotonic() - self.began, time.process_time() - self._cpu
        answer = json.dumps({"records": records, "seconds": seconds, "cpu_s": cpu}) + "\n"
        os.write(1, answer.encode())  # Faust has put its log in the place of sys.stdout
