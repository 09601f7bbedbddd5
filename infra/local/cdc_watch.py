"""`./afluente cdc watch`: looks at change data capture every few seconds, says what changed, and feeds Prometheus.

A process of its own, because it is the one that must speak when Connect, or the slot, is gone. As the role afluente_cdc
it needs no superuser: every role may see the slots.
"""

import asyncio
import contextlib
import logging
import math
import signal
from typing import Final

import structlog

from app.health import serve
from app.settings import Settings
from app.telemetry import cdc_metrics as metrics
from app.telemetry import logs
from infra.local.cdc_state import ADVICE, IN_ORDER, Report, definition, report
from infra.local.faults import Fault

INTERVAL_S: Final = 2.0  # a lost slot is named within two looks and a scrape: under 10 s
LOOK_TIMEOUT_S: Final = 15.0  # above what Postgres and Connect get together: it is they who are named

log = structlog.get_logger("afluente.cdc.watch")


def count(found: Report) -> None:
    """One look, as figures."""
    slot, connector = definition().slot, definition().name
    metrics.ANSWERS.labels("postgres").set(1)
    metrics.ANSWERS.labels("connect").set(found.connect_answers)
    metrics.SLOT_WHOLE.labels(slot).set(found.verdict not in {"slot lost", "slot missing"})
    metrics.TASK_FAILED.labels(connector).set(bool(found.connector and found.connector.failure))
    if found.delay_s is not None:
        metrics.DELAY.labels(connector).set(found.delay_s)
    elif found.heartbeat_age_s is not None and not found.connect_answers:
        metrics.DELAY.labels(connector).set(found.heartbeat_age_s)
    held = found.slot
    metrics.SLOT_ACTIVE.labels(slot).set(bool(held and held.active))
    metrics.SLOT_LAG.labels(slot).set(held.lag_bytes if held else 0)
    metrics.SLOT_HELD.labels(slot).set(held.held_bytes if held else 0)
    safe = math.inf if held is None or held.safe_bytes is None else held.safe_bytes
    metrics.SLOT_SAFE.labels(slot).set(safe)


async def look(settings: Settings) -> str:
    """One look. Returns the verdict; what does not answer is a verdict too."""
    try:
        found = await asyncio.wait_for(report(settings), LOOK_TIMEOUT_S)
    except (Fault, TimeoutError) as fault:
        metrics.ANSWERS.labels("postgres").set(0)
        return f"no look: {str(fault).splitlines()[0] if str(fault) else 'no answer in time'}"
    count(found)
    return found.verdict


async def watch(settings: Settings) -> None:
    """Until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for which in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(which, stopping.set)
    verdict = await look(settings)
    runner = await serve(
        settings.watch_host, settings.watch_port, missing=list, refresh=lambda: None, expose=metrics.exposition
    )
    _tell(verdict)
    try:
        while not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), INTERVAL_S)
            former, verdict = verdict, await look(settings)
            if verdict != former:
                _tell(verdict)
    finally:
        await runner.cleanup()


def _tell(verdict: str) -> None:
    level = log.info if verdict in IN_ORDER else log.warning
    level("cdc", verdict=verdict, advice=ADVICE.get(verdict, ""))


def run(settings: Settings) -> None:
    """In the foreground."""
    logs.configure(settings.log_level)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request otherwise
    asyncio.run(watch(settings))


if __name__ == "__main__":
    run(Settings.load())
