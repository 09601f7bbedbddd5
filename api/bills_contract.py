"""What /docs says of the bills routes. No request passes through here."""

from typing import Any, Final

from pydantic import BaseModel

from api.bills_body import BillChange, NewBill, OccurrenceChange, OnlyVersion, Payment
from api.contract import problems
from api.idempotency import HEADER, KEPT_HOURS, KEY_CHARACTERS_MAX, REPLAYED
from api.version_token import HEADER as TOKEN_HEADER

_TEXT: Final = {"type": "string"}
_UUID: Final = {"type": "string", "format": "uuid"}
_MONEY: Final = {"type": "string", "pattern": r"^[0-9]{1,12}\.[0-9]{2}$"}
_TIME: Final = {"type": "string", "format": "date-time"}
_INTEGER: Final = {"type": "integer", "minimum": 1}
_STATUS: Final = {"type": "string", "enum": ["open", "paid", "overdue", "cancelled"]}

_SHARED: Final[dict[str, Any]] = {
    "id": _UUID,
    "user_id": _TEXT,
    "category": _TEXT,
    "amount": _MONEY,
    "currency": _TEXT,
    "due_date": {"type": "string", "format": "date"},
    "recurrence": {"type": "string", "enum": ["none", "weekly", "monthly", "yearly"]},
    "installments": _INTEGER,
    "status": _STATUS,
    "paid_at": {"anyOf": [_TIME, {"type": "null"}]},
    "version": _INTEGER,
    "actor": {"type": "string", "description": "who made the latest change"},
    "created_at": _TIME,
    "updated_at": _TIME,
}
_BILL: Final = {**_SHARED, "description": _TEXT}
_OCCURRENCE: Final = {**_SHARED, "bill_id": _UUID, "number": _INTEGER}
_PART: Final = {name: _OCCURRENCE[name] for name in ("id", "number", "amount", "due_date", "status", "version")}
_WRITTEN: Final = {"version_token": {"type": "string", "description": "for ?at_least= of analytics"}}
_BILL_AFTER: Final = {"bill": {"type": "object", "description": "id, status, amount and version of its bill, after it"}}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(properties: dict[str, Any]) -> dict[str, Any]:
    following = {"anyOf": [_TEXT, {"type": "null"}]}
    return _object({"items": {"type": "array", "items": _object(properties)}, "next_cursor": following})


def _answer(status: int, properties: dict[str, Any], description: str, *headers: str) -> dict[int | str, Any]:
    content = {"application/json": {"schema": properties}}
    shown = {name: {"schema": _TEXT} for name in headers}
    return {status: {"description": description, "content": content, "headers": shown}}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": _TEXT}


_SECURITY: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"appKeyHeader": []}]
_IF_MATCH: Final = _header("If-Match", 'the version that you saw, e.g. "3"; `*` takes any')
_ONCE: Final = _header(
    HEADER,
    f"1 to {KEY_CHARACTERS_MAX} characters; the same request again within {KEPT_HOURS} h is answered as the first was,"
    f" with `{REPLAYED}: true`",
)
_WRITE_HEADERS: Final = ("ETag", TOKEN_HEADER, REPLAYED)


def _write(
    answer: dict[int | str, Any],
    model: type[BaseModel],
    examples: dict[str, Any],
    *statuses: int,
    needs_body: bool = True,
    versioned: bool = True,
) -> dict[str, Any]:
    shown = {name: {"value": value} for name, value in examples.items()}
    schema = model.model_json_schema()
    return {
        "status_code": next(int(status) for status in answer),
        "responses": {**answer, **problems(400, 401, 403, 409, 413, 415, 422, 429, 431, 503, *statuses)},
        "openapi_extra": {
            "security": _SECURITY,
            "parameters": [_ONCE, *([_IF_MATCH] if versioned else [])],
            "requestBody": {
                "required": needs_body,
                "content": {"application/json": {"schema": schema, "examples": shown}},
            },
        },
    }


def _read(answer: dict[int | str, Any], *statuses: int) -> dict[str, Any]:
    return {
        "responses": {**answer, **problems(401, 403, 422, 429, 503, *statuses)},
        "openapi_extra": {"security": _SECURITY},
    }


_EXAMPLE: Final = {"user_id": "ana", "category": "home", "currency": "BRL", "due_date": "2026-01-31"}
_CREATED: Final = _object({**_BILL, "occurrences": {"type": "array", "items": _object(_PART)}, **_WRITTEN})
_CHANGED_OCCURRENCE: Final = _object({**_OCCURRENCE, **_BILL_AFTER, **_WRITTEN})

CREATE: Final = _write(
    _answer(201, _CREATED, "made, with its occurrences", "Location", *_WRITE_HEADERS),
    NewBill,
    {
        "once": {**_EXAMPLE, "description": "plumber", "amount": "180.00"},
        "installments": {**_EXAMPLE, "description": "fridge", "amount": "1000.00", "installments": 3},
        "rent": {**_EXAMPLE, "amount": 1500, "recurrence": "monthly", "count": 12},
        "gym": {**_EXAMPLE, "amount": "89.90", "recurrence": "weekly", "until": "2026-06-30"},
    },
    versioned=False,
)
LIST_BILLS: Final = _read(_answer(200, _list(_BILL), "a page"))
LIST_OCCURRENCES: Final = _read(_answer(200, _list(_OCCURRENCE), "a page"), 404)
GET_BILL: Final = _read(
    {**_answer(200, _object(_BILL), "the bill", "ETag"), 304: {"description": "you have this version"}}, 404
)
CHANGE_BILL: Final = _write(
    _answer(200, _object({**_BILL, **_WRITTEN}), "changed", *_WRITE_HEADERS),
    BillChange,
    {"amount": {"amount": "1200.00", "version": 1}, "cancel": {"status": "cancelled", "version": 1}},
    404,
    428,
)
DELETE_BILL: Final = _write(
    _answer(200, _object({"id": _UUID, "deleted": {"type": "boolean"}, **_WRITTEN}), "gone", *_WRITE_HEADERS[1:]),
    OnlyVersion,
    {"seen": {"version": 1}},
    404,
    428,
    needs_body=False,
)
CHANGE_OCCURRENCE: Final = _write(
    _answer(200, _CHANGED_OCCURRENCE, "changed", *_WRITE_HEADERS),
    OccurrenceChange,
    {"later": {"due_date": "2026-02-10", "version": 1}},
    404,
    428,
)
PAY: Final = _write(
    _answer(200, _CHANGED_OCCURRENCE, "paid", *_WRITE_HEADERS),
    Payment,
    {"now": {}, "then": {"paid_at": "2026-01-30T18:00:00-03:00", "version": 1}},
    404,
    needs_body=False,
)
UNPAY: Final = _write(
    _answer(200, _CHANGED_OCCURRENCE, "not paid", *_WRITE_HEADERS),
    OnlyVersion,
    {"whatever it was": {}, "seen": {"version": 2}},
    404,
    needs_body=False,
)
