"""Sealed secrets and pseudonyms: what is stored tells nothing without the master key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.pseudonym import Pseudonymiser
from app.sealing import Sealer, Unsealable, derive

MASTER = bytes(range(32))
OTHER = bytes(range(1, 33))


@given(st.binary(max_size=500), st.text())
def test_a_box_opens_in_its_own_place_only(secret: bytes, place: str) -> None:
    """Another place, another master key, another purpose or one flipped bit, and the box stays shut."""
    box = Sealer(MASTER, "a").seal(secret, place)
    assert Sealer(MASTER, "a").open(box, place) == secret
    flipped = box[:-1] + bytes([box[-1] ^ 1])
    for sealer, wrong, where in (
        (Sealer(MASTER, "a"), box, place + "x"),
        (Sealer(OTHER, "a"), box, place),
        (Sealer(MASTER, "b"), box, place),
        (Sealer(MASTER, "a"), flipped, place),
        (Sealer(MASTER, "a"), b"", place),
    ):
        with pytest.raises(Unsealable):
            sealer.open(wrong, where)


@given(st.binary(max_size=100))
def test_the_same_secret_is_never_sealed_alike(secret: bytes) -> None:
    """Nonces are fresh: equal secrets cannot be told by their boxes."""
    sealer = Sealer(MASTER, "a")
    assert sealer.seal(secret, "p") != sealer.seal(secret, "p")


def test_keys_of_purposes_and_salts_differ() -> None:
    """One master key, many keys, none derivable from another."""
    keys = {derive(MASTER, purpose, salt) for purpose in ("a", "b") for salt in (b"", b"x", b"y")}
    assert len(keys) == 6


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("(11) 98765-4321", "+55 11 98765-4321"),
        ("11987654321", "5511987654321"),
        ("+1 650-253-0000", "+16502530000"),
    ],
)
def test_a_phone_is_one_however_it_is_written(one: str, same: str) -> None:
    """Separators and the country code of Brazil do not make another person."""
    people = Pseudonymiser(MASTER)
    assert people.phone("t", one) == people.phone("t", same) != ""


def test_people_differ_between_tenants_keys_and_kinds() -> None:
    """The same text under another tenant, another master key or another kind is another hash."""
    people = Pseudonymiser(MASTER)
    hashes = {
        people.email("t", "a@b.com"),
        people.email("u", "a@b.com"),
        Pseudonymiser(OTHER).email("t", "a@b.com"),
        people.document("t", "11987654321"),
        people.phone("t", "11987654321"),
    }
    assert len(hashes) == 5
    assert all(len(found) == 64 for found in hashes)


@given(st.text(max_size=400))
def test_any_text_is_a_hash_or_nothing(text: str) -> None:
    """No input breaks a pseudonym, and none is repeated in it."""
    people = Pseudonymiser(MASTER)
    for found in (people.email("t", text), people.phone("t", text), people.document("t", text)):
        assert found == "" or (len(found) == 64 and set(found) <= set("0123456789abcdef"))


def test_repr_tells_nothing() -> None:
    """Neither key nor text shows."""
    assert repr(Pseudonymiser(MASTER)) == "Pseudonymiser(...)"
    assert repr(Sealer(MASTER, "a")) == "Sealer(...)"
