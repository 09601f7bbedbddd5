"""Traces: one W3C trace context from the HTTP request through the Kafka headers to the insert. Off by default.

With `AFLUENTE_OTLP_ENDPOINT` set, spans go there over OTLP/HTTP. Without it the calls below cost next to nothing.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from schemas.envelope import HEADER_TRACEPARENT

TRACES_PATH: Final = "/v1/traces"
_propagator: Final = TraceContextTextMapPropagator()
_tracer: Final = trace.get_tracer("afluente")
_exporting: Final = threading.Event()


def configure(service: str, endpoint: str) -> TracerProvider | None:
    """Start exporting when there is an endpoint. Called once by each entry point; shut the result down at its end."""
    if not endpoint:
        return None
    url = endpoint if endpoint.endswith(TRACES_PATH) else endpoint.rstrip("/") + TRACES_PATH
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
    trace.set_tracer_provider(provider)
    _exporting.set()
    return provider


def exporting() -> bool:
    """Whether this process exports traces at all."""
    return isinstance(trace.get_tracer_provider(), TracerProvider)


_NO_SPAN: Final = nullcontext()


def span(name: str, traceparent: str | None, kind: SpanKind, **attributes: str | int) -> AbstractContextManager[None]:
    """A span that goes on with the caller's trace when `traceparent` is one, else begins its own."""
    return _span(name, traceparent, kind, attributes) if _exporting.is_set() else _NO_SPAN


@contextmanager
def _span(name: str, traceparent: str | None, kind: SpanKind, attributes: Mapping[str, str | int]) -> Iterator[None]:
    parent = _propagator.extract({HEADER_TRACEPARENT: traceparent}) if traceparent else None
    with _tracer.start_as_current_span(name, context=parent, kind=kind, attributes=attributes):
        yield


def current_header() -> list[tuple[str, bytes]]:
    """The Kafka header that carries the current span on, or nothing when nothing traces."""
    if not _exporting.is_set() or not get_current_span().get_span_context().is_valid:
        return []
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return [(HEADER_TRACEPARENT, carrier[HEADER_TRACEPARENT].encode())] if HEADER_TRACEPARENT in carrier else []


def traceparent_of(found: Mapping[str, bytes]) -> str | None:
    """The trace context among a record's headers, as text."""
    value = found.get(HEADER_TRACEPARENT)
    return value.decode("ascii", "replace") if value else None


def record_spans(name: str, traceparents: Iterable[str], start_ns: int, end_ns: int) -> None:
    """One span in each of those traces for work that a batch did for all of them at once."""
    for traceparent in traceparents:
        parent = _propagator.extract({HEADER_TRACEPARENT: traceparent})
        _tracer.start_span(name, context=parent, kind=SpanKind.CONSUMER, start_time=start_ns).end(end_ns)
