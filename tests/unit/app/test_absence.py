"""Filters beside tables: made in a thread, whole or not asked, and never behind what is written."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import absence
from app.absence import Absence
from tests.unit.app.test_bloom import made

IDS = made(400)
OTHERS = made(5_000, b"other")


class Table:
    """What a partition's table is to its filter: ids that are read back in pieces."""

    def __init__(self, ids: list[bytes] | None = None) -> None:
        self.ids = list(ids or [])
        self.reads = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.is_read = threading.Event()

    def stored(self, partition: int) -> Iterator[bytes]:
        self.reads += 1
        there = list(self.ids)  # an iterator of RocksDB shows what was there when it was made
        self.is_read.set()
        self.may_go_on.wait()
        for start in range(0, len(there), 7):
            yield b"".join(there[start : start + 7])

    def estimate(self, partition: int) -> int:
        return len(self.ids)

    def absence(self) -> Absence:
        return Absence(self.stored, self.estimate)


def test_a_whole_filter_leaves_absent_ids_out() -> None:
    """Once it is whole, known ids are all left to ask for and hardly any others."""
    found = Table(IDS).absence()
    found.perhaps(0, IDS)
    assert found.settle(0)
    asked = found.perhaps(0, [*IDS, *OTHERS])
    assert list(asked[: len(IDS)]) == IDS
    assert len(asked) < len(IDS) + len(OTHERS) // 20


def test_until_it_is_whole_all_are_asked() -> None:
    """While the table is still read, no id is called absent; what is written meanwhile is in the filter."""
    table = Table(IDS[:200])
    table.may_go_on.clear()
    found = table.absence()
    assert list(found.perhaps(0, OTHERS)) == OTHERS
    assert table.is_read.wait(10)
    found.add(0, b"".join(IDS[200:]))
    assert list(found.perhaps(0, OTHERS)) == OTHERS
    table.may_go_on.set()
    assert found.settle(0)
    assert list(found.perhaps(0, IDS)) == IDS
    assert len(found.perhaps(0, OTHERS)) < len(OTHERS) // 20


@given(st.lists(st.lists(st.integers(0, len(IDS) - 1), max_size=60), max_size=12), st.data())
def test_no_id_is_lacking(batches: list[list[int]], drawn: st.DataObject) -> None:
    """Whatever is written in whatever order, filters made anew or not: an id of the table is never called absent."""
    table = Table()
    found = table.absence()
    for batch in batches:
        ids = [IDS[number] for number in batch]
        found.add(0, b"".join(ids))
        table.ids += ids
        if drawn.draw(st.booleans()):
            found.settle(0)
        assert set(table.ids) <= set(found.perhaps(0, IDS))
        if drawn.draw(st.booleans()):
            found.drop(0)


def test_a_full_filter_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past its capacity a filter is replaced by a larger one, made of what the table has now."""
    monkeypatch.setattr(absence, "CAPACITY_MIN", 50)
    table = Table()
    found = table.absence()
    found.perhaps(0, IDS)
    assert found.settle(0)
    for start in range(0, len(IDS), 40):
        found.add(0, b"".join(IDS[start : start + 40]))
        table.ids += IDS[start : start + 40]
        found.settle(0)
        assert set(table.ids) <= set(found.perhaps(0, IDS))
    found.perhaps(0, OTHERS)
    assert found.settle(0)
    assert table.reads > 2
    assert len(found.perhaps(0, OTHERS)) < len(OTHERS) // 20


def test_ids_that_left_make_no_filter_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that stays as large as it is, since as many ids leave as come, keeps a filter of one size."""
    monkeypatch.setattr(absence, "CAPACITY_MIN", 50)
    table = Table(IDS[:100])
    found = table.absence()
    found.perhaps(0, IDS)
    assert found.settle(0)
    for start in range(0, len(OTHERS), 100):
        found.add(0, b"".join(OTHERS[start : start + 100]))
        found.remove(0, 100)
        table.ids = OTHERS[start : start + 100]
        assert found.settle(0)
    assert table.reads > 10
    assert found._whole[0].bloom.capacity <= 100 * 2 * 2


def test_room_to_grow_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large table's filter is not made for twice its ids: memory that may never be used."""
    monkeypatch.setattr(absence, "CAPACITY_MIN", 50)
    monkeypatch.setattr(absence, "ROOM_MAX", 70)
    found = Table(IDS).absence()
    found.perhaps(0, IDS)
    assert found.settle(0)
    assert found._whole[0].bloom.capacity == len(IDS) + 70


def test_a_table_too_large_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: over so many ids there is no filter, and all are asked for."""
    monkeypatch.setattr(absence, "CAPACITY_MAX", 300)
    found = Table(IDS).absence()
    assert list(found.perhaps(0, OTHERS)) == OTHERS
    assert not found.settle(0)


def test_dropped_while_it_is_made() -> None:
    """A partition that is given away is not read any more when that has been said, and its ids are asked anew later."""
    table = Table(IDS)
    table.may_go_on.clear()
    found = table.absence()
    found.perhaps(0, IDS)
    found.perhaps(1, IDS)  # waits behind the first
    assert table.is_read.wait(10)
    found.drop(1)
    threading.Timer(0.01, table.may_go_on.set).start()
    found.drop(0)
    assert table.reads == 1
    assert list(found.perhaps(0, OTHERS)) == OTHERS


def test_a_table_that_cannot_be_read_is_said() -> None:
    """What the thread ended with is raised where the ids are asked for: nobody goes on with half a filter."""

    def broken(partition: int) -> Iterator[bytes]:
        raise OSError("a bad block")

    found = Absence(broken, lambda _: 1)
    found.perhaps(0, IDS)
    with pytest.raises(OSError, match="a bad block"):
        found.settle(0)
