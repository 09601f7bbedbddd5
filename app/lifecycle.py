"""How a worker ends: loudly and at once on an unknown failure, calmly on SIGTERM.

Crash-only: what an unknown failure leaves is what SIGKILL leaves, and the pending range covers both.
"""

import logging
import os
import sys
from typing import Any, NoReturn

EXIT_UNKNOWN_FAILURE = 70  # EX_SOFTWARE of sysexits.h: restart and look, nothing was committed
EXIT_NOT_DRAINED = 75  # EX_TEMPFAIL: stopped before its batches were finished; they will be replayed


def stop_loudly(logger: Any, error: BaseException) -> NoReturn:
    """Log the failure and end the process without commit, without running anything else."""
    logger.error("unknown failure: stopping without commit", error=str(error), exc_info=error)
    end_process(EXIT_UNKNOWN_FAILURE)


def end_process(status: int) -> NoReturn:
    """Flush the logs and exit now: no atexit, no finally, nothing that could still commit."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
