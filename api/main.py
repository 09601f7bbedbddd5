"""The entry of the edge: builds its parts in order, mounts its routes, serves. `python -m api.main`."""

import gc
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline

from api import (
    analytics,
    bills,
    bills_overdue,
    bills_page,
    contract,
    errors,
    health,
    reading,
    snippet,
    tenant_store,
    tracking,
    webhooks,
)
from api.analytics_store import Analytics
from api.cors import Cors
from api.cursor import Cursors
from api.deps import Edge
from api.direct import Direct
from api.draining import DrainingServer
from api.limits import Admission, InFlight, Rates
from api.observe import Observe
from api.page_live import LiveFeed
from api.page_session import Sessions
from api.reading_store import ReadingStore
from api.server import allow_connections, config_for
from app import credentials, failpoints
from app.codec import Codec
from app.producer import Producer
from app.pseudonym import Pseudonymiser
from app.settings import Settings
from app.telemetry import logs, traces

# What is there after the start stays: a collection that walks through it again and again took an eighth of the time.
GC_ALLOCATIONS: Final = 20_000  # containers more than there were; a request of 1,000 events makes some 10,000

# FastAPI's own spans carry the query, in which beacons and webhooks send their keys, its logs the texts of failures.
OWN_SPANS_ONLY: Final[TelemetryConfig] = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}

log = structlog.get_logger(__name__)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application. Its parts live from the first request's turn to the end of the last."""
    settings = settings or Settings.load()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        failpoints.arm(settings)
        master_key = settings.master_key_bytes
        provider = traces.configure("afluente-edge", settings.otlp_endpoint)
        pool = await credentials.connect(settings.postgres_url.get_secret_value())
        producer = Producer(settings.kafka_url, timeout_ms=settings.produce_timeout_ms, client_id="afluente-edge")
        store = ReadingStore(settings)
        keys = credentials.Credentials(pool, master_key, cache_s=settings.credential_cache_s)
        rows_pool = await tenant_store.connect(settings.postgres_url.get_secret_value())
        edge = Edge(
            credentials=keys,
            producer=producer,
            codec=Codec.load(settings.schema_registry_url.get_secret_value()),
            people=Pseudonymiser(master_key),
            in_flight=InFlight(settings.edge_in_flight_bytes_max),
            admission=Admission(producer),
            rates=Rates(),
            store=store,
            cursors=Cursors(master_key),
            analytics=Analytics(store, settings),
            live=LiveFeed(store),
            sessions=Sessions(master_key, keys),
            rows=tenant_store.TenantStore(rows_pool),
        )
        sweep = bills_overdue.Sweep(edge.rows)
        app.state.edge = edge
        app.state.probes = health.Probes(edge)
        app.state.probes.start()
        sweep.start()
        gc.collect()
        gc.freeze()
        log.info("edge started", port=settings.edge_port)
        yield
        await sweep.stop()
        await app.state.probes.stop()
        await edge.producer.close()
        await edge.live.close()
        await edge.analytics.answers.close()
        await edge.store.close()
        await rows_pool.close()
        await pool.close()
        if provider is not None:
            provider.shutdown()

    app = FastAPIOffline(
        title="Afluente", version="0.1.0", description=contract.DESCRIPTION, lifespan=lifespan, redoc_url=None,
        telemetry=OWN_SPANS_ONLY,
    )  # fmt: skip
    app.state.is_draining = lambda: False
    app.state.is_ending = lambda: False
    app.include_router(tracking.router)
    app.include_router(webhooks.router)
    app.include_router(reading.router)
    app.include_router(analytics.router)
    app.include_router(bills_page.router)
    app.include_router(bills.router)
    app.include_router(health.router)
    app.include_router(snippet.router)
    errors.install(app)
    contract.install(app)
    app.add_middleware(Cors)
    app.add_middleware(Observe)
    return app


def main() -> None:
    """Serve until SIGTERM; then the balancer is told first, and requests in progress are answered."""
    settings = Settings.load()
    logs.configure(settings.log_level)
    try:
        settings.master_key_bytes  # noqa: B018 - asked for its error, before anything is started
    except ValueError as error:
        sys.exit(f"the edge does not start: {error}")
    gc.set_threshold(GC_ALLOCATIONS)
    allow_connections(settings.edge_connections_max)
    # uvicorn drains, then raises the signal it got once more for whoever started it: let that end with status 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    app = create_app(settings)
    server = DrainingServer(config_for(Direct(app, tracking.router), settings), settings.edge_drain_s)
    app.state.is_draining = lambda: server.is_draining
    app.state.is_ending = lambda: server.is_letting_go  # streams end themselves; nobody waits for them
    server.run()


if __name__ == "__main__":
    main()
