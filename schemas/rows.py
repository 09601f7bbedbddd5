"""What a row of each ClickHouse table is: the table, and the Avro subject whose fields are its columns.

The columns `_topic`, `_partition` and `_offset` follow the subject's fields in every table; the sink adds them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rows:
    """One table to insert into. `subject` names the Avro schema of its rows, without the source columns."""

    table: str
    subject: str


TRACKING_EVENTS = Rows(table="tracking_events", subject="tracking-event")
GATEWAY_EVENTS = Rows(table="gateway_events", subject="gateway-event")
