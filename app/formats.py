"""Record formats: what the spine must know of a topic's records to carry them, whoever wrote them.

The loop, the rebuild of dedupe state, the DLQ and an operator's replay ask the pipeline's format and nothing else. Two
exist: our own envelope (here) and the changes of a database as Debezium writes them (app/cdc.py). A format works on
whole batches, so that a pass-through pipeline pays one call a batch for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app import codec, inspection
from app.batch import Record
from app.codec import Schema
from app.dedup import event_key
from app.dlq import Dead
from app.inspection import Inspected
from app.outputs import Events
from schemas.envelope import HEADER_ID, HEADER_TENANT, Headers, header


class Format(Protocol):
    """How the records of one topic are read."""

    def inspect(self, records: Sequence[Record]) -> tuple[list[Inspected], list[Dead]]:
        """Step 3: the records to go on with, each with its dedupe key, and the dead ones; both in offset order."""

    def events(self, kept: Sequence[Inspected]) -> Any:
        """Step 5: what the domain's process is called with."""

    def identify(self, key: bytes | None, value: bytes | None, headers: Headers) -> bytes | None:
        """The dedupe key alone, as `inspect` gives it for a record that is not dead; None when there is none."""

    def tenant(self, record: Record) -> str:
        """The tenant that a record names, checked or not; "" when it names none that reads as text."""

    def describe(self, record: Record) -> list[tuple[str, bytes]]:
        """Headers for a DLQ entry of this record that say what its own headers do not: `dlq_tenant` and the like."""


@dataclass(frozen=True, slots=True)
class Enveloped:
    """Avro values of one subject, with id, tenant and type in the headers: every topic of our own."""

    subject: str

    @property
    def schema(self) -> Schema:
        return codec.schema(self.subject)

    def inspect(self, records: Sequence[Record]) -> tuple[list[Inspected], list[Dead]]:
        return inspection.inspect(records, self.schema)

    def events(self, kept: Sequence[Inspected]) -> Events:
        return Events([one.record for one in kept], self.schema)

    def identify(self, _key: bytes | None, _value: bytes | None, headers: Headers) -> bytes | None:
        owner, event_id = header(headers, HEADER_TENANT), header(headers, HEADER_ID)
        return event_key(owner, event_id) if owner is not None and event_id is not None else None

    def tenant(self, record: Record) -> str:
        return inspection.tenant(record)

    def describe(self, _record: Record) -> list[tuple[str, bytes]]:
        return []
