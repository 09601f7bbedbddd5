"""A worker whose wall clock is wrong by CLOCK_SHIFT_S: `faust -A tests.support.shifted_worker worker`.

The clock is shifted where Python asks for it, before anything of ours is imported. A library that shifts it below
every process (libfaketime) makes librdkafka's timed waits hang for as long as the shift, so it cannot be used here.
"""

import os
import time

SHIFT_S = int(os.environ["CLOCK_SHIFT_S"])
_right, _right_ns = time.time, time.time_ns
time.time = lambda: _right() + SHIFT_S
time.time_ns = lambda: _right_ns() + SHIFT_S * 1_000_000_000

from agents.worker import app, worker  # noqa: E402 - after the clock

__all__ = ["app", "worker"]
