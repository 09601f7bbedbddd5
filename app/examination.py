"""What may die of a record in the worker's place: the pure steps of the loop, one record at a time.

The other side of `app/quarantine.py`, in a process of its own. It writes the offset of each record to its output
before it looks at it, so that the last offset names the record it died of. An unknown failure is a death, too.
"""

import os
import resource
import signal
from collections.abc import Iterable
from typing import Final

from app import quarantine
from app.batch import TP, RecordBatch
from app.pipeline import Loop, Pipeline, Work
from app.ranges import Range
from app.sinks.container import broken_rows
from app.source import SourceRecord

RECORD_S: Final = 10.0  # one record takes microseconds; the default action of the alarm is to die
MEMORY_BYTES_MAX: Final = 2 << 30  # of address space: a record that eats all memory ends us, not the machine


def examine(pipeline: Pipeline, lines: Iterable[bytes], output: int) -> None:
    """Steps 3 and 5, and the rows of step 6, of each record. Returns when none of them was deadly."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    for text in lines:
        record = quarantine.record_of(text)
        os.write(output, quarantine.MARK.pack(record.offset))
        signal.setitimer(signal.ITIMER_REAL, RECORD_S)
        rehearse(pipeline, record)
    signal.setitimer(signal.ITIMER_REAL, 0)


def rehearse(pipeline: Pipeline, record: SourceRecord) -> None:
    """What the loop would do with a record, up to where it leaves the process."""
    good, dead = pipeline.form.inspect([record])
    outputs = pipeline.process(pipeline.form.events(good))
    batch = RecordBatch(TP(record.topic, record.partition), record.offset, record.offset, [record])
    span = Range("", record.topic, record.partition, record.offset, record.offset, pipeline.version)
    for _, version, rows in Loop.blocks(Work(span, batch, good, good, dead=dead), outputs):
        broken_rows(version, rows)
