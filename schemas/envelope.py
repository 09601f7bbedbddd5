"""The envelope: what every record on our own topics carries in its Kafka headers, besides the Avro value.

Names are CloudEvents 1.0 attributes in their Kafka binding (`ce_` prefix), plus the tenant as an extension and
the W3C trace context. The hot path routes and dedupes on headers alone, without decoding the value.
"""

from collections.abc import Sequence

HEADER_ID = "ce_id"  # event id, unique per tenant within the dedupe window
HEADER_TENANT = "ce_tenant"  # tenant id, a UUID in its 36-character form; from the credential, never the body
HEADER_TYPE = "ce_type"  # event type, past tense, e.g. `click`
HEADER_SCHEMA = "ce_dataschema"  # subject/version of the Avro schema, e.g. `tracking-event/1`
HEADER_TRACEPARENT = "traceparent"  # W3C trace context; absent when nothing traces

EVENT_ID_BYTES_MAX = 128  # long enough for any UUID, ULID or gateway id; short enough to keep state small

Headers = Sequence[tuple[str, bytes]]


def headers(event_id: str, tenant_id: str, event_type: str, schema: str) -> list[tuple[str, bytes]]:
    """The headers of one record, in the fixed order that readers check first."""
    return [
        (HEADER_ID, event_id.encode()),
        (HEADER_TENANT, tenant_id.encode()),
        (HEADER_TYPE, event_type.encode()),
        (HEADER_SCHEMA, schema.encode()),
    ]


def header(found: Headers, name: str) -> bytes | None:
    """The first header of that name, or None."""
    for key, value in found:
        if key == name:
            return value
    return None
