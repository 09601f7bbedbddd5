"""What /docs says of /analytics: answers, examples, keys. No request passes through here."""

from typing import Any, Final

from api.contract import problems

_MONEY: Final = {"type": "string", "pattern": r"^-?[0-9]+\.[0-9]{2}$"}
_AS_OF: Final = {
    "description": "all that Postgres committed up to here is in the figures; null before CDC has run",
    "anyOf": [
        {
            "type": "object",
            "required": ["lsn", "time"],
            "properties": {"lsn": {"type": "string"}, "time": {"type": "string", "format": "date-time"}},
        },
        {"type": "null"},
    ],
}
_SEEN: Final = {"lsn": "0/16B3748", "time": "2026-11-25T12:00:00.000000Z"}
_CAUGHT_UP: Final = {
    "type": "boolean",
    "description": "only with at_least: whether that write is in the figures; false after 2 s of waiting",
}


def _answer(members: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": [*members, "more", "as_of"],
        "properties": {
            **members,
            "more": {"type": "boolean", "description": "there are more rows than one answer holds"},
            "as_of": _AS_OF,
            "caught_up": _CAUGHT_UP,
        },
    }
    shown = {**example, "more": False, "as_of": _SEEN, "caught_up": True}
    content = {"application/json": {"schema": schema, "example": shown}}
    return {
        "responses": {200: {"description": "the figures", "content": content}, **problems(401, 403, 422, 503)},
        "openapi_extra": {"security": [{"bearer": []}, {"appKeyHeader": []}]},
    }


def _figures(*names: str, **more: Any) -> dict[str, Any]:
    properties = {"currency": {"type": "string"}, **dict.fromkeys(names, _MONEY), **more}
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer"}
_FOOD: Final = {"category": "food", "occurrences": 3}

MONTH: Final = _answer(
    {
        "month": _TEXT,
        "currencies": _list(_figures("due", "paid", "unpaid", "overdue", "cancelled", occurrences=_COUNT)),
    },
    {
        "month": "2026-11",
        "currencies": [
            {
                "currency": "BRL",
                "occurrences": 12,
                "due": "4210.90",
                "paid": "3000.00",
                "unpaid": "1210.90",
                "overdue": "210.90",
                "cancelled": "0.00",
            }
        ],
    },
)
CATEGORIES: Final = _answer(
    {"from": _TEXT, "to": _TEXT, "currencies": _list(_figures("due", "paid", "unpaid", categories=_list({})))},
    {
        "from": "2026-11-01",
        "to": "2026-11-30",
        "currencies": [
            {
                "currency": "BRL",
                "due": "310.90",
                "paid": "100.00",
                "unpaid": "210.90",
                "categories": [{**_FOOD, "due": "310.90", "paid": "100.00", "unpaid": "210.90"}],
            }
        ],
    },
)
PROJECTIONS: Final = _answer(
    {
        "months": _list(
            {
                "type": "object",
                "required": ["month", "currencies"],
                "properties": {
                    "month": _TEXT,
                    "currencies": _list(_figures("open", "recurring", categories=_list({}))),
                },
            }
        )
    },
    {
        "months": [
            {
                "month": "2026-12",
                "currencies": [
                    {
                        "currency": "BRL",
                        "open": "310.90",
                        "recurring": "100.00",
                        "categories": [{**_FOOD, "open": "310.90", "recurring": "100.00"}],
                    }
                ],
            }
        ]
    },
)
CASHFLOW: Final = _answer(
    {"from": _TEXT, "to": _TEXT, "currencies": _list(_figures("due", "paid", "unpaid", months=_list({})))},
    {
        "from": "2026-11",
        "to": "2026-11",
        "currencies": [
            {
                "currency": "BRL",
                "due": "310.90",
                "paid": "100.00",
                "unpaid": "210.90",
                "months": [
                    {"month": "2026-11", "due": "310.90", "paid": "100.00", "unpaid": "210.90", "balance": "210.90"}
                ],
            }
        ],
    },
)
