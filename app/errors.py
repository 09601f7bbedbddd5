"""The two named failures of the data path, and the end of an ownership.

Anything else stops the process with a non-zero status and without ack.
"""


class Backpressure(Exception):  # noqa: N818 - a signal to the loop, not a fault of the code
    """The next system cannot take the batch now: keep it, pause the partition, try again later."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class Poison(Exception):  # noqa: N818 - see above
    """A record that can never be processed: to the DLQ with `reason` (a short snake_case word) and `detail`.

    `detail` goes into the DLQ and the logs, so it names fields and limits, never a person's data.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Fenced(Exception):  # noqa: N818 - a state, not a fault: the partition is no longer ours
    """The group has moved on: what is in flight is dropped without commit, and its new owner replays it."""
