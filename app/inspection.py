"""Inspection: step 3 of the loop. Is the envelope whole, is the value in the wire format of a schema we know?

Of the records on our own topics; app/formats.py says which pipeline's are read by what.

Works on headers and the first bytes of the value; nothing is decoded. A tenant in the value that contradicts the
header, or a key of another tenant, is poison: the tenant comes from the credential, and the edge wrote all three.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from app.batch import Record, RecordBatch
from app.codec import PREFIX_BYTES, Schema, Version
from app.dedup import event_key
from app.dlq import Dead
from app.errors import Poison
from app.telemetry import metrics, traces
from schemas.envelope import EVENT_ID_BYTES_MAX, HEADER_ID, HEADER_TENANT, HEADER_TRACEPARENT, header

log = structlog.get_logger(__name__)

TENANT_BYTES = 36  # a UUID in text
# Every subject that a pipeline reads begins with tenant_id, an Avro string: its length as a zigzag varint, its bytes.
TENANT_LENGTH_BYTE = bytes([TENANT_BYTES << 1])
TENANT_END = PREFIX_BYTES + 1 + TENANT_BYTES

TRACED_RECORDS_MAX = 200  # spans of one batch: traces are samples, they must not cost more than the batch


class Inspected(NamedTuple):
    """A record with a whole envelope: its dedupe key, and what its format found in it.

    `content` is the schema version that wrote it (a `Version`), or the change that it is (`app.cdc.Change`).
    """

    record: Record
    key: bytes
    content: Any


def inspect(records: Sequence[Record], schema: Schema) -> tuple[list[Inspected], list[Dead]]:
    """Split a batch into records to go on with and dead ones, both in offset order."""
    good: list[Inspected] = []
    dead: list[Dead] = []
    # What a value begins with, schema id and tenant, has few forms in a batch: each is checked in full once.
    forms: dict[bytes | None, tuple[bytes, Version]] = {}
    for record in records:
        value, headers = record.value, record.headers
        form = forms.get(value and value[:TENANT_END])
        if form is not None and len(headers) > 1:
            (first, event_id), (second, owner) = headers[0], headers[1]
            if (
                owner == form[0] == record.key
                and first == HEADER_ID
                and second == HEADER_TENANT
                and event_id
                and len(event_id) <= EVENT_ID_BYTES_MAX
            ):
                # A named tuple's own constructor is a Python function, three times as slow.
                good.append(tuple.__new__(Inspected, (record, event_key(owner, event_id), form[1])))
                continue
        try:
            whole = _whole(record, schema)
            good.append(whole)
            start = (value or b"")[:TENANT_END]
            forms[start] = start[PREFIX_BYTES + 1 :], whole.content
        except Poison as poison:
            dead.append(Dead(record, poison, 3, tenant(record)))
    return good, dead


def _whole(record: Record, schema: Schema) -> Inspected:
    """All checks of one record. Raises Poison."""
    value = record.value
    if value is None:
        raise Poison("empty_value", "a record of this topic has a value")
    event_id, owner = _envelope(record)
    version = schema.written_by(value)
    if value[PREFIX_BYTES:TENANT_END] != TENANT_LENGTH_BYTE + owner:
        raise Poison("tenant_mismatch", "the tenant_id in the value is not the one in the header")
    return Inspected(record, event_key(owner, event_id), version)


def _envelope(record: Record) -> tuple[bytes, bytes]:
    """Event id and tenant of a record, both checked."""
    headers = record.headers
    # The producer writes these two first; any other order is looked up.
    if len(headers) > 1 and headers[0][0] == HEADER_ID and headers[1][0] == HEADER_TENANT:
        event_id: bytes | None = headers[0][1]
        owner: bytes | None = headers[1][1]
    else:
        event_id, owner = header(headers, HEADER_ID), header(headers, HEADER_TENANT)
    if not event_id or not owner:
        raise Poison("missing_header", f"{HEADER_ID} and {HEADER_TENANT} are required")
    if len(event_id) > EVENT_ID_BYTES_MAX:
        raise Poison("event_id_too_long", f"{len(event_id)} bytes, {EVENT_ID_BYTES_MAX} are allowed")
    if len(owner) != TENANT_BYTES:
        raise Poison("bad_tenant", f"{HEADER_TENANT} is a UUID of {TENANT_BYTES} characters")
    key = record.key
    if key != owner and (key is None or not key.startswith(owner + b"/")):
        raise Poison("tenant_mismatch", "the record's key is not the tenant in the header")
    return event_id, owner


def tenant(record: Record) -> str:
    """The tenant in a record's header, or "" when it has none that reads as text."""
    return (header(record.headers, HEADER_TENANT) or b"").decode("ascii", "replace")[:TENANT_BYTES]


def followers(
    good: Sequence[Inspected],
    kept: Sequence[Inspected],
    dead: Sequence[Dead],
    tenant_of: Callable[[Record], str] = tenant,
) -> list[Dead]:
    """Duplicates, within the batch, of records that turned out to be poison.

    They share the fate of the first carrier: with only one of the two in the DLQ, a rebuilt table would know the id
    from the other and drop the replay.
    """
    gone = {one.record.offset for one in dead}
    carriers = {one.record.offset for one in kept}
    keys = {one.key for one in kept if one.record.offset in gone}
    poison = Poison("duplicate_of_poison", "the first record with this event id in the batch is poison")
    return [
        Dead(one.record, poison, 5, tenant_of(one.record))
        for one in good
        if one.key in keys and one.record.offset not in carriers
    ]


def observe(pipeline: str, batch: RecordBatch, began_ns: int) -> None:
    """Metrics and traces of a batch that is durable now."""
    now_ns = time.time_ns()
    metrics.BATCH_ROWS.labels(pipeline).observe(len(batch.records))
    for record in (batch.records[0], batch.records[-1]):
        metrics.EVENT_DELAY.labels(pipeline).observe(max(0.0, now_ns / 1e9 - record.timestamp / 1e3))
    if traces.exporting():
        found = (header(record.headers, HEADER_TRACEPARENT) for record in batch.records)
        traced = [value.decode("ascii", "replace") for value in found if value][:TRACED_RECORDS_MAX]
        traces.record_spans(f"{pipeline} insert", traced, began_ns, now_ns)


def observe_warnings(pipeline: str, warnings: Mapping[str, int]) -> None:
    """Count and log what a process has seen and gone on with."""
    for what, count in warnings.items():
        metrics.WARNINGS.labels(pipeline, what).inc(count)
        log.warning("process warns", pipeline=pipeline, what=what, count=count)
