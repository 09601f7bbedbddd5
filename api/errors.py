"""What a sender is told when something is wrong: problem+json with a code, a text that says what is allowed, pointers.

Nothing of the request's content is repeated: an answer may end in a log that must not hold personal data.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, TypedDict

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.credentials import Unavailable
from app.producer import NotProduced

PROBLEM_JSON: Final = "application/problem+json"
ERRORS_MAX: Final = 100  # listed in one answer; the first hundred tell a sender what to mend
RETRY_AFTER_S: Final = 1  # Kafka and Postgres are mostly back sooner; a sender backs off by itself

log = structlog.get_logger(__name__)


class Fault(TypedDict):
    """One thing that is wrong, with where it is as a JSON pointer."""

    pointer: str
    code: str
    detail: str


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of the code
    """Ends a request with this answer."""

    def __init__(
        self,
        status: int,
        code: str,
        text: str,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.text = text
        self.errors = errors
        self.headers = dict(headers or {})
        self.members = dict(members or {})


def unavailable(code: str, text: str, retry_after_s: int = RETRY_AFTER_S) -> Refusal:
    """503 with Retry-After: nothing was promised, the same request may be sent again."""
    return Refusal(503, code, text, headers={"Retry-After": str(retry_after_s)})


def problem(refusal: Refusal) -> Response:
    """The answer itself."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(refusal.status).phrase,
        "status": refusal.status,
        "code": refusal.code,
        "message": refusal.text,
        "errors": list(refusal.errors[:ERRORS_MAX]),
        **refusal.members,
    }
    headers = {"Cache-Control": "no-store", **refusal.headers}
    return Response(orjson.dumps(content), refusal.status, headers, PROBLEM_JSON)


EXPECTED: Final = (Refusal, NotProduced, Unavailable)


def answer(error: Exception) -> Response:
    """What one of EXPECTED is answered with."""
    if isinstance(error, Refusal):
        return problem(error)
    if isinstance(error, NotProduced):
        return _not_produced(error)
    assert isinstance(error, Unavailable)
    text = "the key cannot be checked now. Send the same request again: nothing was taken."
    return problem(unavailable("credentials_unavailable", text))


def internal() -> Response:
    """The log has it; the sender learns only that it was not their doing."""
    return problem(Refusal(500, "internal", "a fault of the server; it is logged"))


def install(app: FastAPI) -> None:
    """Every way a request can fail ends in one shape."""
    for expected in EXPECTED:
        app.add_exception_handler(expected, _expected)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _internal)


async def _expected(_request: Request, error: Exception) -> Response:
    return answer(error)


def _not_produced(error: NotProduced) -> Response:
    if error.reason == "too_large":
        return problem(Refusal(413, "record_too_large", "one event is too large for its topic"))
    log.warning("not produced", reason=error.reason, detail=error.detail)
    text = "Kafka did not confirm in time. Send the same request again, with the same event ids: nothing doubles."
    return problem(unavailable("not_confirmed", text))


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults: list[Fault] = [
        {
            "pointer": "/" + "/".join(str(part) for part in found["loc"]),
            "code": str(found["type"]),
            "detail": str(found["msg"]).removeprefix("Value error, "),
        }
        for found in error.errors()
    ]
    return problem(Refusal(422, "invalid_parameters", "some parameters are not as they must be", errors=faults))


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    texts = {404: "there is nothing here; /docs lists what there is", 405: "this path does not take that method"}
    code = codes.get(error.status_code, "http_error")
    text = texts.get(error.status_code, str(error.detail))
    return problem(Refusal(error.status_code, code, text, headers=error.headers))


async def _internal(_request: Request, _error: Exception) -> Response:
    return internal()
