"""What /docs says of the routes: bodies, answers, examples, keys. No request passes through here."""

from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.errors import PROBLEM_JSON
from api.events import TrackedEvent
from schemas import tracking

DESCRIPTION: Final = """\
Clicks, pageviews, checkouts, sales and bills of a business, on their way into ClickHouse.

* **Success means stored**: `202` and `200` come after every in-sync Kafka replica has the event.
* **Retry anything else** but a 4xx, with the same `event_id`: the same id twice is one event.
* **Keys**: a write key (`afw_...`) sends, a read key (`afr_...`) reads, an app key (`afa_...`) opens bills. The key
  alone says whose data it is.
* **Errors** are `application/problem+json` with `code`, `message` and `errors[]`, each with a JSON pointer.
"""

_EVENT: Final = {
    "event_id": "0190b3a2-7c1e-7bb0-9d3a-2f1f6f3c9a11",
    "occurred_at": "2026-01-31T12:00:00.000Z",
    "session_id": "s-81f3",
    "click_id": "c-5512",
    "url": "https://shop.example/offer?utm_source=meta",
    "referrer": "https://l.instagram.com/",
    "utm_source": "meta",
    "utm_campaign": "launch",
    "fbclid": "IwAR0abc",
    "consent_ads": True,
    "properties": {"variant": "b"},
}
_CHECKOUT: Final = {**_EVENT, "event_type": "initiate_checkout", "value": "197.00", "currency": "BRL"}
_MIXED: Final = {
    "sent_at": "2026-01-31T12:00:01Z",
    "events": [{**_EVENT, "event_type": "click"}, {**_CHECKOUT, "event_id": "0190b3a2-7c1e-7bb0-9d3a-2f1f6f3c9a12"}],
}

_PROBLEM_SCHEMA: Final = {
    "type": "object",
    "required": ["type", "title", "status", "code", "message", "errors"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "for programs: does not change"},
        "message": {"type": "string", "description": "for people: says what is allowed"},
        "errors": {"type": "array", "items": {"$ref": "#/components/schemas/Fault"}},
        "current_version": {"type": "integer", "description": "of a 409 over a bill or occurrence"},
    },
}
_FAULT_SCHEMA: Final = {
    "type": "object",
    "required": ["pointer", "code", "detail"],
    "properties": {name: {"type": "string"} for name in ("pointer", "code", "detail")},
}
_TRACKED_SCHEMA: Final = {
    "type": "object",
    "required": ["accepted", "event_ids", "rejected"],
    "properties": {
        "accepted": {"type": "integer", "description": "an event_id twice in one request counts twice here"},
        "event_ids": {"type": "array", "items": {"type": "string"}},
        "rejected": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["index", "code", "detail"],
                "properties": {
                    "index": {"type": "integer"},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
        "warnings": {
            "type": "array",
            "description": "of accepted events: fields that are not stored; at most 100",
            "items": {"$ref": "#/components/schemas/Fault"},
        },
    },
}
_LIST_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "items": {"type": "array", "items": {"type": "object"}},
        "next_cursor": {"type": ["string", "null"]},
    },
}
_DELIVERED_SCHEMA: Final = {
    "type": "object",
    "required": ["accepted", "event_id"],
    "properties": {"accepted": {"type": "integer"}, "event_id": {"type": "string"}},
}

_WRITE_KEYS: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"writeKeyHeader": []}, {"writeKeyQuery": []}]
_RETRY_AFTER: Final = {
    "Retry-After": {"description": "whole seconds", "schema": {"type": "integer", "minimum": 1}},
}


def _json(schema: dict[str, Any], description: str, example: Any = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"description": description, "content": {"application/json": content}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers of a request that failed."""
    answers: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        content = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        answers[status] = {"description": HTTPStatus(status).phrase, "content": content}
        if status in {429, 503}:
            answers[status]["headers"] = _RETRY_AFTER
    return answers


def _body(schema: dict[str, Any], examples: dict[str, Any]) -> dict[str, Any]:
    content = {"schema": schema, "examples": {name: {"value": value} for name, value in examples.items()}}
    # text/plain is what sendBeacon sends without a preflight; the body is JSON all the same.
    return {"required": True, "content": {"application/json": content, "text/plain": {"schema": {"type": "string"}}}}


_EVENT_REF: Final = {"$ref": "#/components/schemas/TrackedEvent"}
_EVENTS_REF: Final = {"type": "array", "items": _EVENT_REF, "minItems": 1, "maxItems": tracking.EVENTS_MAX}
_TRACKED: Final = {202: _json(_TRACKED_SCHEMA, "in Kafka, on every in-sync replica")}
_TRACK_ERRORS: Final = problems(400, 401, 403, 413, 415, 422, 429, 431, 503)

TRACK_ONE_TYPE: Final[dict[str, Any]] = {
    "status_code": 202,
    "responses": {**_TRACKED, **_TRACK_ERRORS},
    "openapi_extra": {
        "security": _WRITE_KEYS,
        "requestBody": _body({"oneOf": [_EVENT_REF, _EVENTS_REF]}, {"one": _EVENT, "several": [_EVENT]}),
    },
}
TRACK_BATCH: Final[dict[str, Any]] = {
    "status_code": 202,
    "responses": {**_TRACKED, **_TRACK_ERRORS},
    "openapi_extra": {
        "security": _WRITE_KEYS,
        "requestBody": _body(
            {
                "oneOf": [
                    _EVENTS_REF,
                    {
                        "type": "object",
                        "required": ["events"],
                        "properties": {
                            "events": _EVENTS_REF,
                            "sent_at": {"type": "string", "format": "date-time"},
                        },
                    },
                ]
            },
            {"mixed": _MIXED},
        ),
    },
}
WEBHOOK: Final[dict[str, Any]] = {
    "status_code": 200,
    "responses": {
        200: _json(_DELIVERED_SCHEMA, "in Kafka, on every in-sync replica"),
        **problems(400, 401, 403, 404, 413, 431, 503),
    },
    "openapi_extra": {
        "security": [{"webhookKeyQuery": []}, {"bearer": []}, {"writeKeyHeader": []}],
        "requestBody": {
            "required": True,
            "description": (
                "the gateway's own body. Proof: hotmart `X-HOTMART-HOTTOK`; kiwify `?signature=` HMAC-SHA1 hex;"
                " generic `X-Afluente-Signature: sha256=<HMAC-SHA256 hex>`; standard: Standard Webhooks headers"
            ),
            "content": {"application/json": {"schema": {}}, "application/octet-stream": {"schema": {}}},
        },
    },
}
READ: Final[dict[str, Any]] = {
    "responses": {200: _json(_LIST_SCHEMA, "what is stored"), **problems(401, 403, 422, 503)},
    "openapi_extra": {"security": [{"bearer": []}, {"readKeyHeader": []}]},
}
LIVE: Final[dict[str, Any]] = {"responses": {200: _json({"type": "object"}, "alive", {"live": True})}}
READY: Final[dict[str, Any]] = {
    "responses": {
        200: _json({"type": "object"}, "takes events"),
        503: _json({"type": "object"}, "takes none", {"ready": False, "missing": ["kafka"], "degraded": []}),
    }
}
METRICS: Final[dict[str, Any]] = {
    "responses": {200: {"description": "Prometheus text format", "content": {"text/plain": {}}}}
}
SNIPPET: Final[dict[str, Any]] = {
    "responses": {
        200: {"description": "the script", "content": {"text/javascript": {}}},
        304: {"description": "the script you have is the one there is"},
    }
}


def install(app: FastAPI) -> None:
    """Write the document once, with the shared parts the routes point at."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
            components = made.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            schemas["TrackedEvent"] = TrackedEvent.model_json_schema()
            schemas["Problem"] = _PROBLEM_SCHEMA
            schemas["Fault"] = _FAULT_SCHEMA
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "writeKeyHeader": {"type": "apiKey", "in": "header", "name": "X-Write-Key"},
                "writeKeyQuery": {"type": "apiKey", "in": "query", "name": "k"},
                "webhookKeyQuery": {"type": "apiKey", "in": "query", "name": "key"},
                "appKeyHeader": {"type": "apiKey", "in": "header", "name": "X-App-Key"},
                "readKeyHeader": {"type": "apiKey", "in": "header", "name": "X-Read-Key"},
            }
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign] # FastAPI's documented way to extend the document
