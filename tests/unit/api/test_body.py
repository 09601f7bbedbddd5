"""Strict JSON and gzip: the parser takes what two strict parsers agree on, and refuses the rest with a 4xx."""

import gzip
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from api import body
from api.errors import Refusal
from api.limits import InFlight

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


def request(headers: dict[str, str] | None = None) -> Request:
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request({"type": "http", "headers": raw})


def code_of(raw: bytes) -> str:
    with pytest.raises(Refusal) as caught:
        body.parse(raw)
    assert 400 <= caught.value.status < 500
    return caught.value.code


@given(JSON, st.booleans(), st.integers(0, 3))
def test_any_document_is_read_as_the_standard_parser_reads_it(document: Any, ascii_only: bool, indent: int) -> None:
    """However a document is escaped and spaced, parse gives what json.loads gives."""
    raw = json.dumps(document, ensure_ascii=ascii_only, indent=indent or None).encode()
    assert body.parse(raw) == json.loads(raw)


@given(JSON, st.text(st.sampled_from('ab:"\\é'), max_size=5), JSON, st.booleans())
def test_a_name_twice_is_refused_wherever_and_however_it_is_written(
    inner: Any, name: str, again: Any, escaped: bool
) -> None:
    """No escape and no depth hides a repeated name: with one, senders and readers would see different events."""
    first = json.dumps(name, ensure_ascii=escaped)
    second = '"' + "".join(f"\\u{ord(c):04x}" for c in name) + '"'
    raw = f'{{"x":[{{{first}:{json.dumps(inner)},{second}:{json.dumps(again)}}}]}}'.encode()
    assert code_of(raw) == "repeated_name"


@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_a_refusal(raw: bytes) -> None:
    """Whatever arrives is a document or a Refusal, never another exception."""
    try:
        body.parse(raw)
    except Refusal as refusal:
        assert 400 <= refusal.status < 500


@pytest.mark.parametrize("depth", [300, 900, 1_100, 100_000])
@pytest.mark.parametrize("name", [b'{"a":', b"["])
def test_depth_is_refused(depth: int, name: bytes) -> None:
    """Deep nesting is refused by every path of the parser."""
    end = b"}" if name.startswith(b"{") else b"]"
    assert code_of(name * depth + b"1" + end * depth) in {"too_deep", "not_json"}
    assert code_of(b'{"\\u003a":' + name * depth + b"1" + end * depth + b"}") in {"too_deep", "not_json"}


def test_gzip_members_are_joined_and_counted() -> None:
    """Streams joined end to end are one body; what they hold is counted and given back."""
    flights = InFlight(1_000)
    with flights.hold() as hold:
        raw = gzip.compress(b'{"a":') + gzip.compress(b"1}")
        assert body.inflate(raw, request(), hold) == b'{"a":1}'
        assert flights.bytes == 7
    assert flights.bytes == 0


def test_inflating_beyond_what_is_in_flight_is_503() -> None:
    """Inflated bytes count against the limit of all requests."""
    with InFlight(100).hold() as hold, pytest.raises(Refusal) as caught:
        body.inflate(gzip.compress(bytes(1_000)), request(), hold)
    assert (caught.value.status, caught.value.code) == (503, "busy")


def test_too_many_members_are_refused() -> None:
    """A body of thousands of tiny streams costs no more than a few."""
    with InFlight(10_000).hold() as hold, pytest.raises(Refusal) as caught:
        body.inflate(gzip.compress(b"") * 1_000, request(), hold)
    assert caught.value.code == "not_gzip"


@given(st.binary(max_size=100).map(lambda tail: b"\x1f\x8b" + tail))
def test_damaged_gzip_is_400(raw: bytes) -> None:
    """Anything that begins like gzip is inflated whole or refused."""
    with InFlight(1 << 20).hold() as hold:
        try:
            body.inflate(raw, request(), hold)
        except Refusal as refusal:
            assert refusal.status in {400, 413}


def test_the_fast_way_and_the_slow_way_agree_on_plain_bodies() -> None:
    """A colon in text, written plainly, does not look like a repeated name."""
    raw = orjson.dumps([{"url": "https://x:1/", "n": {"a:b": ":"}}])
    assert body.parse(raw) == orjson.loads(raw)
