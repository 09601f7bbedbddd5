"""Laws of the accumulator: however records arrive, batches are the stream, cut within bounds, in time, or exactly."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.batch import LINGER_S_MAX, RECORD_OVERHEAD_BYTES, Accumulator, Bounds, RecordBatch, records_bytes
from tests.support.records import SOURCE, PlainRecord

LINGER_S = 0.25
Polls = list[list[PlainRecord]]


@st.composite
def streams(draw: st.DrawFn, *, size_min: int = 0) -> list[PlainRecord]:
    """Records in offset order with holes, as compaction and control records leave them."""
    steps = draw(st.lists(st.integers(1, 3), min_size=size_min, max_size=30))
    sizes = draw(st.lists(st.integers(0, 400), min_size=len(steps), max_size=len(steps)))
    offsets: list[int] = []
    for step in steps:
        offsets.append((offsets[-1] if offsets else draw(st.integers(0, 5))) + step)
    return [PlainRecord(at, b"x" * size, None) for at, size in zip(offsets, sizes, strict=True)]


@st.composite
def polled(draw: st.DrawFn, records: list[PlainRecord]) -> Polls:
    """The same records, as any number of polls may return them, empty ones too."""
    cuts = sorted(draw(st.lists(st.integers(0, len(records)), max_size=6)))
    edges = [0, *cuts, len(records)]
    return [records[low:high] for low, high in pairwise(edges)]


BOUNDS = st.builds(
    Bounds,
    rows_max=st.integers(1, 8),
    bytes_max=st.integers(1, 4 * (RECORD_OVERHEAD_BYTES + 400)),
    linger_s=st.just(LINGER_S),
)


def drive(buffer: Accumulator, polls: Polls, gaps: Iterable[float]) -> Iterator[tuple[float, RecordBatch]]:
    """Feed the polls with time passing between them, as the transport does: cut what is due after each one."""
    now = 0.0
    for records, gap in zip(polls, gaps, strict=False):
        now += gap
        # The transport polls a partition only while it is not full.
        while buffer.full and (batch := buffer.cut(now)) is not None:
            yield now, batch
        buffer.add(records, now)
        while (batch := buffer.cut(now)) is not None:
            yield now, batch
    while (due := buffer.due_at()) is not None:
        now = max(now, due)
        batch = buffer.cut(now)
        assert batch is not None, "due, and yet nothing to cut"
        yield now, batch


def offsets(batches: Iterable[RecordBatch]) -> list[int]:
    return [record.offset for batch in batches for record in batch.records]


def within(batch: RecordBatch, bounds: Bounds) -> bool:
    """Rows and bytes are within bounds; a record that alone is too large goes alone."""
    size = records_bytes(batch.records)
    return len(batch.records) <= bounds.rows_max and (size <= bounds.bytes_max or len(batch.records) == 1)


GAPS = st.lists(st.floats(0, 2 * LINGER_S), min_size=8, max_size=8)


@given(st.data(), streams(), BOUNDS, GAPS)
def test_batches_joined_are_the_stream(
    draw: st.DataObject, records: list[PlainRecord], bounds: Bounds, gaps: list[float]
) -> None:
    """No split into polls, no bound and no timing may lose, double or reorder a record."""
    polls = draw.draw(polled(records))
    buffer = Accumulator(SOURCE, bounds)
    batches = [batch for _, batch in drive(buffer, polls, gaps)]
    assert offsets(batches) == [record.offset for record in records]
    assert (len(buffer), buffer.size_bytes) == (0, 0)
    for batch in batches:
        assert within(batch, bounds)
        assert (batch.first, batch.last) == (batch.records[0].offset, batch.records[-1].offset)
        assert not batch.replayed


@given(st.data(), streams(size_min=1), BOUNDS, GAPS)
def test_no_record_waits_longer_than_the_linger(
    draw: st.DataObject, records: list[PlainRecord], bounds: Bounds, gaps: list[float]
) -> None:
    """A buffer is due within the linger after its oldest record came, cuts in between notwithstanding."""
    buffer, came, now = Accumulator(SOURCE, bounds), dict[int, float](), 0.0
    for poll, gap in zip(draw.draw(polled(records)), gaps, strict=False):
        now += gap
        buffer.add(poll, now)
        came |= {record.offset: now for record in poll}
        # One cut at most: the partition is then in flight for a while, and what is left grows older.
        if draw.draw(st.booleans()) and (batch := buffer.cut(now)) is not None:
            for record in batch.records:
                del came[record.offset]
        due = buffer.due_at()
        assert (due is None) == (not came)
        if due is not None:
            assert due <= min(came.values()) + LINGER_S


@given(st.data(), streams(size_min=1), BOUNDS, st.booleans())
def test_a_full_buffer_is_due(draw: st.DataObject, records: list[PlainRecord], bounds: Bounds, replays: bool) -> None:
    """A full buffer is not polled, so it must give a batch at once: else the partition stands still for ever."""
    buffer = Accumulator(SOURCE, bounds)
    if replays:
        ends = sorted(draw.draw(st.tuples(st.integers(0, 40), st.integers(0, 40))))
        buffer.replay(ends[0], ends[1])
        records = [record for record in records if record.offset >= ends[0]]
    now = 0.0
    for poll in draw.draw(polled(records)):
        now += LINGER_S / 10
        buffer.add(poll, now)
        if buffer.full:
            due = buffer.due_at()
            assert due is not None
            assert due <= now
            assert buffer.cut(now) is not None


@dataclass(frozen=True)
class Replay:
    """A pending range, the records that are left of the topic from its first offset on, and how they arrive."""

    first: int
    last: int
    polls: Polls

    @property
    def left(self) -> list[int]:
        return [record.offset for poll in self.polls for record in poll]


@st.composite
def replays(draw: st.DrawFn) -> Replay:
    """Pending ranges with any part of their records gone, the first, the last and all included."""
    first = draw(st.integers(0, 20))
    last = first + draw(st.integers(0, 12))
    inside = draw(st.sets(st.integers(first, last)))
    # One later record at least: it is what shows that the end of the range has been passed.
    behind = draw(st.sets(st.integers(last + 1, last + 12), min_size=1))
    records = [PlainRecord(at, b"x" * draw(st.integers(0, 300)), None) for at in sorted(inside | behind)]
    return Replay(first, last, draw(polled(records)))


def check_replay(pending: Replay, batches: Sequence[RecordBatch]) -> None:
    """The first batch is the range, whole and exact, when anything is left of it; what follows is the rest."""
    inside = [at for at in pending.left if at <= pending.last]
    assert offsets(batches) == pending.left
    assert [batch.replayed for batch in batches] == [at == 0 and bool(inside) for at in range(len(batches))]
    if inside:
        assert (batches[0].first, batches[0].last) == (pending.first, pending.last)
        assert [record.offset for record in batches[0].records] == inside


@given(replays(), BOUNDS, GAPS)
def test_a_replay_has_exactly_the_bounds_of_its_first_attempt(
    pending: Replay, bounds: Bounds, gaps: list[float]
) -> None:
    """Holes, a missing end, a range that retention has passed: the token is made of the bounds, so they stay."""
    buffer = Accumulator(SOURCE, bounds)
    buffer.replay(pending.first, pending.last)
    check_replay(pending, [batch for _, batch in drive(buffer, pending.polls, gaps)])
    assert not buffer.replaying


@given(replays())
def test_a_replay_waits_for_its_end(pending: Replay) -> None:
    """As long as records of the range may still come nothing is cut, however old the first ones are."""
    buffer = Accumulator(SOURCE, Bounds(1, 1, 0.0))
    buffer.replay(pending.first, pending.last)
    for record in (record for poll in pending.polls for record in poll):
        if record.offset >= pending.last:
            return
        buffer.add([record], 0.0)
        assert buffer.cut(1e9) is None
        assert not buffer.full
        assert buffer.replaying


class CutsReplayByRows(Accumulator):
    """An accumulator with a fault: a replay is cut by rows, as any other batch is."""

    def replay(self, first: int, last: int) -> None:
        super().replay(first, min(last, first + self.bounds.rows_max - 1))


class LosesTheLargest(Accumulator):
    """An accumulator with a fault: a record above the bytes bound is left out."""

    def add(self, records: Sequence[PlainRecord], now: float) -> None:  # type: ignore[override]
        super().add([record for record in records if records_bytes([record]) <= self.bounds.bytes_max], now)


def test_the_checkers_reject_planted_faults() -> None:
    """The laws above can fail: a replay with other bounds and a lost record are both seen."""
    records = [PlainRecord(at, b"x" * 100 * at, None) for at in range(5)]
    faulty = CutsReplayByRows(SOURCE, Bounds(2, 10**6, 0.0))
    faulty.replay(0, 3)
    pending = Replay(0, 3, [records])
    with pytest.raises(AssertionError):
        check_replay(pending, [batch for _, batch in drive(faulty, pending.polls, [0.0])])
    lossy = LosesTheLargest(SOURCE, Bounds(10, RECORD_OVERHEAD_BYTES + 250, 0.0))
    assert offsets(batch for _, batch in drive(lossy, [records], [0.0])) != [0, 1, 2, 3, 4]


def test_an_offset_that_goes_back_is_refused() -> None:
    """A topic that was re-created starts again at 0: taken for the old one it would be deduplicated away."""
    buffer = Accumulator(SOURCE, Bounds(10, 10**6, 0.0))
    buffer.add([PlainRecord(4), PlainRecord(5)], 0.0)
    for offset in (5, 0):
        with pytest.raises(ValueError, match="went back from offset 5"):
            buffer.add([PlainRecord(offset)], 0.0)
    assert len(buffer) == 2


def test_an_offset_that_goes_back_is_refused_after_a_cut_too() -> None:
    """The position is remembered when the buffer is empty again."""
    buffer = Accumulator(SOURCE, Bounds(10, 10**6, 0.0))
    buffer.add([PlainRecord(4)], 0.0)
    assert buffer.cut(0.0) is not None
    with pytest.raises(ValueError, match="went back"):
        buffer.add([PlainRecord(4)], 0.0)


def test_a_record_larger_than_a_batch_goes_alone() -> None:
    """The bytes bound must not stop a partition for one large record."""
    buffer = Accumulator(SOURCE, Bounds(10, RECORD_OVERHEAD_BYTES + 10, 0.0))
    buffer.add([PlainRecord(0, b"x", None), PlainRecord(1, b"x" * 1000, None), PlainRecord(2, b"x", None)], 0.0)
    assert [offsets([batch]) for _, batch in drive(buffer, [], [])] == [[0], [1], [2]]


def test_nothing_is_cut_before_it_is_due() -> None:
    """A batch that is not full waits for its linger: small inserts are what ClickHouse suffers from."""
    buffer = Accumulator(SOURCE, Bounds(10, 10**6, LINGER_S))
    assert buffer.due_at() is None
    buffer.add([PlainRecord(0)], 1.0)
    assert buffer.cut(1.0 + LINGER_S / 2) is None
    assert buffer.cut(1.0 + LINGER_S) is not None


def test_what_a_cut_leaves_behind_is_as_old_as_it_is() -> None:
    """The linger counts from the poll: beginning anew at each cut, the last records of a burst would wait on and on."""
    buffer = Accumulator(SOURCE, Bounds(2, 10**6, LINGER_S))
    buffer.add([PlainRecord(0), PlainRecord(1), PlainRecord(2)], 0.0)
    assert buffer.cut(LINGER_S / 2) is not None
    assert buffer.due_at() == LINGER_S
    buffer.add([PlainRecord(3, b"x" * 10)], LINGER_S)
    assert buffer.cut(LINGER_S) is not None
    assert buffer.due_at() is None


@given(st.floats(0, 3_600))
def test_a_busy_server_gets_larger_batches(took_s: float) -> None:
    """After a batch that took long the next one waits longer, within a limit, and never shorter than it was told."""
    buffer = Accumulator(SOURCE, Bounds(10, 10**6, LINGER_S))
    buffer.took(took_s)
    buffer.add([PlainRecord(0)], 0.0)
    due = buffer.due_at()
    assert due is not None
    assert LINGER_S <= due <= max(LINGER_S, LINGER_S_MAX)
    buffer.took(took_s * 2)
    later = buffer.due_at()
    assert later is not None
    assert later >= due
    buffer.took(0.0)
    assert buffer.due_at() == LINGER_S
