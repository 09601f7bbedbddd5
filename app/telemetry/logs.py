"""Logs of every process: one JSON object a line on stderr, with tenant and pipeline, never with a person's data."""

import logging
import sys
from typing import Final

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

# Keys whose values are replaced whatever they hold: the last net, not the first. The first is not to log them.
REDACTED_KEYS: Final = frozenset(
    {"key", "secret", "password", "authorization", "token", "email", "phone", "document", "body", "query", "url"}
)
REDACTED: Final = "[redacted]"
# Local variables hold whole records and credentials: a stack trace names lines, never values.
TRACEBACKS: Final = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure(level: str = "INFO") -> None:
    """Send structlog and the standard library's logging to stderr as JSON. Called once by each entry point."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            TRACEBACKS,
            structlog.processors.JSONRenderer(serializer=_json),
        ],
    )
    # Faust's command line replaces sys.stderr by a proxy that logs: a handler on it would feed itself.
    stream = logging.StreamHandler(sys.__stderr__)
    stream.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [stream]
    root.setLevel(level)
    for chatty in ("uvicorn", "uvicorn.error", "uvicorn.access", "aiokafka", "asyncio"):
        logging.getLogger(chatty).handlers.clear()
        logging.getLogger(chatty).propagate = chatty != "uvicorn.access"  # request lines carry keys in their query


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace the values of REDACTED_KEYS."""
    for name in event.keys() & REDACTED_KEYS:
        event[name] = REDACTED
    return event


def _json(event: EventDict, **_options: object) -> str:
    return orjson.dumps(event, default=repr).decode()
