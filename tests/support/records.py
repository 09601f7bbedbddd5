"""Kafka records as plain values: what the transport would hand to the spine, built from a few words."""

import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from app.batch import TP
from app.codec import Codec, Schema
from schemas.envelope import headers

TENANT = "0192f0c1-7e53-7c11-9a1f-5f0d6b1c2a3e"
OTHER_TENANT = "0192f0c1-7e53-7c11-9a1f-5f0d6b1c2a3f"
TRACKING: Schema = Codec.load().schema("tracking-event")
WEBHOOK: Schema = Codec.load().schema("gateway-webhook")
SOURCE = TP("tracking.collected", 3)
TIMESTAMP_MS = 1_760_000_000_000


@dataclass(frozen=True, slots=True)
class PlainRecord:
    """One Kafka record with the attributes of aiokafka's `ConsumerRecord` that the spine reads."""

    offset: int
    value: bytes | None = b"v"
    key: bytes | None = TENANT.encode()
    headers: Sequence[tuple[str, bytes]] = field(default=())
    topic: str = SOURCE.topic
    partition: int = SOURCE.partition
    timestamp: int = TIMESTAMP_MS


def wire(schema_id: int, datum: bytes, magic: int = 0) -> bytes:
    """A datum behind a wire-format prefix of our choice."""
    return struct.pack(">bI", magic, schema_id) + datum


def tracking_value(tenant: str = TENANT, event_id: str = "e-1", **fields: Any) -> bytes:
    """A tracking event as the edge encodes it."""
    times = {"occurred_at": TIMESTAMP_MS, "received_at": TIMESTAMP_MS}
    named = {"tenant_id": uuid.UUID(tenant), "event_id": event_id, "event_type": "click"}
    return TRACKING.encode({**times, **named, **fields})


def tracking_record(offset: int, event_id: str = "e-1", tenant: str = TENANT) -> PlainRecord:
    """A whole record of tracking.collected, as the edge produces it."""
    found = headers(event_id, tenant, "click", TRACKING.name)
    return PlainRecord(offset, tracking_value(tenant, event_id), tenant.encode(), found)


def datums(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    """Any record of a subject, as its producer would hand it to the codec."""
    return _values(schema.latest.parsed)


def _values(kind: Any) -> st.SearchStrategy[Any]:
    if isinstance(kind, list):
        return st.one_of([_values(branch) for branch in kind])
    name = kind if isinstance(kind, str) else kind.get("logicalType", kind["type"])
    if name == "record":
        return st.fixed_dictionaries({field["name"]: _values(field["type"]) for field in kind["fields"]})
    if name == "array":
        return st.lists(_values(kind["items"]), max_size=3)
    if name == "decimal":
        limit = 10 ** kind["precision"] - 1
        return st.integers(-limit, limit).map(lambda digits: Decimal(digits).scaleb(-kind["scale"]))
    return SCALARS[name]


SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "string": st.text(max_size=20),
    "bytes": st.binary(max_size=60),
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "uuid": st.uuids(),
    # What a datetime holds: fastavro reads the type back as one.
    "timestamp-millis": st.integers(-62_135_596_800_000, 253_402_300_799_999),
    "timestamp-micros": st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
    "date": st.integers(-719_162, 2_932_896),
}
