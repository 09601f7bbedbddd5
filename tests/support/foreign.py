"""Requests with another tenant's values, made from the edge's own OpenAPI document: every route, parameter and field.

Each try is sent twice by the same tenant, once with a value of another tenant and once with one that nobody has. The
answers must be alike to the byte, but for what the sender said itself and what the server makes anew.
"""

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.belongings import Belongings, bill_of, like_cursor

METHODS = ("get", "post", "patch", "put", "delete")
SCHEME_OF = {"appKeyHeader": "app", "readKeyHeader": "read", "writeKeyHeader": "write"}
ANSWER_S = 30.0
SENT_MIN = 6  # characters

# Places of a request: (where, name) -> the name of the value in Belongings that fits there.
VALUE_OF = {
    ("path", "bill_id"): "bill_id", ("path", "occurrence_id"): "occurrence_id", ("path", "gateway"): "gateway",
    ("query", "type"): "type", ("query", "status"): "status", ("query", "category"): "category",
    ("query", "user_id"): "user_id", ("query", "currency"): "currency", ("query", "order_id"): "order_id",
    ("query", "gateway"): "gateway", ("query", "due_from"): "day", ("query", "due_to"): "day_before",
    ("query", "month"): "month", ("query", "at_least"): "at_least", ("query", "from"): "moment",
    ("query", "to"): "before",
    ("header", "If-Match"): "version",
    **{("body", name): name for name in (
        "user_id", "category", "description", "amount", "currency", "due_date", "version", "event_id", "session_id",
        "click_id", "url", "referrer", "utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "fbclid",
        "gclid", "fbp", "fbc", "email", "phone", "id",
    )},
    ("header", "X-HOTMART-HOTTOK"): "hottok",
    # Places that the edge does not read: who fills them must learn nothing and change nothing.
    ("query", "tenant_id"): "tenant_id", ("header", "X-Tenant-Id"): "tenant_id", ("body", "tenant_id"): "tenant_id",
}  # fmt: skip
# Values made for one route: by its path, or by the kind of its change.
CURSOR, KEY = ("query", "cursor"), ("header", "Idempotency-Key")
# What names nobody's rows: sent with a value that shows as much as it can.
WIDEST: dict[tuple[str, str], Any] = {
    ("query", "limit"): "500", ("query", "sort"): "-due_date", ("query", "by"): "day", ("query", "months"): "36",
    ("body", "installments"): 3, ("body", "recurrence"): "none", ("body", "count"): None, ("body", "until"): None,
    ("body", "status"): "cancelled", ("body", "paid_at"): "2026-01-01T00:00:00Z", ("body", "event_type"): "click",
    ("body", "occurred_at"): None, ("body", "sent_at"): None, ("body", "value"): "1.00",
    ("body", "consent_ads"): True, ("body", "properties"): {"a": 1}, ("body", "events"): None,
}  # fmt: skip
UNDECLARED = (("query", "tenant_id"), ("header", "X-Tenant-Id"), ("body", "tenant_id"))
OF_GATEWAY = (("header", "X-HOTMART-HOTTOK"), ("body", "id"))  # what a gateway sends, which OpenAPI leaves open
# Without these a question would be refused, or its range would depend on the clock.
ASKED = {
    "/tracking/summary": {"by": "day", "from": "2026-01-01T00:00:00Z", "to": "2026-05-01T00:00:00Z"},
    "/analytics/month": {"month": "2031-01"},
    "/analytics/categories": {"from": "2031-01-01", "to": "2031-12-31"},
    "/analytics/cashflow": {"from": "2031-01", "to": "2031-12"},
}
# `from` and `to` are moments, days or months, by the question.
SPAN_OF = {
    ("/analytics/categories", "from"): "day", ("/analytics/categories", "to"): "day_before",
    ("/analytics/cashflow", "from"): "month", ("/analytics/cashflow", "to"): "month_before",
}  # fmt: skip
CHANGES = {
    ("post", "/bills"): "post /bills", ("patch", "/bills/{bill_id}"): "patch bill",
    ("delete", "/bills/{bill_id}"): "delete", ("patch", "/occurrences/{occurrence_id}"): "patch occurrence",
    ("post", "/occurrences/{occurrence_id}/pay"): "pay", ("post", "/occurrences/{occurrence_id}/unpay"): "unpay",
}  # fmt: skip
# What is made anew for each answer, and may differ between two of them.
MADE_ANEW = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)"), "<time>"),
    (re.compile(r'"version_token":"[\w-]+"'), "<token>"),
    (re.compile(r"sha256:[0-9a-f]{64}"), "<hash>"),
)
OWN_HEADERS = ("date", "afluente-version-token", "content-length")  # the last: of a body that is compared

Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Operation:
    """A route with the places that its document names. `kind`: of the key that it wants, "" for none."""

    method: str
    path: str
    kind: str
    places: tuple[Place, ...]
    has_body: bool

    @property
    def name(self) -> str:
        return f"{self.method.upper()} {self.path}"

    @property
    def changes(self) -> bool:
        return self.method != "get"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it is sent."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any = None

    def send(self, client: httpx.Client) -> httpx.Response:
        """The answer; redirections are not followed."""
        given = {"content": json.dumps(self.body)} if self.body is not None else {}
        return client.request(self.method.upper(), self.path, params=self.query, headers=self.headers, **given)

    def says(self, text: str) -> bool:
        """Whether the sender itself named it."""
        return text in json.dumps([self.path, self.query, self.headers, self.body])


class NotCovered(LookupError):  # noqa: N818 - what the document is
    """The document names something for which there is no other tenant's value."""


def operations(document: Mapping[str, Any]) -> list[Operation]:
    """Every operation of the document. NotCovered names a place that the tables above do not know."""
    return [
        _operation(document, method, path, item[method])
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item
    ]


def _operation(document: Mapping[str, Any], method: str, path: str, described: Mapping[str, Any]) -> Operation:
    schemes = {name for choice in described.get("security", ()) for name in choice}
    kinds = {SCHEME_OF[name] for name in schemes if name in SCHEME_OF}
    if len(kinds) > 1 or (schemes and not kinds):
        raise NotCovered(f"{method} {path}: whose key is it? {sorted(schemes)}")
    places = [(one["in"], one["name"]) for one in described.get("parameters", ())]
    content = described.get("requestBody", {}).get("content", {}).get("application/json", {})
    places += [("body", name) for name in sorted(_fields(document, content.get("schema", {})))]
    for place in places:
        if place not in VALUE_OF and place not in WIDEST and place not in {CURSOR, KEY}:
            raise NotCovered(f"{method} {path}: {place} has no value of another tenant")
    if KEY in places and (method, path) not in CHANGES:
        raise NotCovered(f"{method} {path}: no Idempotency-Key of another tenant was used on it")
    has_body = "requestBody" in described
    extra = [place for place in UNDECLARED if kinds and (has_body or place[0] != "body")]
    extra += OF_GATEWAY if path == "/webhooks/{gateway}" else ()
    return Operation(method, path, next(iter(kinds), ""), (*places, *extra), has_body)


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any]) -> set[str]:
    """The names of all fields that a body may have, at any depth of arrays and alternatives."""
    if "$ref" in schema:
        target: Any = document
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return _fields(document, target)
    found = set(schema.get("properties", {}))
    inner = [*schema.get("oneOf", ()), *schema.get("anyOf", ()), schema.get("items", {})]
    inner += [one for one in schema.get("properties", {}).values() if one.get("type") == "array"]
    for one in inner:
        found |= _fields(document, one) if one else set()
    return found


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Who asks, whose values are tried, and what nobody has."""

    own: Belongings
    foreign: Belongings
    missing: Belongings

    def pair(self, operation: Operation, place: Place, client: httpx.Client) -> tuple[Request, Request]:
        """The same request of the tenant that asks, with a foreign and with a missing value in one place."""
        return self._with(operation, place, self.foreign, client), self._with(operation, place, self.missing, client)

    def own_request(self, operation: Operation) -> Request:
        """One that is right, of the tenant that asks, about what is its own."""
        return self._plain(operation, self.own)

    def asked_by_its_owner(self, operation: Operation, place: Place) -> tuple[Request, Request]:
        """The questions of `pair` as the other tenant asks them: to it the two values are not alike."""
        plain = self._plain(operation, self.foreign)
        return self._filled(operation, place, self.foreign, plain), self._filled(operation, place, self.missing, plain)

    def _with(self, operation: Operation, place: Place, of: Belongings, client: httpx.Client) -> Request:
        asker = self.own
        if operation.changes and "{" in operation.path and operation.kind == "app":
            asker = self._with_a_new_bill(client, paid=operation.path.endswith("/unpay"))
        return self._filled(operation, place, of, self._plain(operation, asker))

    def _with_a_new_bill(self, client: httpx.Client, *, paid: bool) -> Belongings:
        """The tenant that asks, with a bill that nothing has been done to yet."""
        answer = client.post("/bills", json=bill_of(self.own), headers=self.own.header("app"))
        assert answer.status_code == 201, answer.text
        bill = answer.json()
        part = bill["occurrences"][0]["id"]
        if paid:
            done = client.post(f"/occurrences/{part}/pay", headers=self.own.header("app"))
            assert done.status_code == 200, done.text
        return Belongings(self.own.tenant, {**self.own.values, "bill_id": bill["id"], "occurrence_id": part})

    def _plain(self, operation: Operation, asker: Belongings) -> Request:
        """A request of the tenant that would be right."""
        path = operation.path
        for name in re.findall(r"{(\w+)}", path):
            path = path.replace(f"{{{name}}}", asker.values[name])
        headers = {**asker.header(operation.kind)}
        body: Any = None
        if path.startswith("/webhooks"):
            headers["X-HOTMART-HOTTOK"] = asker.values["hottok"]
            body = {"id": secrets.token_hex(18), "event": "PURCHASE_APPROVED"}
        elif operation.kind == "write":
            body = {"event_id": f"own-{secrets.token_hex(8)}"} | (
                {"event_type": "click"} if operation.path.endswith("batch") else {}
            )
        elif operation.path == "/bills" and operation.changes:
            body = bill_of(asker)
        elif operation.changes:
            needs_version = operation.method != "post"
            body = {"version": 1} if needs_version else {}
            body |= {"user_id": asker.values["user_id"]} if operation.method == "patch" else {}
        return Request(operation.method, path, dict(ASKED.get(operation.path, {})), headers, body)

    def _filled(self, operation: Operation, place: Place, of: Belongings, plain: Request) -> Request:
        where, name = place
        value = self._value(operation, place, of)
        if where == "path":
            path = operation.path.replace(f"{{{name}}}", str(value))
            return Request(plain.method, path, plain.query, plain.headers, plain.body)
        if where == "query":
            alone = {"limit": "1"} if place == CURSOR else {}
            return Request(plain.method, plain.path, {**plain.query, **alone, name: value}, plain.headers, plain.body)
        if where == "header":
            body = plain.body
            if name == "If-Match" and isinstance(body, dict):
                body = {field: sent for field, sent in body.items() if field != "version"}
            return Request(plain.method, plain.path, plain.query, {**plain.headers, name: value}, body)
        body = {**plain.body} if value is None else {**plain.body, name: int(value) if name == "version" else value}
        return Request(plain.method, plain.path, plain.query, plain.headers, body)

    def _value(self, operation: Operation, place: Place, of: Belongings) -> Any:
        if place == CURSOR:
            theirs = self.foreign.cursors[operation.path]
            return theirs if of is self.foreign else like_cursor(theirs)
        if place == KEY:
            theirs = self.foreign.keys[CHANGES[operation.method, operation.path]]
            return theirs if of is self.foreign else secrets.token_hex(len(theirs))[: len(theirs)]
        if place in WIDEST:
            return WIDEST[place]
        if place == ("query", "type") and operation.path == "/sales":
            return of.values["sale_type"]
        return of.values[SPAN_OF.get((operation.path, place[1]), VALUE_OF[place])]


def seen(answer: httpx.Response, request: Request) -> dict[str, Any]:
    """An answer without what its sender said and what is made anew for each."""
    sent = [*request.path.split("/"), *request.query.values(), *_leaves(request.body), *_leaves(request.headers)]
    texts = sorted({str(value) for value in sent if value}, key=len, reverse=True)

    def plain(text: str) -> str:
        for value in texts:
            # Three letters stand in any text by chance: a currency counts where it is a whole value.
            text = text.replace(value, "<sent>") if len(value) >= SENT_MIN else text.replace(f'"{value}"', '"<sent>"')
        for pattern, name in MADE_ANEW:
            text = pattern.sub(name, text)
        return text

    headers = sorted((name, plain(value)) for name, value in answer.headers.items() if name not in OWN_HEADERS)
    return {"status": answer.status_code, "headers": headers, "body": plain(answer.text)}


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif value is not None:
        yield value


def shown(answer: httpx.Response, request: Request, foreign: Belongings) -> list[str]:
    """What of the other tenant is in an answer, though the sender did not name it."""
    whole = answer.text + "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
    return [mark for mark in foreign.marks() if mark in whole and not request.says(mark)]
