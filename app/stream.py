"""The Faust application: group membership, agents, tables and the command line, with the batch transport underneath.

Everything here that differs from Faust's defaults has a reason beside it; `DECISIONS.md` has the evidence.
"""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import faust
from faust.app.base import BootStrategy
from faust.types import TransportT

from app.batch import Bounds
from app.lifecycle import EXIT_NOT_DRAINED, end_process
from app.settings import Settings
from app.transport import POLL_RECORDS_MAX, Ownership, Transport

HEARTBEATS_A_SESSION = 4  # three may be lost before the group gives up on us
REQUEST_TIMEOUT_S = 40.0  # aiokafka wants it above the session timeout
FETCH_BYTES_MAX = 4 << 20  # of one partition in one answer; the largest record of any topic must fit
# Heartbeats go on in their own thread while a partition waits for ClickHouse, for hours if it must be.
POLL_INTERVAL_MAX_S = 7 * 24 * 3600.0
METADATA_AGE_MS = 10_000  # a topic made anew under a worker, or one with more partitions, is found within this time
NEVER_S = 7 * 24 * 3600.0  # for Faust's own commit timer, which has nothing to commit


class Boot(BootStrategy):  # type: ignore[misc,unused-ignore]
    """What Faust starts with the app. The `web_enabled` setting is not enough: `faust worker` sets it back to true,
    and the port, on all interfaces, would be the same for every worker of a machine.
    """

    enable_web = False


class App(faust.App):
    """A Faust app whose consumer yields record batches and which drains before it stops."""

    BootStrategy = Boot
    settings: Settings
    ownership: Ownership
    bounds: Bounds
    buffer_bytes_max: int
    prepare: Callable[[], Awaitable[None]]
    drain: Callable[[], Awaitable[None]]

    def _new_transport(self) -> TransportT:
        return Transport(self.conf.broker_consumer, self)

    async def on_first_start(self) -> None:
        # Faust makes the last folder of the path only.
        self.settings.worker_folder.mkdir(parents=True, exist_ok=True)
        await super().on_first_start()
        await self.prepare()

    async def on_stop(self) -> None:
        """Finish what is in flight, within AFLUENTE_DRAIN_TIMEOUT_S or until a second SIGTERM; then let Faust stop."""
        loop = asyncio.get_running_loop()
        loop.call_later(self.settings.drain_timeout_s, end_process, EXIT_NOT_DRAINED)
        for number in (signal.SIGTERM, signal.SIGINT):
            # An event loop outside the main thread, or on Windows, takes no handlers: then the timer alone ends us.
            with contextlib.suppress(ValueError, NotImplementedError):
                loop.add_signal_handler(number, partial(end_process, EXIT_NOT_DRAINED))
        await self.drain()
        await super().on_stop()


def create_app(settings: Settings) -> App:
    """The app of one worker process, not started and without agents."""
    options: dict[str, Any] = {
        "broker": ";".join(f"kafka://{server}" for server in settings.kafka_url.split(",")),
        "datadir": str(settings.worker_folder),
        "store": "rocksdb://",
        "key_serializer": "raw",
        "value_serializer": "raw",
        "autodiscover": False,
        "web_enabled": False,  # its pages show table contents to anybody; ours is app/health.py
        "topic_allow_declare": False,  # schemas/topics.py and `topics apply` own the topics
        "topic_disable_leader": True,
        "table_standby_replicas": 0,
        "processing_guarantee": "at_least_once",  # exactly once comes from ranges and tokens
        "stream_wait_empty": False,  # a revoked batch is dropped and replayed, never waited for without end
        "broker_commit_interval": NEVER_S,
        "broker_commit_livelock_soft_timeout": NEVER_S,
        "broker_max_poll_records": POLL_RECORDS_MAX,
        "broker_max_poll_interval": POLL_INTERVAL_MAX_S,
        "broker_request_timeout": max(REQUEST_TIMEOUT_S, settings.session_timeout_s + 1),
        "broker_session_timeout": settings.session_timeout_s,
        "broker_rebalance_timeout": settings.session_timeout_s,
        "broker_heartbeat_interval": settings.session_timeout_s / HEARTBEATS_A_SESSION,
        "consumer_max_fetch_size": FETCH_BYTES_MAX,
        "consumer_auto_offset_reset": "earliest",
        "consumer_metadata_max_age_ms": METADATA_AGE_MS,
        # Static membership: a restarted worker gets its partitions back without a rebalance of the others.
        "consumer_group_instance_id": f"{settings.group_id}-{settings.worker_id}",
    }
    app = App(settings.group_id, **options)
    app.settings = settings
    app.bounds = Bounds(settings.batch_rows_max, settings.batch_bytes_max, settings.linger_ms / 1000)
    app.buffer_bytes_max = settings.buffer_bytes_max
    return app
