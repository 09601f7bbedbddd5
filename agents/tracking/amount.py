"""Money and times of a webhook, read exactly: to the cent and to the millisecond, or refused.

Nothing is rounded and nothing is guessed: an amount that does not fit is poison, and a fixed reader can replay it.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

from agents.tracking.body import Part
from app.errors import Poison
from schemas.currencies import CURRENCIES, CURRENCIES_WITHOUT_CENTS
from schemas.tracking_sales import AMOUNT_DIGITS_MAX, AMOUNT_SCALE, Money

AMOUNT_TEXT = re.compile(rf"[0-9]{{1,{AMOUNT_DIGITS_MAX}}}(\.[0-9]{{1,{AMOUNT_SCALE}}})?")
CENTS_MAX = 10 ** (AMOUNT_DIGITS_MAX + 2) - 1
QUANTUM = Decimal(1).scaleb(-AMOUNT_SCALE)

# A batch may touch 100 monthly partitions in ClickHouse; five years of them leave room, and no gateway re-sends more.
AGE_MAX = timedelta(days=5 * 366)
AHEAD_MAX = timedelta(days=2)  # Kiwify's panel test is approved a day from now
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_MS_MAX = 253_402_300_799_999  # the last millisecond of the year 9999
BRASILIA = timezone(timedelta(hours=-3))  # no daylight saving since 2019
CLOCK_SKEW_MAX = timedelta(minutes=5)
LOCAL_TIME = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}(:\d{2})?", re.ASCII)
RFC3339 = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)


def currency(part: Part, name: str, default: str = "") -> str:
    """An ISO 4217 code of three capital letters."""
    code = part.text(name) or default
    if not code:
        part.refuse("missing_field", name, "an ISO 4217 code, for instance BRL")
    if code not in CURRENCIES:
        part.refuse("bad_currency", name, "an ISO 4217 code in capital letters, for instance BRL")
    return code


def amount_of_number(part: Part, name: str) -> Decimal:
    """A JSON number in major units: 197 or 197.9."""
    value = part.fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        part.refuse("bad_amount", name, "a number")
    return _exact(Decimal(value), part, name)


def amount_of_text(part: Part, name: str) -> Decimal:
    """A decimal as text, the one spelling no JSON library rounds: "197.00"."""
    value = part.fields.get(name)
    if not isinstance(value, str) or not AMOUNT_TEXT.fullmatch(value):
        allowed = f'a decimal as text with at most {AMOUNT_DIGITS_MAX} + {AMOUNT_SCALE} digits, for instance "197.00"'
        part.refuse("bad_amount", name, allowed)
    return _exact(Decimal(value), part, name)


def money_of_cents(part: Part, name: str, currency_name: str, default: str) -> Money:
    """A whole number of hundredths, as a number or as digits, in the currency another field names."""
    code = currency(part, currency_name, default)
    value = part.fields.get(name)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(CENTS_MAX)):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= CENTS_MAX:
        part.refuse("bad_amount", name, f"a whole number of cents from 0 to {CENTS_MAX}")
    if code in CURRENCIES_WITHOUT_CENTS:
        part.refuse("bad_currency", currency_name, f"a currency with cents, since {name} counts them")
    return Money(Decimal(value).scaleb(-2).quantize(QUANTUM), code)


def time_of_epoch_ms(part: Part, name: str, received_at: datetime) -> datetime:
    """Milliseconds since 1970."""
    value = part.whole(name, EPOCH_MS_MAX)
    if value is None:
        part.refuse("missing_field", name, "a time in milliseconds since 1970")
    return _near(EPOCH + timedelta(milliseconds=value), part, name, received_at)


def time_of_rfc3339(part: Part, name: str, received_at: datetime) -> datetime:
    """RFC 3339 with its zone."""
    found = _rfc3339(part.text(name))
    if found is None:
        part.refuse("bad_time", name, "RFC 3339 with a zone, for instance 2026-03-01T12:00:00Z")
    return _near(found, part, name, received_at)


def time_of_brasilia(part: Part, name: str, received_at: datetime) -> datetime:
    """A time that names no zone: Brasilia's, unless that would lie in the future; then it was UTC.

    Kiwify writes real purchases in Brasilia's time and its test events in UTC. A purchase of the last three hours
    is the only one the rule could not tell, and for that one Brasilia's reading is not in the future.
    """
    text = part.text(name)
    found = _rfc3339(text)
    if found is None:
        local = _parsed(text, datetime.fromisoformat) if LOCAL_TIME.fullmatch(text) else None
        if local is None:
            part.refuse("bad_time", name, "YYYY-MM-DD HH:MM[:SS], or RFC 3339")
        found = _utc(local.replace(tzinfo=BRASILIA))
        if found is None or found > received_at + CLOCK_SKEW_MAX:
            found = local.replace(tzinfo=UTC)
    return _near(found, part, name, received_at)


def _exact(value: Decimal, part: Part, name: str) -> Decimal:
    allowed = f"from 0, with at most {AMOUNT_DIGITS_MAX} digits before the point and {AMOUNT_SCALE} after it"
    # The size first: quantising 1E+900000 would build the number.
    if not value.is_finite() or value.is_signed() or value.adjusted() >= AMOUNT_DIGITS_MAX:
        if not (value.is_zero() and value.is_finite()):
            part.refuse("bad_amount", name, allowed)
        return Decimal(0).quantize(QUANTUM)
    if value.is_zero():
        return Decimal(0).quantize(QUANTUM)
    if value.adjusted() < -AMOUNT_SCALE or (rounded := value.quantize(QUANTUM)) != value:
        part.refuse("bad_amount", name, allowed)
    return rounded


def _rfc3339(text: str) -> datetime | None:
    match = RFC3339.fullmatch(text)
    if match is None:
        return None
    day, clock, fraction, zone = match.groups()
    fraction = (fraction or ".0")[:4]  # milliseconds are what the tables hold
    return _parsed(f"{day}T{clock}{fraction:0<4}{zone.upper()}", datetime.fromisoformat)


def _parsed(text: str, read: Callable[[str], datetime]) -> datetime | None:
    try:
        found = read(text)
    except ValueError:
        return None
    return found if found.tzinfo is None else _utc(found)


def _utc(moment: datetime) -> datetime | None:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return None


def _near(moment: datetime, part: Part, name: str, received_at: datetime) -> datetime:
    if not -AGE_MAX <= moment - received_at <= AHEAD_MAX:
        raise Poison(
            "bad_time",
            f"{part.at(name)}: must be at most {AGE_MAX.days} days before the webhook arrived "
            f"and {AHEAD_MAX.days} days after",
        )
    return moment
