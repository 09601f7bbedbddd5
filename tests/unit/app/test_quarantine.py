"""Laws of quarantine: who kills the examiner is set aside, nobody else is, and no examiner is no verdict."""

import sys

import pytest

from app import quarantine
from app.batch import TP
from app.quarantine import PILLS_MAX, REASON, BrokenBuild, find, line, record_of, split
from app.source import SourceRecord

EXAMINER = """
import os, signal, sys
from app import quarantine
from app.batch import TP
for text in sys.stdin.buffer:
    record = quarantine.record_of(text)
    os.write(1, quarantine.MARK.pack(record.offset))
    if record.value == b"signal":
        os.kill(os.getpid(), signal.SIGKILL)
    if record.value == b"status":
        sys.exit(3)
"""
PLACE = TP("topic", 2)
COMMAND = (sys.executable, "-c", EXAMINER)


def record(offset: int, value: bytes | None = b"good") -> SourceRecord:
    return SourceRecord(*PLACE, offset, 1_700_000_000_000, b"key", value, [("a", b"\xff"), ("b", b"")])


async def test_only_the_deadly_records_are_found() -> None:
    """Each is found by its own death, whatever the death was; records behind it are looked at, too."""
    records = [record(at, {13: b"signal", 17: b"status"}.get(at, b"good")) for at in range(10, 20)]
    found = await find(PLACE, records, COMMAND)
    assert {at: poison.reason for at, poison in found.items()} == {13: REASON, 17: REASON}
    assert "signal 9" in str(found[13])
    assert "status 3" in str(found[17])
    kept, pills = split(records, found)
    assert [one.offset for one in pills] == [13, 17]
    assert [one.offset for one in kept] == [10, 11, 12, 14, 15, 16, 18, 19]


async def test_an_examiner_that_does_not_start_condemns_nobody() -> None:
    """Without a mark there is no culprit: the range is carried as it is."""
    assert await find(PLACE, [record(1), record(2)], (sys.executable, "-c", "raise SystemExit(1)")) == {}


async def test_too_many_deaths_are_a_broken_build() -> None:
    """A build that dies of everything must not empty a topic into the DLQ."""
    with pytest.raises(BrokenBuild):
        await find(PLACE, [record(at, b"status") for at in range(PILLS_MAX + 2)], COMMAND)


@pytest.mark.parametrize("value", [b"", b"\x00\xff\n", None])
def test_a_record_survives_the_way_to_the_examiner(value: bytes | None) -> None:
    """Bytes, null, empty and headers arrive as they were."""
    assert record_of(line(PLACE, record(7, value))) == record(7, value)
    assert line(PLACE, record(7, value)).count(b"\n") == 1


def test_nothing_is_copied_without_pills() -> None:
    """The hot path pays one test of an empty dictionary."""
    records = [record(1)]
    assert quarantine.split(records, {})[0] is records
