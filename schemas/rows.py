"""What a row of each ClickHouse table is: the table, and the Avro subject whose fields are its columns.

The columns `_topic`, `_partition` and `_offset` follow the subject's fields in every table; the sink adds them.
"""

from dataclasses import dataclass

EVENT = ("tenant_id", "event_id")  # ids are unique per tenant
CHANGE = ("tenant_id", "id", "_version", "is_deleted")  # a row that moved leaves a tombstone of the same version


@dataclass(frozen=True, slots=True)
class Rows:
    """One table to insert into. `subject` names the Avro schema of its rows, without the source columns.

    `unique` names the columns that no two rows share. A `mirror` keeps the row with the highest version, so inserting
    one twice changes nothing for a reader with FINAL.
    """

    table: str
    subject: str
    unique: tuple[str, ...] = EVENT
    mirror: bool = False


TRACKING_EVENTS = Rows(table="tracking_events", subject="tracking-event")
GATEWAY_EVENTS = Rows(table="gateway_events", subject="gateway-event")
BILLS = Rows(table="bills", subject="bill-row", unique=CHANGE, mirror=True)
BILL_OCCURRENCES = Rows(table="bill_occurrences", subject="bill-occurrence-row", unique=CHANGE, mirror=True)
CDC_PROGRESS = Rows(table="cdc_progress", subject="cdc-progress-row", unique=("tenant_id", "lsn"), mirror=True)
