"""Laws of taking over a partition: where to go on follows from what Kafka and the state say; nothing is lost."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dedup import Applied
from app.ownership import NOTHING_COMMITTED, resume_at
from app.ranges import Range

HERE = "topic-id"


def span(first: int, last: int, topic_id: str = HERE) -> Range:
    return Range(topic_id, "tracking.collected", 3, first, last, 1)


class Case(NamedTuple):
    """What is known of a partition, and where its new owner must go on."""

    why: str
    committed: int
    pending: Range | None
    applied: int | None
    earliest: int
    resume: int
    replays: bool = False


CASES = (
    Case("a fresh group reads all there is", -1, None, None, 0, 0),
    Case("a fresh group begins where retention ends", -1, None, None, 40, 40),
    Case("a calm end: go on at the commit", 100, None, None, 0, 100),
    Case("a calm end with the state at hand", 100, None, 99, 0, 100),
    Case("retention has passed the commit", 100, None, 99, 150, 150),
    Case("killed in flight: replay the range", 100, span(100, 149), None, 0, 100, True),
    Case("killed in flight, the state just below it", 100, span(100, 149), 99, 0, 100, True),
    Case("killed in flight, the state far behind it", 100, span(100, 149), 30, 0, 100, True),
    Case("a rebuilt table reaches into the range", 100, span(100, 149), 120, 0, 100, True),
    Case("the state lacks the last record only", 100, span(100, 149), 148, 0, 100, True),
    Case("killed between remember and commit", 100, span(100, 149), 149, 0, 150),
    Case("the state is past the range", 100, span(100, 149), 180, 0, 181),
    Case("the last commit was lost, the state has it", 100, None, 149, 0, 150),
    Case("retention has taken the head of the range", 100, span(100, 149), None, 120, 120, True),
    Case("one record of the range is left", 100, span(100, 149), None, 149, 149, True),
    Case("retention has passed the whole range", 100, span(100, 149), None, 150, 150),
    Case("retention has passed range and state", 100, span(100, 149), 149, 300, 300),
    Case("durable, and retention has taken its head", 100, span(100, 149), 149, 120, 150),
    Case("a range of one record", 100, span(100, 100), None, 0, 100, True),
    Case("a range of one record, durable", 100, span(100, 100), 100, 0, 101),
    Case("the range is of another incarnation", 100, span(100, 149, "old"), None, 0, 0),
    Case("another incarnation, which has been read here", 100, span(100, 149, "old"), 9, 0, 10),
    Case("another incarnation, retention at work", 100, span(100, 149, "old"), None, 20, 20),
    Case("no commit and yet a state", -1, None, 49, 0, 50),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.why)
def test_each_case_of_taking_over(case: Case) -> None:
    """The committed offset, the pending range, the local state and retention together say where to go on."""
    applied = None if case.applied is None else Applied(HERE, case.applied)
    expected = (case.resume, case.pending if case.replays else None)
    assert resume_at((case.committed, case.pending), applied, HERE, case.earliest) == expected


OFFSETS = st.integers(0, 60)


class Known(NamedTuple):
    """What a new owner finds: consistent with the loop, whatever was killed when."""

    committed: int
    pending: Range | None
    applied: Applied | None
    earliest: int


@st.composite
def positions(draw: st.DrawFn) -> Known:
    """A pending range begins at the commit: step 2 writes both in one request."""
    committed = draw(st.one_of(st.just(NOTHING_COMMITTED), OFFSETS))
    pending = None
    if committed != NOTHING_COMMITTED and draw(st.booleans()):
        pending = span(committed, committed + draw(st.integers(0, 20)), draw(st.sampled_from([HERE, "old"])))
    applied = draw(st.one_of(st.none(), st.builds(Applied, st.just(HERE), OFFSETS)))
    return Known(committed, pending, applied, draw(OFFSETS))


@given(positions())
def test_nothing_is_skipped(known: Known) -> None:
    """It never goes on above the commit unless the local state covers the difference, or retention has taken it."""
    committed, pending, applied, earliest = known
    resume, _ = resume_at((committed, pending), applied, HERE, earliest)
    covered = applied.offset + 1 if applied is not None else 0
    assert resume <= max(committed, earliest, covered)


@given(positions())
def test_it_never_begins_below_what_the_topic_has(known: Known) -> None:
    """A position below the log would be reset by the client, out of our sight."""
    resume, _ = resume_at((known.committed, known.pending), known.applied, HERE, known.earliest)
    assert resume >= known.earliest


@given(positions())
def test_a_commit_of_this_topic_is_never_undone(known: Known) -> None:
    """What is durable is not read again, unless the commit was made for another incarnation of the topic."""
    resume, _ = resume_at((known.committed, known.pending), known.applied, HERE, known.earliest)
    if known.pending is None or known.pending.topic_id == HERE:
        assert resume >= known.committed


@given(positions())
def test_a_range_is_replayed_exactly_when_it_must_be(known: Known) -> None:
    """In flight, of this topic, with records left, and not known to be durable: then, and only then, it is replayed."""
    committed, pending, applied, earliest = known
    resume, replay = resume_at((committed, pending), applied, HERE, earliest)
    left = pending is not None and pending.topic_id == HERE and pending.last >= earliest
    durable = left and pending is not None and applied is not None and applied.offset >= pending.last
    assert (replay is not None) == (left and not durable)
    if replay is not None:
        # The bounds stay those of the first attempt: the token is made of them.
        assert replay == pending
        assert resume == max(replay.first, earliest)


@given(positions())
def test_taking_over_twice_is_taking_over_once(known: Known) -> None:
    """A worker killed while it prepares leaves the next one in the same place."""
    resume, replay = resume_at((known.committed, known.pending), known.applied, HERE, known.earliest)
    again = resume_at((resume, replay and span(resume, replay.last)), known.applied, HERE, known.earliest)
    assert again[0] == resume
    assert (again[1] is None) == (replay is None)


def test_the_table_sees_a_planted_fault() -> None:
    """The cases above can fail: a worker that trusts the commit alone would replay what is durable already."""
    naive = [max(case.committed, case.earliest) for case in CASES]
    assert naive != [case.resume for case in CASES]
