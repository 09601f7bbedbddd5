"""Bills as they cross boundaries: the tables that CDC follows, and the domain events. Fields are in schemas/avro/."""

from collections.abc import Mapping
from typing import Final

BILLS: Final = "bills"
OCCURRENCES: Final = "bill_occurrences"
HEARTBEATS: Final = "cdc_heartbeats"

# Primary keys. The tenant comes first: rows are the tenant's, and so is their order.
KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    BILLS: ("tenant_id", "id"),
    OCCURRENCES: ("tenant_id", "id"),
    HEARTBEATS: ("tenant_id",),
}

BILL_CREATED: Final = "bill_created"
BILL_UPDATED: Final = "bill_updated"
BILL_DELETED: Final = "bill_deleted"
OCCURRENCE_CREATED: Final = "bill_occur_created"
OCCURRENCE_UPDATED: Final = "bill_occur_updated"
OCCURRENCE_DELETED: Final = "bill_occur_deleted"
OCCURRENCE_STATUS_CHANGED: Final = "bill_occur_status_changed"
EVENT_TYPES: Final = (
    BILL_CREATED,
    BILL_UPDATED,
    BILL_DELETED,
    OCCURRENCE_CREATED,
    OCCURRENCE_UPDATED,
    OCCURRENCE_STATUS_CHANGED,
    OCCURRENCE_DELETED,
)
EVENT_VERSION: Final = 1

MONEY_DIGITS_MAX: Final = 14  # numeric(14, 2) in Postgres, Decimal(14, 2) in Avro and ClickHouse
MONEY_DECIMALS: Final = 2
DATE_DAYS_MAX: Final = 65_535  # 2149-06-06, the last Date of ClickHouse, in days since 1970
SMALL_MAX: Final = 65_535  # UInt16
YEAR_MIN: Final = 1900  # DateTime64
YEAR_MAX: Final = 2299
