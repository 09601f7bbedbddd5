"""How a worker ends: loudly and at once on an unknown failure, calmly on SIGTERM.

Crash-only: what an unknown failure leaves is what SIGKILL leaves, and the pending range covers both.
"""

import contextlib
import gc
import logging
import os
import sys
from typing import Any, NoReturn

EXIT_UNKNOWN_FAILURE = 70  # EX_SOFTWARE of sysexits.h: restart and look, nothing was committed
EXIT_NOT_DRAINED = 75  # EX_TEMPFAIL: stopped before its batches were finished; they will be replayed

# Objects until the youngest are looked through (some ten thousand events: 50 ms), and how often the older ones.
COLLECT_AFTER = (500_000, 20, 20)


def stop_loudly(logger: Any, error: BaseException) -> NoReturn:
    """Log the failure and end the process without commit, without running anything else."""
    try:
        logger.error("unknown failure: stopping without commit", error=str(error), exc_info=error)
    finally:
        end_process(EXIT_UNKNOWN_FAILURE)


def end_process(status: int) -> NoReturn:
    """Flush the logs and exit now: no atexit, no finally, nothing that could still commit."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a log that cannot be written must not keep the process alive
            stream.flush()
    os._exit(status)


def settle_garbage_collection() -> None:
    """Once all is loaded: records are no cycles, so looking for garbage among them every 700 objects is in vain.

    Reference counts free every batch; what is collected is the little that libraries leave in cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
