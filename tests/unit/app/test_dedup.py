"""Laws of deduplication: one carrier an event id, the same one after every crash, and never across tenants."""

import random
import shutil
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dedup import APPLIED_KEY, KEY_BYTES, Applied, Seen, SeenTable, event_key, first_carriers
from app.settings import Settings
from app.stream import App, create_app
from tests.support.records import OTHER_TENANT, TENANT

Decide = Callable[[Sequence[bytes], Sequence[int], Mapping[bytes, int]], tuple[list[int], dict[bytes, int]]]
Batch = list[tuple[int, bytes]]  # (offset, key)


@st.composite
def cut_streams(draw: st.DrawFn) -> list[Batch]:
    """A stream of ids from a small set, with holes in its offsets, cut into batches."""
    steps = draw(st.lists(st.tuples(st.integers(1, 3), st.sampled_from([b"a", b"b", b"c", b"d"])), max_size=24))
    offset, stream = -1, []
    for step, key in steps:
        offset += step
        stream.append((offset, key))
    edges = [0, *sorted(draw(st.lists(st.integers(0, len(stream)), max_size=5))), len(stream)]
    return [stream[low:high] for low, high in pairwise(edges) if low < high]


def oracle(batches: list[Batch]) -> list[int]:
    """The offsets that first carry their id, found the slow way."""
    stream = [pair for batch in batches for pair in batch]
    return [at for index, (at, key) in enumerate(stream) if key not in {other for _, other in stream[:index]}]


def kept_offsets(batch: Batch, table: dict[bytes, int], decide: Decide) -> list[int]:
    """Steps 4 and 7 for one batch: decide, then remember."""
    offsets, keys = [at for at, _ in batch], [key for _, key in batch]
    # The real table answers only for the keys it is asked for.
    kept, fresh = decide(keys, offsets, {key: table[key] for key in keys if key in table})
    table |= fresh
    return [offsets[index] for index in kept]


def check(batches: list[Batch], decide: Decide) -> None:
    """First carriers only; and replaying from any batch on, over the table as it is by then, keeps the same ones."""
    table: dict[bytes, int] = {}
    first = [kept_offsets(batch, table, decide) for batch in batches]
    assert [at for kept in first for at in kept] == oracle(batches)
    for since in range(len(batches)):
        again = [kept_offsets(batch, table, decide) for batch in batches[since:]]
        assert again == first[since:]


@given(cut_streams())
def test_the_first_carriers_are_kept_and_a_replay_keeps_the_same(batches: list[Batch]) -> None:
    """Killed between remember and commit, the range comes again with the table updated: the rows must be the same."""
    check(batches, first_carriers)


@given(cut_streams())
def test_what_is_remembered_is_where_each_id_came_first(batches: list[Batch]) -> None:
    """The table is a function of the stream, however it was cut: that is what lets the source topic rebuild it."""
    table: dict[bytes, int] = {}
    for batch in batches:
        kept_offsets(batch, table, first_carriers)
    stream = [pair for batch in batches for pair in batch]
    assert table == {key: at for at, key in reversed(stream)}


@given(cut_streams(), st.data())
def test_a_table_rebuilt_into_the_range_decides_as_the_original(batches: list[Batch], draw: st.DataObject) -> None:
    """On another machine the table may hold any part of the pending range already: nothing changes."""
    table: dict[bytes, int] = {}
    first = [kept_offsets(batch, table, first_carriers) for batch in batches]
    if not batches:
        return
    upto = draw.draw(st.integers(0, batches[-1][-1][0]))
    stream = [pair for batch in batches for pair in batch]
    rebuilt = {key: at for at, key in reversed(stream) if at < batches[-1][0][0] or at <= upto}
    assert kept_offsets(batches[-1], rebuilt, first_carriers) == first[-1]


def by_presence(
    keys: Sequence[bytes], offsets: Sequence[int], known: Mapping[bytes, int]
) -> tuple[list[int], dict[bytes, int]]:
    """A decision with a fault: known is dropped, whoever carried it. A replay then drops its own rows."""
    fresh: dict[bytes, int] = {}
    for key, offset in zip(keys, offsets, strict=True):
        if key not in known:
            fresh.setdefault(key, offset)
    return [index for index, offset in enumerate(offsets) if fresh.get(keys[index]) == offset], fresh


def without_the_batch(
    keys: Sequence[bytes], offsets: Sequence[int], known: Mapping[bytes, int]
) -> tuple[list[int], dict[bytes, int]]:
    """A decision with a fault: only the table is asked, so two carriers in one batch are both kept."""
    kept = [index for index, key in enumerate(keys) if known.get(key, offsets[index]) >= offsets[index]]
    return kept, {keys[index]: offsets[index] for index in reversed(kept) if keys[index] not in known}


def no_dedupe(
    keys: Sequence[bytes], offsets: Sequence[int], _known: Mapping[bytes, int]
) -> tuple[list[int], dict[bytes, int]]:
    """A decision with a fault: everything is kept."""
    return list(range(len(keys))), dict(zip(keys, offsets, strict=True))


@pytest.mark.parametrize("fault", [by_presence, without_the_batch, no_dedupe])
def test_the_checker_rejects_planted_faults(fault: Decide) -> None:
    """The laws above can fail: each of the three classic mistakes is seen."""
    with pytest.raises(AssertionError):
        check([[(0, b"a"), (1, b"b"), (2, b"a")], [(3, b"b")]], fault)


@given(st.binary(min_size=1, max_size=128), st.binary(min_size=1, max_size=128))
def test_two_tenants_never_meet(one: bytes, two: bytes) -> None:
    """The same event id of two tenants is two events, whatever bytes a tenant puts into its ids."""
    assert event_key(TENANT.encode(), one) != event_key(OTHER_TENANT.encode(), two)


@given(
    st.binary(min_size=36, max_size=36),
    st.binary(min_size=36, max_size=36),
    st.binary(min_size=1),
    st.binary(min_size=1),
)
def test_a_key_is_one_tenant_and_one_id(owner: bytes, other: bytes, one: bytes, two: bytes) -> None:
    """Tenants are of one length, so no id can borrow the end of a tenant: equal keys mean equal parts."""
    assert (event_key(owner, one) == event_key(other, two)) == ((owner, one) == (other, two))


def test_no_event_key_is_the_key_of_the_applied_offset() -> None:
    """Event keys and the applied offset live in one database: their lengths keep them apart."""
    assert len(event_key(b"t", b"e")) == KEY_BYTES != len(APPLIED_KEY)


@given(st.integers(0, 2**63 - 1), st.text(st.characters(codec="ascii"), max_size=40))
def test_the_applied_offset_survives_its_encoding(offset: int, topic_id: str) -> None:
    """What is read after a restart is what was written."""
    assert Applied.decode(Applied(topic_id, offset).encode()) == Applied(topic_id, offset)


def test_no_applied_offset_is_none() -> None:
    """A new database says nothing."""
    assert Applied.decode(None) is None


KEYS = [event_key(TENANT.encode(), str(number).encode()) for number in range(4)]


@pytest.fixture
async def app(tmp_path: Path) -> App:
    """A Faust app as the worker makes it, in a folder of its own, not started."""
    return create_app(Settings(home=tmp_path))


@pytest.fixture
async def seen(app: App) -> AsyncIterator[Seen]:
    table = Seen(app, SeenTable("tracking-collected-seen", window_hours=1))
    yield table
    for partition in (0, 1):
        table.release(partition)


async def test_what_is_remembered_is_known(seen: Seen) -> None:
    """The table answers for the keys it has, with the offset that first carried them, and for no others."""
    assert seen.known(0, KEYS) == {}
    assert seen.applied(0) is None
    seen.remember(0, {KEYS[0]: 7, KEYS[1]: 2**40}, Applied("id", 2**40))
    assert seen.known(0, KEYS) == {KEYS[0]: 7, KEYS[1]: 2**40}
    assert seen.applied(0) == Applied("id", 2**40)


async def test_partitions_have_databases_of_their_own(seen: Seen) -> None:
    """A partition moves to another worker alone, with nothing of its neighbours."""
    seen.remember(0, {KEYS[0]: 7}, Applied("id", 7))
    assert seen.known(1, KEYS) == {}
    assert seen.applied(1) is None


async def test_the_state_survives_a_restart(seen: Seen, app: App) -> None:
    """Released and opened again, by this process or the next, the table is what it was."""
    seen.remember(0, {KEYS[0]: 7}, Applied("id", 9))
    seen.release(0)
    again = Seen(create_app(app.settings), SeenTable("tracking-collected-seen", window_hours=1))
    assert again.known(0, KEYS) == {KEYS[0]: 7}
    assert again.applied(0) == Applied("id", 9)
    again.release(0)
    assert seen.known(0, KEYS) == {KEYS[0]: 7}


async def test_a_forgotten_partition_knows_nothing(seen: Seen) -> None:
    """State of another incarnation of the topic would drop the new one's events."""
    seen.remember(0, {KEYS[0]: 7}, Applied("old", 9))
    seen.remember(1, {KEYS[1]: 8}, Applied("id", 8))
    seen.forget(0)
    assert seen.known(0, KEYS) == {}
    assert seen.applied(0) is None
    assert seen.known(1, KEYS) == {KEYS[1]: 8}


async def test_forgetting_and_releasing_are_safe_to_repeat(seen: Seen) -> None:
    """A partition may be revoked before it was opened, and twice."""
    seen.release(0)
    seen.forget(0)
    seen.forget(0)
    seen.release(0)
    assert seen.applied(0) is None


async def test_compaction_drops_no_id_of_the_window(seen: Seen) -> None:
    """A database that was opened again keeps every id when RocksDB compacts: what it forgets comes in twice."""
    for number, key in enumerate(KEYS):
        seen.remember(0, {key: number}, Applied("id", number))
        seen.release(0)
    seen._database(0).compact_range(None, None)
    assert seen.known(0, KEYS) == {key: number for number, key in enumerate(KEYS)}
    assert seen.applied(0) == Applied("id", len(KEYS) - 1)


async def test_ids_leave_after_the_window(seen: Seen) -> None:
    """State is bounded: batches older than the window go, oldest first, with later writes, and younger ones stay."""
    seen.window_s = -1
    for number, key in enumerate(KEYS[:3]):
        seen.remember(0, {key: number}, Applied("id", number))
    assert seen.known(0, KEYS) == {KEYS[2]: 2}
    seen.window_s = 3600
    seen.remember(0, {KEYS[3]: 3}, Applied("id", 3))
    assert seen.known(0, KEYS) == {KEYS[2]: 2, KEYS[3]: 3}
    seen.release(0)
    seen.window_s = -1
    seen.remember(0, {}, Applied("id", 4))
    assert seen.known(0, KEYS) == {}
    assert sorted(seen._database(0).keys()) == [APPLIED_KEY]


async def test_filters_change_no_answer(seen: Seen) -> None:
    """With the filter of ids made, grown, lost at a restart and made again, the table knows exactly what it has."""
    chance, table = random.Random(3), dict[bytes, int]()
    for number in range(60):
        keys = [event_key(b"t", str(chance.randrange(400_000)).encode()) for _ in range(5_000)]
        known = seen.known(0, keys)
        assert known == {key: table[key] for key in keys if key in table}
        fresh = {key: number for key in keys if key not in known}
        seen.remember(0, fresh, Applied("id", number))
        table |= fresh
        if number % 7 == 0:
            assert seen.absence.settle(0)
        if number % 20 == 19:
            seen.release(0)
    assert seen.absence.settle(0)
    assert seen.known(0, list(table)) == table


def recovered(seen: Seen, home: Path, cut_bytes: int) -> tuple[dict[bytes, int], Applied | None]:
    """What a restart finds when a crash has lost the last bytes of the write-ahead log."""
    again = Seen(create_app(Settings(home=home)), SeenTable("tracking-collected-seen", window_hours=1))
    folder = Path(again._store_of.partition_path(0))
    shutil.copytree(seen._store_of.partition_path(0), folder)
    (folder / "LOCK").unlink()
    log = max(folder.glob("*.log"))
    with log.open("r+b") as file:
        file.truncate(max(0, log.stat().st_size - cut_bytes))
    try:
        return again.known(0, KEYS), again.applied(0)
    finally:
        again.release(0)


async def test_ids_and_applied_offset_are_one_write(seen: Seen, tmp_path: Path) -> None:
    """Ids without the offset, or the offset without ids, would let a replay decide anew: it is all or nothing."""
    seen.remember(0, {KEYS[0]: 7}, Applied("id", 7))
    seen.remember(0, dict.fromkeys(KEYS[1:], 8), Applied("id", 8))
    before = ({KEYS[0]: 7}, Applied("id", 7))
    after = ({KEYS[0]: 7, **dict.fromkeys(KEYS[1:], 8)}, Applied("id", 8))
    found = [recovered(seen, tmp_path / str(cut), cut) for cut in (0, 1, 20, 40, 60, 80, 100)]
    assert found[0] == after
    assert found[1:] == [before] * 6


async def test_a_batch_with_a_bad_offset_writes_nothing(seen: Seen) -> None:
    """A write that fails half way leaves the table as it was."""
    seen.remember(0, {KEYS[0]: 7}, Applied("id", 7))
    with pytest.raises(struct.error):
        seen.remember(0, {KEYS[1]: 8, KEYS[2]: 2**64}, Applied("id", 8))
    assert seen.known(0, KEYS) == {KEYS[0]: 7}
    assert seen.applied(0) == Applied("id", 7)
