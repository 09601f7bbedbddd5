"""Patience with the next system: a write that is pushed back is repeated, while its partition alone is held.

Step 6 of the loop. Heartbeats and other partitions go on; nothing is committed before the write is through.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from app.batch import TP
from app.errors import Backpressure
from app.producer import NotProduced
from app.telemetry import metrics
from app.transport import Consumer

RETRY_FIRST_S: Final = 0.25  # doubled up to the next number, with full jitter, so that workers do not retry in step
RETRY_MAX_S: Final = 10.0

T = TypeVar("T")
log = structlog.get_logger(__name__)


async def persist(consumer: Consumer, pipeline: str, tp: TP, write: Callable[[], Awaitable[T]]) -> T:
    """What `write` returns, once it goes through. Only Backpressure and NotProduced are waited out."""
    paused = metrics.PAUSED.labels(pipeline)

    def hold(state: RetryCallState) -> None:
        reason = state.outcome.exception() if state.outcome is not None else None
        wait_s = state.next_action.sleep if state.next_action is not None else 0.0
        metrics.BACKPRESSURE_SECONDS.labels(pipeline).inc(wait_s)
        retry_in_s = round(wait_s, 2)
        log.warning(
            "backpressure", pipeline=pipeline, partition=tp.partition, reason=str(reason), retry_in_s=retry_in_s
        )
        if consumer.hold(tp):
            paused.inc()

    try:
        return await AsyncRetrying(
            retry=retry_if_exception_type((Backpressure, NotProduced)),
            wait=wait_random_exponential(multiplier=RETRY_FIRST_S, max=RETRY_MAX_S),
            before_sleep=hold,
        )(write)
    finally:
        if consumer.resume(tp):
            paused.dec()
