"""The Bloom filter of event ids: it lacks nothing that went in, and takes few others for known."""

import os
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bloom import ID_BYTES, Bloom

FALSE_MAX = 0.03  # of absent ids, at full capacity; 0.013 by the formula for blocks of one word


def made(count: int, seed: bytes = b"") -> list[bytes]:
    return [blake2b(seed + number.to_bytes(8, "big"), digest_size=ID_BYTES).digest() for number in range(count)]


@given(st.lists(st.binary(min_size=ID_BYTES, max_size=ID_BYTES)), st.integers(1, 200))
def test_what_went_in_is_never_denied(ids: list[bytes], capacity: int) -> None:
    """Whatever the ids, and however many for its size: "never added" is never said of one that was."""
    bloom = Bloom(capacity)
    bloom.add(b"".join(ids))
    assert bloom.perhaps(b"".join(ids)).all()
    assert bloom.count == len(ids)


@pytest.mark.parametrize("capacity", [65_536, 1_000_003])
def test_absent_ids_are_told_from_known_ones(capacity: int) -> None:
    """Full to its capacity, a filter of any size knows nearly all absent ids for absent."""
    bloom = Bloom(capacity)
    bloom.add(os.urandom(ID_BYTES * capacity))
    assert bloom.perhaps(b"".join(made(20_000))).mean() < FALSE_MAX


def test_a_new_filter_knows_nothing() -> None:
    """Before anything went in, every id is absent; no id is no answer."""
    bloom = Bloom(10)
    assert not bloom.perhaps(b"".join(made(1_000))).any()
    assert len(bloom.perhaps(b"")) == 0


def test_ids_are_sixteen_bytes() -> None:
    """Bytes that are no whole ids are refused, and not cut."""
    with pytest.raises(ValueError, match=r"multiple|reshape"):
        Bloom(10).add(b"short")
