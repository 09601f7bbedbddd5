"""Calendar days as every store holds them, and when a day is over: what is due on a day is late after that."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Final

FIRST_DAY: Final = date(1970, 1, 1)
LAST_DAY: Final = date(2149, 6, 6)  # the limits of a Date in ClickHouse
LAST_ZONE: Final = timezone(timedelta(hours=-12))  # where a day ends last: nobody is late before it is over there


def today(now: datetime | None = None) -> date:
    """The day before which everything open is overdue."""
    return (now or datetime.now(UTC)).astimezone(LAST_ZONE).date()
