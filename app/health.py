"""Health and metrics of a worker over HTTP, on loopback unless told otherwise: what an orchestrator asks."""

from collections.abc import Callable

import orjson
from aiohttp import web

from app.telemetry import metrics


async def serve(
    host: str,
    port: int,
    missing: Callable[[], list[str]],
    refresh: Callable[[], None],
    expose: Callable[[], bytes] = metrics.exposition,
) -> web.AppRunner:
    """Serve /health/live, /health/ready (names what is missing) and /metrics until the runner's `cleanup`.

    `refresh` updates gauges that are read, not counted, before each scrape.
    """

    async def live(_request: web.Request) -> web.Response:
        return web.json_response({"status": "live"})

    async def ready(_request: web.Request) -> web.Response:
        names = missing()
        body = orjson.dumps({"status": "not ready" if names else "ready", "missing": names})
        return web.Response(body=body, content_type="application/json", status=503 if names else 200)

    async def exposition(_request: web.Request) -> web.Response:
        refresh()
        return web.Response(body=expose(), headers={"Content-Type": metrics.CONTENT_TYPE})

    application = web.Application()
    application.add_routes(
        [web.get("/health/live", live), web.get("/health/ready", ready), web.get("/metrics", exposition)]
    )
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
