"""A webhook's body, parsed strictly and read by name: between the raw bytes of gateway.received and a gateway's reader.

Strict: UTF-8, one JSON object, numbers exact (never a float), no key twice, bounded in size and depth. Whatever is not
as it must be raises Poison with the JSON pointer of the place and what is allowed there, never with what stood there:
that could be a person's.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from app.errors import Poison
from schemas.tracking_sales import ID_CHARS_MAX, TEXT_CHARS_MAX

BODY_BYTES_MAX = 1 << 20  # what the edge accepts
DEPTH_MAX = 32  # real webhooks nest six deep
NUMBER_CHARS_MAX = 40  # longer than any amount, id or time; bounds the work of an exact conversion
EVENT_NAME = re.compile(r"[A-Za-z][A-Za-z_.]{0,63}")  # a name that may be shown in an error
FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class Part:
    """One JSON object of a body and where it stands. An absent object reads as an empty one."""

    fields: Mapping[str, Any]
    pointer: str = ""

    def at(self, name: str) -> str:
        """The JSON pointer of a field."""
        return f"{self.pointer}/{name}"

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.fields.get(name) is not None

    def part(self, name: str) -> "Part":
        """The object under that name."""
        value = self.fields.get(name)
        if value is None:
            return Part({}, self.at(name))
        if not isinstance(value, dict):
            self.refuse("wrong_type", name, "an object")
        return Part(value, self.at(name))

    def text(self, name: str, chars_max: int = TEXT_CHARS_MAX) -> str:
        """The text under that name without the space around it; a whole number as its digits; empty when absent."""
        value = self.fields.get(name)
        if value is None:
            return ""
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            self.refuse("wrong_type", name, "a text")
        text: str = value.strip()
        if len(text) > chars_max:
            self.refuse("too_long", name, f"at most {chars_max} characters")
        return text

    def identifier(self, name: str) -> str:
        """A text that names something, so it must be there and short."""
        text = self.text(name, ID_CHARS_MAX)
        if not text:
            self.refuse("missing_field", name, f"a text of 1 to {ID_CHARS_MAX} characters")
        return text

    def whole(self, name: str, highest: int) -> int | None:
        """A whole number from 0 to `highest`, as a number or as digits (gateways send both); None when absent."""
        value = self.fields.get(name)
        if value is None or value == "":
            return None
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= NUMBER_CHARS_MAX:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= highest:
            self.refuse("bad_number", name, f"a whole number from 0 to {highest}")
        return value

    def only(self, *names: str) -> None:
        """Refuse any field but these: in our own schema an unknown name is a mistake, not an extension."""
        for name in self.fields:
            if name not in names:
                shown = self.at(name) if FIELD_NAME.fullmatch(name) else f"{self.pointer}/(a name not shown)"
                raise Poison("unknown_field", f"{shown}: allowed here are {', '.join(names)}")

    def refuse(self, reason: str, name: str, allowed: str) -> NoReturn:
        """Poison, because of the field of that name."""
        raise Poison(reason, f"{self.at(name)}: must be {allowed}")


def parse(body: bytes) -> Part:
    """The body as a Part, or Poison: too_large, not_utf8, not_json, duplicate_key, bad_number, too_deep, bad_text."""
    if len(body) > BODY_BYTES_MAX:
        raise Poison("too_large", f"the body must be at most {BODY_BYTES_MAX} bytes")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise Poison("not_utf8", "the body must be JSON in UTF-8") from None
    try:
        value = json.loads(
            text, parse_float=_decimal, parse_int=_integer, parse_constant=_constant, object_pairs_hook=_object
        )
    except ValueError as error:
        place = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise Poison("not_json", f"the body must be one JSON object{place}") from None
    except RecursionError:
        raise Poison("too_deep", f"the body must nest at most {DEPTH_MAX} deep") from None
    if not isinstance(value, dict):
        raise Poison("not_an_object", "the body must be one JSON object")
    _check(value)
    return Part(value)


def show(name: str) -> str:
    """An event's name for an error: in clear when it looks like one, since it cannot be a person's then."""
    return name if EVENT_NAME.fullmatch(name) else "(a name not shown)"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Poison("duplicate_key", "a key stands twice in one object; each may stand once")
    return found


def _decimal(digits: str) -> Decimal:
    try:
        if len(digits) <= NUMBER_CHARS_MAX:
            return Decimal(digits)
    except InvalidOperation:
        pass
    raise Poison("bad_number", f"numbers must be at most {NUMBER_CHARS_MAX} characters")


def _integer(digits: str) -> int:
    if len(digits) > NUMBER_CHARS_MAX:
        raise Poison("bad_number", f"numbers must be at most {NUMBER_CHARS_MAX} characters")
    return int(digits)


def _constant(name: str) -> NoReturn:
    raise Poison("bad_number", f"{name} is not JSON; numbers must be finite")


def _check(root: dict[str, Any]) -> None:
    """Depth, and text that is no Unicode (a lone surrogate, which JSON can spell and UTF-8 cannot)."""
    level: list[Any] = [root]
    for _ in range(DEPTH_MAX):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.keys())
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, str) and not value.isascii():
                _check_text(value)
        if not below:
            return
        level = below
    if any(isinstance(value, (dict, list)) for value in level):
        raise Poison("too_deep", f"the body must nest at most {DEPTH_MAX} deep")
    for value in level:
        if isinstance(value, str):
            _check_text(value)


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Poison("bad_text", "texts must be Unicode without lone surrogates") from None
