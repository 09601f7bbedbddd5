"""What the edge is measured against: an empty FastAPI endpoint under the edge's own server, which reads and parses.

`python -m loadtest.noop`, on AFLUENTE_EDGE_PORT. It checks no key, knows no event and tells nobody of it.
"""

import gc

import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import Response

from api import body
from api.main import GC_ALLOCATIONS
from api.server import allow_connections, config_for
from app.settings import Settings

app = FastAPI()
ANSWER = b'{"accepted":1}'


@app.post("/track/click")
@app.post("/track/batch")
async def accept(request: Request) -> Response:
    """Yes to everything that is strict JSON."""
    body.parse(await request.body())
    return Response(ANSWER, 202, media_type="application/json")


def main() -> None:
    """Serve until SIGTERM."""
    settings = Settings.load()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS)
    allow_connections(settings.edge_connections_max)
    uvicorn.Server(config_for(app, settings)).run()


if __name__ == "__main__":
    main()
