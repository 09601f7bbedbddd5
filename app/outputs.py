"""What a pipeline's process sees and returns: events in, rows and events out, and the ones it cannot process.

Step 5 of the loop. Domain code is synchronous and pure: it reads events, builds `Outputs`, and touches nothing else.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from app import codec
from app.batch import Record
from app.codec import Schema
from app.errors import Poison
from app.producer import Record as Produced
from schemas.emits import Emits
from schemas.envelope import HEADER_ID, HEADER_TENANT, HEADER_TYPE, header, headers
from schemas.rows import Rows

READ_HEADERS = (HEADER_ID, HEADER_TENANT, HEADER_TYPE)


class Carried(Protocol):
    """An event or a change: something that a record brought."""

    @property
    def record(self) -> Record: ...


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


class Emitted(NamedTuple):
    """One event that a pipeline produces. `id` is made of what caused it, never drawn: a replay says it again."""

    id: str
    tenant_id: str
    type: str
    value: Mapping[str, Any]


@dataclass(slots=True)
class Outputs:
    """What one batch leads to. The loop refuses what the pipeline's `writes` and `emits` do not name."""

    rows: dict[Rows, list[tuple[Record, Mapping[str, Any]]]] = field(default_factory=dict)
    passed: list[Rows] = field(default_factory=list)
    produced: dict[Emits, list[tuple[Record, Emitted]]] = field(default_factory=dict)
    rejected: list[tuple[Record, Poison]] = field(default_factory=list)
    warnings: Counter[str] = field(default_factory=Counter)

    def insert(self, rows: Rows, event: Carried, row: Mapping[str, Any]) -> None:
        """One row, as a record of the table's Avro subject."""
        self.rows.setdefault(rows, []).append((event.record, row))

    def pass_through(self, rows: Rows) -> None:
        """Every record of the batch is a row as it is: its Avro subject is the table's."""
        self.passed.append(rows)

    def produce(self, emits: Emits, cause: Carried, event: Emitted) -> None:
        """One event onto a topic, confirmed before the batch is remembered. Repeated, with its id, by a replay."""
        self.produced.setdefault(emits, []).append((cause.record, event))

    def reject(self, record: Record, poison: Poison) -> None:
        """Send a record to the DLQ; its neighbours are not affected."""
        self.rejected.append((record, poison))

    def warn(self, what: str) -> None:
        """Count something that is no fault of a record and still should be seen, such as a column nobody knows."""
        self.warnings[what] += 1

    def events(self, gone: Collection[int]) -> list[Produced]:
        """The produced events as records, without those of the source offsets `gone`."""
        found: list[Produced] = []
        for emits, entries in self.produced.items():
            schema = codec.schema(emits.subject)
            for cause, (event_id, tenant_id, event_type, value) in entries:
                if cause.offset not in gone:
                    envelope = headers(event_id, tenant_id, event_type, schema.name)
                    found.append(Produced(emits.topic.name, tenant_id.encode(), schema.encode(value), envelope))
        return found
