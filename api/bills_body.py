"""Bodies of the bills routes, read strictly: what is wrong is refused with its field and with what is allowed.

A bill is kept for years and paid by it, so nothing is guessed, rounded or dropped: an unknown field is an error here.
"""

import re
import unicodedata
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from api.bills_rules import AMOUNT_MAX, FIRST_DAY, LAST_DAY, OCCURRENCES_MAX, count_until
from api.errors import Fault, Refusal
from api.events import EPOCH, Time
from schemas.currencies import CURRENCIES

CATEGORY_CHARACTERS_MAX: Final = 100
DESCRIPTION_CHARACTERS_MAX: Final = 500
USER_CHARACTERS_MAX: Final = 128
VERSION_MAX: Final = (1 << 63) - 1  # a bigint
PAID_AHEAD_MAX: Final = timedelta(days=1)  # clocks and zones; a payment of next week has not been made
FAULTS_MAX: Final = 20  # of one body; it has fewer fields

_MONEY: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,2})?", re.ASCII)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_MONEY_ALLOWED: Final = (
    f'must be above 0 and at most {AMOUNT_MAX}, with at most 2 decimals, as text ("1234.50") or as a whole number'
)
_DATE_ALLOWED: Final = f"must be a day that exists, as text YYYY-MM-DD, from {FIRST_DAY} to {LAST_DAY}"
_CURRENCY_ALLOWED: Final = "must be an ISO 4217 code of money in use, in capitals, e.g. BRL"


def money(value: object) -> Decimal:
    """Exact or refused: a JSON number with a point has been through binary floating point somewhere."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _MONEY.fullmatch(text) or not Decimal(text):
        raise ValueError(_MONEY_ALLOWED)
    return Decimal(text).quantize(Decimal("0.01"))


def day(value: object) -> date:
    """A calendar day within what every store can hold."""
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise ValueError(_DATE_ALLOWED)
    try:
        found = date.fromisoformat(value)
    except ValueError:
        raise ValueError(_DATE_ALLOWED) from None
    if not FIRST_DAY <= found <= LAST_DAY:
        raise ValueError(_DATE_ALLOWED)
    return found


def _currency(value: object) -> object:
    if not isinstance(value, str) or value not in CURRENCIES:
        raise ValueError(_CURRENCY_ALLOWED)
    return value


def _plain(value: object) -> object:
    if isinstance(value, str) and any(unicodedata.category(character) == "Cc" for character in value):
        raise ValueError("must be text without control characters or line breaks")
    return value


def _named(value: object) -> object:
    if isinstance(value, str) and value.strip() != value:
        raise ValueError("must have no spaces around it")
    return _plain(value)


def _paid_at(value: datetime) -> datetime:
    if not EPOCH <= value <= datetime.now(UTC) + PAID_AHEAD_MAX:
        raise ValueError(f"must lie between {FIRST_DAY} and a day from now")
    return value


def _whole(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")  # noqa: TRY004 - pydantic reports ValueErrors
    return value


Money = Annotated[Decimal, BeforeValidator(money, json_schema_input_type=str | int)]
PaidAt = Annotated[Time, AfterValidator(_paid_at)]
Day = Annotated[date, BeforeValidator(day, json_schema_input_type=str)]
Category = Annotated[str, Field(max_length=CATEGORY_CHARACTERS_MAX), BeforeValidator(_named)]
Description = Annotated[str, Field(max_length=DESCRIPTION_CHARACTERS_MAX), BeforeValidator(_plain)]
User = Annotated[str, Field(min_length=1, max_length=USER_CHARACTERS_MAX), BeforeValidator(_named)]
Currency = Annotated[str, BeforeValidator(_currency)]
Count = Annotated[int, Field(ge=1, le=OCCURRENCES_MAX), BeforeValidator(_whole)]
Version = Annotated[int, Field(ge=1, le=VERSION_MAX), BeforeValidator(_whole)]


class _Body(BaseModel):
    # `null` and a missing field mean the same, as in tracking.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class NewBill(_Body):
    """A bill to be made: once, in installments, or again and again."""

    user_id: User = Field(description="whose bill it is, among the tenant's users")
    description: Description = ""
    category: Category = ""
    amount: Money = Field(description="of all installments together; of each occurrence of a recurrence")
    currency: Currency = Field(description="ISO 4217")
    due_date: Day = Field(description="of the first occurrence")
    recurrence: Literal["none", "weekly", "monthly", "yearly"] = "none"
    installments: Count = Field(default=1, description="monthly parts of the amount")
    count: Count | None = Field(default=None, description="of a recurrence: how many occurrences")
    until: Day | None = Field(default=None, description="of a recurrence: the last day one may be due")

    @model_validator(mode="after")
    def _one_way_to_repeat(self) -> Self:
        repeats = self.recurrence != "none"
        if repeats and self.installments > 1:
            raise ValueError("installments: a recurrence has no installments; leave one of them out")
        if repeats and (self.count is None) == (self.until is None):
            raise ValueError("count: a recurrence needs either count or until")
        if not repeats and (self.count is not None or self.until is not None):
            raise ValueError("recurrence: count and until need a recurrence: weekly, monthly or yearly")
        if self.until is not None and not 1 <= self.times() <= OCCURRENCES_MAX:
            raise ValueError(f"until: must be on or after due_date and give at most {OCCURRENCES_MAX} occurrences")
        return self

    def times(self) -> int:
        """How many occurrences the bill has."""
        if self.recurrence == "none":
            return self.installments
        return self.count or count_until(self.due_date, self.recurrence, self.until or self.due_date)


class _Changes(_Body):
    @model_validator(mode="after")
    def _something(self) -> Self:
        if all(getattr(self, name) is None for name in type(self).model_fields if name != "version"):
            raise ValueError(": changes nothing; send at least one field to change")
        return self


class BillChange(_Changes):
    """Fields of a bill to change. What is paid stays as it was paid."""

    user_id: User | None = None
    description: Description | None = None
    category: Category | None = None
    amount: Money | None = Field(default=None, description="the new whole; what is unpaid is split anew")
    due_date: Day | None = Field(default=None, description="of the first occurrence; what is unpaid is planned anew")
    status: Literal["open", "cancelled"] | None = Field(default=None, description="of all that is unpaid")
    version: Version | None = Field(default=None, description="the version you saw; or send If-Match")


class OccurrenceChange(_Changes):
    """Fields of one occurrence to change. While it is paid, only category and user_id may."""

    user_id: User | None = None
    category: Category | None = None
    amount: Money | None = None
    due_date: Day | None = None
    status: Literal["open", "cancelled"] | None = None
    version: Version | None = Field(default=None, description="the version you saw; or send If-Match")


class Payment(_Body):
    """When it was paid; now, if nothing is said."""

    paid_at: PaidAt | None = Field(default=None, description="RFC 3339 with a zone; default: now")
    version: Version | None = Field(default=None, description="the version you saw; or send If-Match")


class OnlyVersion(_Body):
    """Nothing but the version that the change is for."""

    version: Version | None = Field(default=None, description="the version you saw; or send If-Match")


B = TypeVar("B", bound=_Body)


def parse(model: type[B], document: Any) -> B:
    """The body, or 422 with every field that is wrong."""
    if not isinstance(document, dict):
        raise refused([{"pointer": "", "code": "not_an_object", "detail": "the body is a JSON object"}])
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise refused(_faults(error, model)) from None


def refused(faults: list[Fault]) -> Refusal:
    """422 for a body; its text names the first field."""
    first = faults[0]
    return Refusal(422, "invalid_body", f"{first['pointer'] or 'the body'}: {first['detail']}", errors=faults)


def _faults(error: ValidationError, model: type[_Body]) -> list[Fault]:
    faults: list[Fault] = []
    for found in error.errors(include_url=False, include_input=False, include_context=False)[:FAULTS_MAX]:
        place = [str(part)[:100].replace("~", "~0").replace("/", "~1") for part in found["loc"]]
        text = found["msg"].removeprefix("Value error, ")
        code = str(found["type"])
        if code == "extra_forbidden":
            code, text = "unknown_field", f"not a field here; there are {', '.join(model.model_fields)}"
        elif not place:  # a rule over several fields: its text begins with the one to mend
            name, _, text = text.partition(": ")
            place = [name] if name else []
        faults.append({"pointer": "".join(f"/{part}" for part in place), "code": code, "detail": text})
    return faults
