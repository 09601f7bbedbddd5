"""Senders with a steady rate that keep their connections, as the server of a shop does: each answer is noted."""

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

ANSWER_S = 5.0  # the edge promises 2


@dataclass(slots=True)
class Told:
    """What the senders were told so far. `last_answers`: those that came with `Connection: close`."""

    answered: int = 0
    last_answers: int = 0
    failed: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


class Senders:
    """So many threads, each with one connection. `note` gets each event's id and whether it was accepted."""

    def __init__(
        self, url: str, write_key: str, note: Callable[[str, bool], None], count: int = 4, every_s: float = 0.02
    ) -> None:
        self.told = Told()
        self._url, self._key, self._note, self._every_s = url, write_key, note, every_s
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> Told:
        """The last of them has its answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.told

    def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        with httpx.Client(
            base_url=self._url, headers=headers, timeout=ANSWER_S, limits=limits, trust_env=False
        ) as client:
            while not self._stop.wait(self._every_s):
                self._send(client)

    def _send(self, client: httpx.Client) -> None:
        event_id, began, failure, is_last = str(uuid.uuid4()), time.monotonic(), "", False
        try:
            answer = client.post("/track/click", json={"event_id": event_id, "url": "https://shop.example/"})
        except httpx.HTTPError as error:
            failure = repr(error)
        else:
            failure = "" if answer.is_success else f"{answer.status_code} {answer.text}"
            is_last = answer.headers.get("connection") == "close"
        with self._lock:
            self._note(event_id, not failure)
            self.told.answered += not failure
            self.told.last_answers += is_last
            self.told.slowest_s = max(self.told.slowest_s, time.monotonic() - began)
            if failure:
                self.told.failed.append(failure)
