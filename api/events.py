"""One tracking event from JSON to the record of `tracking-event`: checked, time corrected, people made hashes."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import orjson
import uuid_utils
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from api.errors import Fault
from app.pseudonym import EMAIL_CHARACTERS_MAX, PHONE_CHARACTERS_MAX, Pseudonymiser
from schemas import tracking
from schemas.envelope import EVENT_ID_BYTES_MAX

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_FAULTS_MAX: Final = 10  # of one event
_BEFORE_MAX: Final = timedelta(days=tracking.OCCURRED_BEFORE_DAYS_MAX)
_AHEAD_MAX: Final = timedelta(seconds=tracking.OCCURRED_AHEAD_S_MAX)


def _rfc3339(value: object) -> datetime:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 time with a zone, e.g. 2026-01-31T12:00:00.000Z")
    return datetime.fromisoformat(value.upper())


def _printable(value: object) -> object:
    if isinstance(value, str) and not (value.isprintable() and value.strip() == value != ""):
        raise ValueError("must be printable, not empty, and without spaces around it")
    if isinstance(value, str) and len(value.encode()) > EVENT_ID_BYTES_MAX:
        raise ValueError(f"must have at most {EVENT_ID_BYTES_MAX} bytes in UTF-8")
    return value


Time = Annotated[datetime, BeforeValidator(_rfc3339, json_schema_input_type=str)]
Id = Annotated[str, Field(max_length=tracking.ID_CHARACTERS_MAX)]
Utm = Annotated[str, Field(max_length=tracking.UTM_CHARACTERS_MAX)]
ClickId = Annotated[str, Field(max_length=tracking.CLICK_ID_CHARACTERS_MAX)]
Url = Annotated[str, Field(max_length=tracking.URL_CHARACTERS_MAX)]
Money = Annotated[Decimal, Field(max_digits=tracking.MONEY_DIGITS_MAX, decimal_places=tracking.MONEY_DECIMALS_MAX)]


class TrackedEvent(BaseModel):
    """One click, pageview or checkout as a sender writes it. `null` and a missing field mean the same."""

    # Unknown fields are kept aside to be named in a warning: a new field of a sender must not cost its events.
    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    event_type: Literal["click", "pageview", "initiate_checkout"] | None = Field(
        default=None, description="only in /track/batch; elsewhere the path says it"
    )
    event_id: Annotated[str, BeforeValidator(_printable)] | None = Field(
        default=None, description="yours: the same id twice is one event; without it, each is a new one (UUIDv7)"
    )
    occurred_at: Time | None = Field(default=None, description="RFC 3339 with a zone; default: when it arrives")
    sent_at: Time | None = Field(default=None, description="the sender's clock at sending; corrects occurred_at")
    session_id: Id | None = None
    click_id: Id | None = None
    url: Url | None = None
    referrer: Url | None = None
    utm_source: Utm | None = None
    utm_medium: Utm | None = None
    utm_campaign: Utm | None = None
    utm_term: Utm | None = None
    utm_content: Utm | None = None
    fbclid: ClickId | None = None
    gclid: ClickId | None = None
    fbp: Id | None = None
    fbc: ClickId | None = None
    user_id: Id | None = None
    email: Annotated[str, Field(max_length=EMAIL_CHARACTERS_MAX)] | None = Field(
        default=None, description="becomes a keyed hash before it leaves the edge"
    )
    phone: Annotated[str, Field(max_length=PHONE_CHARACTERS_MAX)] | None = Field(
        default=None, description="becomes a keyed hash before it leaves the edge; without +, read as Brazilian"
    )
    value: Money | None = Field(default=None, description="needs a currency; number or string")
    currency: Annotated[str, Field(pattern=r"^[A-Za-z]{3}$")] | None = Field(default=None, description="ISO 4217")
    consent_ads: Annotated[bool, Field(strict=True)] | None = None
    properties: dict[str, Any] | None = Field(default=None, description="anything else; 5 levels, 16 KiB as JSON")

    @model_validator(mode="after")
    def _value_has_currency(self) -> "TrackedEvent":
        if self.value is not None and self.currency is None:
            raise ValueError("value needs a currency")
        return self


# What goes into the record as it is, null becoming "".
_TEXTS: Final = (
    "session_id", "click_id", "url", "referrer", "utm_source", "utm_medium", "utm_campaign", "utm_term",
    "utm_content", "fbclid", "gclid", "fbp", "fbc", "user_id",
)  # fmt: skip


class Rejected(Exception):  # noqa: N818 - a verdict
    """One event is not taken; the others of the request may be."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(faults[0]["code"])
        self.faults = faults


class Reader:
    """Turns the events of one request into records. All of them share tenant and time of arrival."""

    def __init__(self, tenant_id: str, event_type: str | None, people: Pseudonymiser, now: datetime) -> None:
        self._tenant_id = tenant_id
        self._event_type = event_type
        self._people = people
        self._now = now
        self._received_ms = (now - EPOCH) // MILLISECOND
        self._earliest = now - _BEFORE_MAX
        self._latest = now + _AHEAD_MAX
        self.warnings: list[Fault] = []

    def record(self, document: object, pointer: str, sent_at: datetime | None = None) -> dict[str, Any]:
        """The record of one event at `pointer`, or Rejected."""
        if not isinstance(document, dict):
            raise Rejected([{"pointer": pointer, "code": "not_an_object", "detail": "an event is a JSON object"}])
        try:
            event = TrackedEvent.model_validate(document)
        except ValidationError as error:
            raise Rejected(faults_of(error, pointer)) from None
        if event.model_extra:
            self._warn_unknown(event.model_extra, pointer)
        fields = event.__dict__  # asked for by attribute, fourteen texts cost as much as to validate them
        record: dict[str, Any] = {name: fields[name] or "" for name in _TEXTS}
        record["tenant_id"] = self._tenant_id
        record["event_id"] = event.event_id or str(uuid_utils.uuid7())
        record["event_type"] = self._type(event, pointer)
        record["occurred_at"] = self._occurred_ms(event, pointer, sent_at)
        record["received_at"] = self._received_ms
        record["value"] = event.value
        record["currency"] = (event.currency or "").upper()
        record["consent_ads"] = event.consent_ads
        record["properties"] = self._properties(event, pointer)
        record["email_hash"] = self._hash(event.email, self._people.email, pointer, "email")
        record["phone_hash"] = self._hash(event.phone, self._people.phone, pointer, "phone")
        return record

    def _type(self, event: TrackedEvent, pointer: str) -> str:
        if self._event_type is None:
            if event.event_type is None:
                text = f"each event of a batch needs an event_type: {', '.join(tracking.EVENT_TYPES)}"
                raise Rejected([{"pointer": f"{pointer}/event_type", "code": "missing", "detail": text}])
            return event.event_type
        if event.event_type not in {None, self._event_type}:
            text = f"the path says {self._event_type}; other types go to their own path or to /track/batch"
            raise Rejected([{"pointer": f"{pointer}/event_type", "code": "other_type", "detail": text}])
        return self._event_type

    def _occurred_ms(self, event: TrackedEvent, pointer: str, sent_at: datetime | None) -> int:
        if event.occurred_at is None:
            return self._received_ms
        occurred = event.occurred_at
        sent = event.sent_at or sent_at
        if sent is not None and abs((self._now - sent).total_seconds()) > tracking.SKEW_IGNORED_S:
            try:
                occurred += self._now - sent
            except OverflowError:
                occurred = datetime.max.replace(tzinfo=UTC)
        if self._earliest <= occurred <= self._latest:
            return (occurred - EPOCH) // MILLISECOND
        early = occurred < self._earliest
        code = "occurred_at_too_old" if early else "occurred_at_in_future"
        text = (
            f"occurred_at lies more than {tracking.OCCURRED_BEFORE_DAYS_MAX} days back"
            if early
            else f"occurred_at lies more than {tracking.OCCURRED_AHEAD_S_MAX} s ahead"
        )
        raise Rejected([{"pointer": f"{pointer}/occurred_at", "code": code, "detail": text}])

    def _properties(self, event: TrackedEvent, pointer: str) -> str:
        if not event.properties:
            return "{}"
        if _deeper_than(event.properties, tracking.PROPERTIES_DEPTH_MAX):
            text = f"properties nest at most {tracking.PROPERTIES_DEPTH_MAX} levels"
            raise Rejected([{"pointer": f"{pointer}/properties", "code": "too_deep", "detail": text}])
        written = orjson.dumps(event.properties)
        if len(written) > tracking.PROPERTIES_BYTES_MAX:
            text = f"properties have at most {tracking.PROPERTIES_BYTES_MAX} bytes as JSON"
            raise Rejected([{"pointer": f"{pointer}/properties", "code": "too_large", "detail": text}])
        return written.decode()

    def _hash(self, text: str | None, make: Any, pointer: str, name: str) -> str:
        if not text:
            return ""
        hashed: str = make(self._tenant_id, text)
        if not hashed:
            # Forms let anything through; the click is worth keeping without the hash.
            self.warnings.append({"pointer": f"{pointer}/{name}", "code": "not_understood", "detail": "left empty"})
        return hashed

    def _warn_unknown(self, extra: dict[str, Any], pointer: str) -> None:
        for name in list(extra)[:_FAULTS_MAX]:
            escaped = name[:100].replace("~", "~0").replace("/", "~1")
            text = "not a field of an event and not stored; put it under properties"
            self.warnings.append({"pointer": f"{pointer}/{escaped}", "code": "unknown_field", "detail": text})


def faults_of(error: ValidationError, pointer: str) -> list[Fault]:
    """What pydantic found, without the values it found it in."""
    faults: list[Fault] = []
    for found in error.errors(include_url=False, include_input=False, include_context=False)[:_FAULTS_MAX]:
        where = "".join(f"/{part}" for part in found["loc"])
        text = found["msg"].removeprefix("Value error, ")
        code = "currency_required" if text == "value needs a currency" else found["type"]
        faults.append({"pointer": pointer + where, "code": code, "detail": text})
    return faults


def sent_at_of(document: dict[str, Any]) -> datetime | None:
    """The `sent_at` beside a list of events. ValueError when it is none."""
    return None if document.get("sent_at") is None else _rfc3339(document["sent_at"])


def _deeper_than(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        return levels == 0 or any(_deeper_than(inner, levels - 1) for inner in value.values())
    if isinstance(value, list):
        return levels == 0 or any(_deeper_than(inner, levels - 1) for inner in value)
    return False
