"""When a verdict is final: the workers have consumed all that was in Kafka when the sending ended.

Rows alone do not say it: with every promised event there, a duplicate of one may still be on its way.
"""

import time
from collections.abc import Callable

from app.settings import Settings
from infra.local.lag import read_lag
from infra.local.topics import admin_client
from loadtest.history import History
from loadtest.rows import Rows, require_loopback

POLL_S = 0.2


class Drain:
    """Made when the sending has ended; remembers where each partition ended then."""

    def __init__(self, settings: Settings) -> None:
        for address in settings.kafka_url.split(","):
            require_loopback(f"kafka://{address}")
        self._settings = settings
        self._admin = admin_client(settings)
        self._ends = {(row.topic, row.partition): row.end for row in read_lag(self._admin, settings)}

    def left(self) -> int:
        """Records of then that are not yet consumed, durable rows and commit included."""
        found = read_lag(self._admin, self._settings)
        consumed = {(row.topic, row.partition): row.end - row.lag for row in found}
        return sum(max(0, end - consumed.get(place, 0)) for place, end in self._ends.items())


def await_rows(rows: Rows, history: History, drain: Drain, timeout_s: float, told: Callable[[int, int], None]) -> int:
    """Waits until every promised event is a row and nothing is left to consume, or the time is over; what is left."""
    promised = {stream: len(history.promised(stream)) for stream in history.streams}
    deadline = time.monotonic() + timeout_s
    while True:
        left = drain.left()
        seen = {stream: min(rows.counts(stream)[1], due) for stream, due in promised.items()}
        told(sum(seen.values()), sum(promised.values()))
        # Consumed and still not there is lost for good: waiting longer would not bring it.
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(POLL_S)
