"""The version token: what is written is read, and nothing else is."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import version_token
from api.errors import Refusal
from api.version_token import Written

ROWS = st.builds(
    Written, st.sampled_from(["bills", "bill_occurrences"]), st.uuids(), st.integers(1, (1 << 63) - 1), st.booleans()
)


@given(st.lists(ROWS, min_size=1, max_size=version_token.ROWS_MAX))
def test_a_token_is_read_as_it_was_written(rows: list[Written]) -> None:
    """Table, id, version and deletion come back, within the length that is allowed."""
    token = version_token.write(rows)
    assert version_token.read(token) == tuple(rows)
    assert len(token) <= version_token.CHARACTERS_MAX


@given(st.one_of(st.text(max_size=600), st.binary(max_size=300).map(lambda raw: raw.hex())))
def test_what_is_no_token_is_refused(text: str) -> None:
    """Any other text is 422 at its pointer, never an exception of another kind."""
    try:
        rows = version_token.read(text)
    except Refusal as refusal:
        assert (refusal.status, refusal.errors[0]["pointer"]) == (422, "/query/at_least")
    else:
        assert version_token.write(rows) == text.rstrip("=")


def test_a_changed_token_is_refused() -> None:
    """An empty one, one cut short and one of another shape are no tokens."""
    row = version_token.write(version_token.read(version_token.write([Written("bills", UUID(int=1), 1)])))
    for bad in ("", row[:-1], row[1:], "Ag" + row[2:], row + "AAAA", "é"):
        with pytest.raises(Refusal):
            version_token.read(bad)
