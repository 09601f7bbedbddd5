"""What a list of bills may be asked for: filters, order, page.

An unknown parameter is refused: a misspelt filter would show everything.
"""

from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.bills_body import Category, Currency, Day, User
from api.bills_reads import PAGE_DEFAULT, PAGE_MAX
from api.cursor import CHARACTERS_MAX

_CONDITIONS: Final = {
    "status": "status = {}",
    "category": "category = {}",
    "user_id": "user_id = {}",
    "currency": "currency = {}",
    "due_from": "due_date >= {}",
    "due_to": "due_date <= {}",
}


class _Filters(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    status: Literal["open", "paid", "overdue", "cancelled"] | None = None
    category: Category | None = Field(default=None, description="exactly; empty: those without one")
    user_id: User | None = None
    currency: Currency | None = None
    due_from: Day | None = Field(default=None, description="first day")
    due_to: Day | None = Field(default=None, description="last day")
    limit: int = Field(default=PAGE_DEFAULT, ge=1, le=PAGE_MAX)
    cursor: str | None = Field(
        default=None, max_length=CHARACTERS_MAX, description="`next_cursor` of the page before; the rest as it was"
    )

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.due_from is not None and self.due_to is not None and self.due_to < self.due_from:
            raise ValueError("due_to must be on or after due_from")
        return self

    def conditions(self) -> dict[str, Any]:
        """The filters that are set, by condition."""
        values = {condition: getattr(self, name) for name, condition in _CONDITIONS.items()}
        return {condition: value for condition, value in values.items() if value is not None}


class BillFilters(_Filters):
    """Of bills; due_date is that of the first occurrence."""

    sort: Literal["due_date", "-due_date", "created_at", "-created_at"] = "due_date"


class OccurrenceFilters(_Filters):
    """Of occurrences."""

    sort: Literal["due_date", "-due_date", "created_at", "-created_at"] = "due_date"


class InBillFilters(_Filters):
    """Of the occurrences of one bill."""

    sort: Literal["number", "-number", "due_date", "-due_date"] = "number"
