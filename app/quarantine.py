"""A record that kills the process is found and set aside, so that a partition is never blocked by a death.

Between step 2 and step 3 of the loop, for ranges that were delivered too often. How often is counted in the pending
range itself, in Kafka, since a process that dies takes its memory along. The count alone condemns nobody: an operator
or a full machine may have killed us. So the range is shown, record by record, to a process that may die in our place
(`app/examination.py`), and only a record that it dies of goes to the DLQ.
"""

import asyncio
import base64
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import orjson
import structlog

from app.batch import TP, Record
from app.errors import Poison
from app.source import SourceRecord

log = structlog.get_logger(__name__)

DELIVERIES_MAX: Final = 3  # then a range is examined before it is carried once more
PILLS_MAX: Final = 20  # of one range; each costs the start of a process, and so many are a broken deploy
REASON: Final = "kills_the_process"
MARK: Final = struct.Struct(">q")  # an offset on the examiner's output: the record that it is about to look at


class BrokenBuild(Exception):  # noqa: N818 - says what it means
    """Too many records of one range kill the process: the build is broken, not the records."""


async def find(tp: TP, records: Sequence[Record], examiner: Sequence[str]) -> dict[int, Poison]:
    """The offsets of the records that kill a process, each with its reason. `examiner` is the command to show them to.

    Raises BrokenBuild when there are more than PILLS_MAX.
    """
    pills: dict[int, Poison] = {}
    left = list(records)
    while left:
        status, marks = await _examine(tp, left, examiner)
        if status == 0:
            break
        if not marks:
            # Not the fault of any record. Carrying the range is no worse than before.
            log.error("the examiner does not start: the range is carried unexamined", status=status)
            break
        killer = MARK.unpack(marks[-MARK.size :])[0]
        end = f"signal {-status}" if status < 0 else f"status {status}"
        pills[killer] = Poison(REASON, f"a process that looked at this record alone ended with {end}")
        log.error("a record kills the process: it goes to the DLQ", offset=killer, status=status)
        if len(pills) > PILLS_MAX:
            raise BrokenBuild(f"more than {PILLS_MAX} records of one range kill the process: stopping")
        left = [record for record in left if record.offset > killer]
    return pills


def split(records: Sequence[Record], pills: Mapping[int, Poison]) -> tuple[Sequence[Record], Sequence[Record]]:
    """The records to go on with, and those that kill."""
    if not pills:
        return records, ()
    return [one for one in records if one.offset not in pills], [one for one in records if one.offset in pills]


async def _examine(tp: TP, records: Iterable[Record], examiner: Sequence[str]) -> tuple[int, bytes]:
    process = await asyncio.create_subprocess_exec(
        *examiner, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    marks, _ = await process.communicate(b"".join(line(tp, record) for record in records))
    return await process.wait(), marks[: len(marks) // MARK.size * MARK.size]


def line(tp: TP, record: Record) -> bytes:
    """A record as one line of the examiner's input."""
    texts = [(name, base64.b64encode(value or b"").decode()) for name, value in record.headers]
    key, value = (None if one is None else base64.b64encode(one).decode() for one in (record.key, record.value))
    place = [*tp, record.offset, record.timestamp]
    return orjson.dumps([*place, key, value, texts], option=orjson.OPT_APPEND_NEWLINE)


def record_of(text: bytes) -> SourceRecord:
    """The record of such a line."""
    topic, partition, offset, timestamp, *encoded, texts = orjson.loads(text)
    key, value = (None if one is None else base64.b64decode(one) for one in encoded)
    headers = [(name, base64.b64decode(one)) for name, one in texts]
    return SourceRecord(topic, partition, offset, timestamp, key, value, headers)
