"""What a pipeline's process sees and returns: events in, rows and records out, and the ones it cannot process.

Step 5 of the loop. Domain code is synchronous and pure: it reads events, builds `Outputs`, and touches nothing else.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.batch import Record
from app.codec import Schema
from app.errors import Poison
from schemas.envelope import HEADER_ID, HEADER_TENANT, HEADER_TYPE, header
from schemas.rows import Rows

READ_HEADERS = (HEADER_ID, HEADER_TENANT, HEADER_TYPE)


@dataclass(frozen=True, slots=True)
class Event:
    """One record, decoded: its envelope and its value as the Avro record of the pipeline's subject."""

    id: str
    tenant_id: str
    type: str
    value: Mapping[str, Any]
    record: Record


@dataclass(frozen=True, slots=True)
class Events:
    """The records of a batch that passed inspection and dedupe, in offset order, still encoded.

    A pass-through pipeline never decodes them; another iterates over `decoded()`.
    """

    records: Sequence[Record]
    schema: Schema

    def decoded(self, outputs: "Outputs") -> Iterator[Event]:
        """Each record as an event; one whose value does not decode is rejected in `outputs` instead."""
        for record in self.records:
            try:
                value = self.schema.decode(record.value or b"")
            except Poison as poison:
                outputs.reject(record, poison)
                continue
            try:
                texts = [(header(record.headers, name) or b"").decode() for name in READ_HEADERS]
            except UnicodeDecodeError:
                outputs.reject(record, Poison("bad_header", f"one of {', '.join(READ_HEADERS)} is not UTF-8"))
                continue
            yield Event(texts[0], texts[1], texts[2], value, record)


@dataclass(slots=True)
class Outputs:
    """What one batch leads to. The loop refuses rows that the pipeline's `writes` does not name."""

    rows: dict[Rows, list[tuple[Record, Mapping[str, Any]]]] = field(default_factory=dict)
    passed: list[Rows] = field(default_factory=list)
    rejected: list[tuple[Record, Poison]] = field(default_factory=list)

    def insert(self, rows: Rows, event: Event, row: Mapping[str, Any]) -> None:
        """One row, as a record of the table's Avro subject."""
        self.rows.setdefault(rows, []).append((event.record, row))

    def pass_through(self, rows: Rows) -> None:
        """Every record of the batch is a row as it is: its Avro subject is the table's."""
        self.passed.append(rows)

    def reject(self, record: Record, poison: Poison) -> None:
        """Send a record to the DLQ; its neighbours are not affected."""
        self.rejected.append((record, poison))
