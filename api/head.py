"""One header of a request, found without an index: most requests have few headers and are asked for those they lack."""

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that name (in lower case), or None."""
    for found, value in scope["headers"]:
        if found == name:
            text: str = value.decode("latin-1")
            return text
    return None
