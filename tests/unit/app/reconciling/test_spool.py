"""Keys on disk: nothing is lost, and no chunk mixes what is asked apart."""

from hypothesis import given
from hypothesis import strategies as st

from app.reconciling.bisect import BUCKET_ROWS, DIGITS_MAX, digits_for
from app.reconciling.rows import Key
from app.reconciling.spool import Candidate, Spool

KEYS = st.builds(Key, st.sampled_from(["bills", "bill_occurrences"]), st.sampled_from("ab"), st.sampled_from("xyz"))
CANDIDATES = st.builds(Candidate, KEYS, st.integers(197_001, 214_906), st.integers(-1, 2**63))


@given(st.lists(CANDIDATES, max_size=40), st.integers(1, 5))
def test_what_is_spooled_comes_back_in_order_and_in_chunks_of_one_tenant(given_: list[Candidate], most: int) -> None:
    """Each chunk is one question to each database: one table, one tenant, so many ids at most."""
    with Spool() as spool:
        for candidate in given_:
            spool.add(candidate)
        chunks = list(spool.chunks(most))
    assert spool.count == len(given_)
    assert [candidate for chunk in chunks for candidate in chunk] == given_
    assert all(1 <= len(chunk) <= most and len({one.key[:2] for one in chunk}) == 1 for chunk in chunks)


@given(st.integers(0, 10**8))
def test_buckets_are_small_until_there_are_too_many_of_them(rows: int) -> None:
    """A bucket of a month holds about BUCKET_ROWS rows, as long as DIGITS_MAX digits can make that many buckets."""
    digits = digits_for(rows)
    assert 0 <= digits <= DIGITS_MAX
    assert rows / 16**digits <= BUCKET_ROWS or digits == DIGITS_MAX
    assert digits == 0 or rows / 16 ** (digits - 1) > BUCKET_ROWS
