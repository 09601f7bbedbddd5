"""Rates, bytes in flight and cursors: pure rules with a clock in the hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cursor import Cursors, Place
from api.errors import Refusal
from api.limits import InFlight, Rates
from app.credentials import Credential


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    st.floats(0.5, 1_000),
    st.lists(st.tuples(st.floats(0, 2), st.integers(1, 1_000)), min_size=1, max_size=50),
)
def test_no_tenant_passes_its_rate_by_more_than_a_second_and_one_request(
    rate: float, requests: list[tuple[float, int]]
) -> None:
    """Over any run, admitted events stay within rate * time + one second's worth + the last request."""
    clock = Clock()
    rates = Rates(clock)
    credential = Credential("t", "write", rate_limit_per_s=rate)
    admitted = 0
    for pause, events in requests:
        clock.now += pause
        try:
            rates.spend(credential, events)
        except Refusal as refusal:
            assert refusal.status == 429
            assert int(refusal.headers["Retry-After"]) >= 1
        else:
            assert admitted <= rate * clock.now + max(rate, 1.0) + 1e-6
            admitted += events


def test_after_retry_after_the_tenant_is_served() -> None:
    """Who waits as long as it was told is admitted."""
    clock = Clock()
    rates = Rates(clock)
    credential = Credential("t", "write", rate_limit_per_s=3)
    rates.spend(credential, 100)
    with pytest.raises(Refusal) as caught:
        rates.spend(credential, 1)
    clock.now += int(caught.value.headers["Retry-After"]) + 0.001
    rates.spend(credential, 1)


def test_without_a_limit_nothing_is_counted() -> None:
    """Unlimited is the default."""
    rates = Rates(Clock())
    for _ in range(100):
        rates.spend(Credential("t", "write"), 1_000)


@given(st.lists(st.integers(1, 100), max_size=20))
def test_held_bytes_are_given_back(sizes: list[int]) -> None:
    """However a request ends, it leaves nothing held."""
    flights = InFlight(500)
    try:
        with flights.hold() as hold:
            for size in sizes:
                hold.take(size)
            assert flights.bytes == sum(sizes) <= 500
    except Refusal as refusal:
        assert refusal.status == 503
    assert flights.bytes == 0


@given(st.integers(-(2**62), 2**62), st.text(st.characters(codec="utf-8"), max_size=128), st.text(max_size=50))
def test_a_cursor_comes_back_in_its_own_scope_only(ms: int, event_id: str, scope: str) -> None:
    """A cursor is read as it was written, and in no other list."""
    cursors = Cursors(b"k" * 32)
    text = cursors.write(scope, Place(ms, event_id))
    assert cursors.read(scope, text) == Place(ms, event_id)
    for other_scope, other in ((scope + "x", cursors), (scope, Cursors(b"j" * 32))):
        with pytest.raises(Refusal):
            other.read(other_scope, text)


@given(st.text(max_size=100))
def test_no_text_is_taken_for_a_cursor(text: str) -> None:
    """Forged cursors are 422."""
    with pytest.raises(Refusal) as caught:
        Cursors(b"k" * 32).read("scope", text)
    assert caught.value.status == 422
