"""ENTRY POINT of the worker: `faust -A agents.worker worker -l info`. Registers one Faust agent for each pipeline.

Reads and writes what the rows of `agents/topology.py` say.
"""

import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import structlog
from aiohttp import web

from agents import topology
from app import failpoints, progress
from app.dedup import Seen
from app.health import serve
from app.lifecycle import settle_garbage_collection, stop_loudly
from app.ownership import Ownership, describe
from app.pipeline import Loop, Parts, Pipeline
from app.producer import Producer
from app.progress import Progress
from app.settings import Settings
from app.sinks.clickhouse import ClickHouseSink
from app.stream import App, create_app
from app.telemetry import logs, metrics, traces
from schemas.topics import HOUR_MS

log = structlog.get_logger(__name__)

EXAMINER = (sys.executable, "-m", "agents.examine")
DLQ_TIMEOUT_MS = 10_000  # one attempt to produce a DLQ record; the loop repeats it


class Worker:
    """One process: the Faust app, its loops, and what they share."""

    def __init__(
        self, settings: Settings, app: App, loop_class: type[Loop] = Loop, examiner: Sequence[str] = EXAMINER
    ) -> None:
        self.settings = settings
        self.app = app
        self.pipelines = topology.pipelines(settings)
        self._loop_class = loop_class
        self._examiner = examiner
        self._loops: dict[str, Loop] = {}
        self.tables: dict[str, Seen] = {}
        self._parts: Parts | None = None
        self._health: web.AppRunner | None = None
        self._watch: asyncio.Task[None] | None = None
        self.ownership = Ownership(settings, self._loops)
        app.ownership, app.prepare, app.drain = self.ownership, self.prepare, self.drain
        for pipeline in self.pipelines:
            self._register(pipeline)

    def _register(self, pipeline: Pipeline) -> None:
        """One Faust agent, named as the pipeline, over the batch topic that it reads."""
        self.tables[pipeline.reads.name] = Seen(self.app, pipeline.seen)

        async def agent(stream: Any) -> None:
            await self._loops[pipeline.reads.name].run(stream)

        self.app.agent(self.app.topic(pipeline.reads.name, value_serializer="raw"), name=pipeline.name)(agent)

    async def prepare(self) -> None:
        """Before the group is joined: refuse what cannot work, with a reason; then open what the loops share."""
        logs.configure(self.settings.log_level)
        traces.configure("afluente-worker", self.settings.otlp_endpoint)
        try:
            await self._check()
        except Exception as error:  # noqa: BLE001 - whatever it is, a worker that cannot start says so and exits
            stop_loudly(log, error)
        failpoints.arm(self.settings)
        consumer: Any = self.app.consumer
        self._parts = parts = Parts(
            settings=self.settings,
            consumer=consumer,
            progress=Progress(consumer, partial(stop_loudly, log)),
            producer=Producer(self.settings.kafka_url, timeout_ms=DLQ_TIMEOUT_MS, client_id="afluente-worker"),
            sink=ClickHouseSink(self.settings),
            examiner=self._examiner,
        )
        for pipeline in self.pipelines:
            self._loops[pipeline.reads.name] = self._loop_class(pipeline, parts, self.tables[pipeline.reads.name])
        settle_garbage_collection()
        self._watch = asyncio.create_task(self.ownership.watch())
        self._health = await serve(self.settings.worker_host, self.settings.worker_port, self.missing, self.refresh)

    async def _check(self) -> None:
        for pipeline in self.pipelines:
            if pipeline.seen.window_hours * HOUR_MS > pipeline.reads.retention_ms:
                raise ValueError(
                    f"AFLUENTE_DEDUPE_WINDOW_HOURS={pipeline.seen.window_hours} is longer than {pipeline.reads.name} "
                    f"keeps its records ({pipeline.reads.retention_ms // HOUR_MS} h): lost state could not be rebuilt"
                )
        topics = {topic.name for pipeline in self.pipelines for topic in (pipeline.reads, pipeline.dead)}
        topics |= {emits.topic.name for pipeline in self.pipelines for emits in pipeline.emits}
        await asyncio.to_thread(describe, self.settings.kafka_url, topics)
        probe_group = f"{self.settings.group_id}-metadata-probe"
        await progress.check_metadata_kept(self.settings.kafka_url, self.pipelines[0].reads.name, probe_group)

    def missing(self) -> list[str]:
        """What this worker still lacks to take records."""
        if not self.ownership.joined:
            return ["partition assignment"]
        return [f"state of {tp.topic}[{tp.partition}]" for tp in sorted(self.ownership.unready)]

    def refresh(self) -> None:
        """The lag of each partition: what Kafka has, less what is durable."""
        consumer: Any = self.app.consumer
        for tp in self.ownership.owned:
            loop = self._loops[tp.topic]
            applied, end = loop.durable.get(tp), consumer.highwater(tp)
            if applied is not None and end is not None:
                metrics.LAG.labels(loop.pipeline.name, *map(str, tp)).set(max(0, end - applied - 1))

    async def drain(self) -> None:
        """Finish and commit what is in flight, then close what `prepare` opened."""
        consumer: Any = self.app.consumer
        consumer.drain()
        if self._watch is not None:
            self._watch.cancel()
        await self.ownership.drain()
        if self._health is not None:
            await self._health.cleanup()
        if self._parts is not None:
            await self._parts.producer.close()
            await self._parts.sink.close()


app = create_app(Settings.load())
worker = Worker(app.settings, app)
