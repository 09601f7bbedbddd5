"""What a row of each ClickHouse table is: the table, and the Avro subject whose fields are its columns.

The columns `_topic`, `_partition` and `_offset` follow the subject's fields in every table; the sink adds them.
"""

from dataclasses import dataclass

EVENT = ("tenant_id", "event_id")  # ids are unique per tenant
ON_ITS_DAY = ("tenant_id", "id", "due_date")  # a row that moved to another day leaves a tombstone


@dataclass(frozen=True, slots=True, eq=False)  # named once each, and looked up for every row
class Rows:
    """One table to insert into. `subject` names the Avro schema of its rows, without the source columns.

    `unique` names the columns that no two rows share. With a `version`, the row of the highest one counts, of equal
    ones the last: a reader with FINAL sees no difference when the last is inserted twice.
    """

    table: str
    subject: str
    unique: tuple[str, ...] = EVENT
    version: str = ""


TRACKING_EVENTS = Rows(table="tracking_events", subject="tracking-event")
GATEWAY_EVENTS = Rows(table="gateway_events", subject="gateway-event")
BILLS = Rows(table="bills", subject="bill-row", unique=ON_ITS_DAY, version="_version")
BILL_OCCURRENCES = Rows(table="bill_occurrences", subject="bill-occurrence-row", unique=ON_ITS_DAY, version="_version")
CDC_PROGRESS = Rows(table="cdc_progress", subject="cdc-progress-row", unique=("tenant_id",), version="lsn")
