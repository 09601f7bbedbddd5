"""Times as an operator writes them: RFC 3339, or how long ago, as 90m, 24h, 7d."""

import re
from datetime import UTC, datetime, timedelta

from infra.local.faults import Fault

AGE = re.compile(r"(?P<number>[0-9]{1,6})(?P<unit>[smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
TIME_HELP = "RFC 3339, or how long ago: 90m, 24h, 7d."


def milliseconds(text: str, option: str) -> int:
    """Since 1970. A time without a zone is UTC."""
    age = AGE.fullmatch(text)
    if age is not None:
        at = datetime.now(UTC) - timedelta(**{UNITS[age["unit"]]: int(age["number"])})
        return int(at.timestamp() * 1000)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise Fault(f"{option} {text!r} is no time: {TIME_HELP}") from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def shown(at_ms: int) -> str:
    """A time in a table."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
