"""GET /afluente.js: the script a page includes; what it sends comes back to /track/..."""

import hashlib
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api import contract

router: Final = APIRouter(tags=["snippet"])
_SCRIPT: Final = (Path(__file__).parent / "afluente.js").read_bytes()
_ETAG: Final = f'"{hashlib.sha256(_SCRIPT).hexdigest()[:32]}"'
CACHE_S: Final = 3_600  # a mended script reaches every page within the hour
_HEADERS: Final = {
    "ETag": _ETAG,
    "Cache-Control": f"public, max-age={CACHE_S}",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


@router.get("/afluente.js", **contract.SNIPPET)
async def snippet(request: Request) -> Response:
    """The script. `<script async src="https://EDGE/afluente.js" data-key="afw_..."></script>`."""
    if request.headers.get("if-none-match") == _ETAG:
        return Response(status_code=304, headers=_HEADERS)
    return Response(_SCRIPT, 200, _HEADERS, "text/javascript")
