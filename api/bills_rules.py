"""The rules of bills, pure: a bill and its occurrences before, what is asked for, and how they are afterwards.

`api/bills_writes.py` loads a bill, calls one function here, and saves what differs. The laws, each with a test:
occurrences of one bill add up to its amount to the cent (a recurrence: each is that amount); the n-th due date keeps
the day of the first one where its month has it; a bill's status follows from its occurrences.
"""

import calendar
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final, Literal
from uuid import UUID

import uuid_utils.compat as uuid_utils

from api.errors import Fault, Refusal
from schemas.currencies import CURRENCIES_WHOLE
from schemas.days import LAST_DAY

OCCURRENCES_MAX: Final = 480  # of one bill: 40 years of months, 9 of weeks; what one transaction writes in 50 ms
AMOUNT_MAX: Final = Decimal("999999999999.99")  # numeric(14, 2)

Recurrence = Literal["none", "weekly", "monthly", "yearly"]
Status = Literal["open", "paid", "overdue", "cancelled"]
MONTHS: Final = {"none": 1, "monthly": 1, "yearly": 12}  # installments go by the month
UNPAID: Final = frozenset({"open", "overdue"})


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One date on which a part of a bill is due."""

    id: UUID
    number: int
    amount: Decimal
    due_date: date
    status: Status
    category: str
    user_id: str
    paid_at: datetime | None = None
    version: int = 0


@dataclass(frozen=True, slots=True)
class Bill:
    """A bill with all its occurrences, by number."""

    id: UUID
    user_id: str
    description: str
    category: str
    amount: Decimal
    currency: str
    due_date: date
    recurrence: Recurrence
    installments: int
    occurrences: tuple[Occurrence, ...]
    status: Status = "open"
    paid_at: datetime | None = None
    version: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What is asked of a bill or an occurrence; None leaves a field as it is."""

    description: str | None = None
    category: str | None = None
    user_id: str | None = None
    amount: Decimal | None = None
    due_date: date | None = None
    status: Literal["open", "cancelled"] | None = None


def unit_of(currency: str) -> Decimal:
    """The smallest amount of a currency that is kept."""
    return Decimal(1) if currency in CURRENCIES_WHOLE else Decimal("0.01")


def split(amount: Decimal, parts: int, unit: Decimal) -> list[Decimal]:
    """Parts that add up exactly; the first ones carry the rest, one unit each."""
    units, rest = divmod(int(amount / unit), parts)
    return [unit * (units + (index < rest)) for index in range(parts)]


def due_on(first: date, recurrence: Recurrence, number: int) -> date:
    """The due date of the n-th occurrence, from the first one: a short month shortens no other.

    OverflowError when the calendar ends before.
    """
    if recurrence == "weekly":
        return first + timedelta(weeks=number - 1)
    years, month = divmod(first.month - 1 + (number - 1) * MONTHS[recurrence], 12)
    year = first.year + years
    if year > LAST_DAY.year:
        raise OverflowError
    return date(year, month + 1, min(first.day, calendar.monthrange(year, month + 1)[1]))


def count_until(first: date, recurrence: Recurrence, until: date) -> int:
    """How many occurrences there are up to a day, OCCURRENCES_MAX + 1 standing for more."""
    for number in range(1, OCCURRENCES_MAX + 2):
        try:
            if due_on(first, recurrence, number) > until:
                return number - 1
        except OverflowError:
            return number - 1
    return OCCURRENCES_MAX + 1


def plan(bill: Bill, count: int, day: date) -> Bill:
    """A new bill with its occurrences: `count` of them, or as many as it has installments."""
    count = count if bill.recurrence != "none" else bill.installments
    unit = unit_of(bill.currency)
    one_each = bill.recurrence != "none"
    amounts = [bill.amount] * count if one_each else split(_enough(bill.amount, count, unit), count, unit)
    dates = _dates(bill, count, "count" if one_each else "installments")
    occurrences = tuple(
        Occurrence(uuid_utils.uuid7(), number, amount, due, _due_status(due, day), bill.category, bill.user_id)
        for number, (amount, due) in enumerate(zip(amounts, dates, strict=True), 1)
    )
    return settled(replace(bill, occurrences=occurrences))


def pay(bill: Bill, occurrence: Occurrence, paid_at: datetime) -> Bill:
    """Mark one occurrence as paid. Twice is refused: two people of a household must not both believe they paid it."""
    if occurrence.status not in UNPAID:
        raise conflict(f"already_{occurrence.status}", f"the occurrence is {occurrence.status}", occurrence.version)
    return _with(bill, replace(occurrence, status="paid", paid_at=paid_at))


def unpay(bill: Bill, occurrence: Occurrence, day: date) -> Bill:
    """Take a payment back; the occurrence is open or overdue again, by its date."""
    if occurrence.status != "paid":
        raise conflict("not_paid", f"the occurrence is {occurrence.status}, not paid", occurrence.version)
    return _with(bill, replace(occurrence, status=_due_status(occurrence.due_date, day), paid_at=None))


def change_occurrence(bill: Bill, occurrence: Occurrence, change: Change, day: date) -> Bill:
    """Edit, cancel or reopen one occurrence. The amount of a bill in installments follows its parts."""
    planned = change.amount is not None or change.due_date is not None or change.status is not None
    if occurrence.status == "paid" and planned:
        text = "the occurrence is paid; unpay it before you change amount, due_date or status"
        raise conflict("already_paid", text, occurrence.version)
    if change.amount is not None:
        _enough(change.amount, 1, unit_of(bill.currency))
    changed = _edited(occurrence, change, day)
    after = _with(bill, replace(changed, amount=change.amount or occurrence.amount))
    if occurrence.number == 1:
        after = replace(after, due_date=changed.due_date)
    if bill.recurrence == "none":
        total = sum((part.amount for part in after.occurrences), Decimal(0))
        if total > AMOUNT_MAX:
            raise _invalid("/amount", "too_large", f"the bill would be above {AMOUNT_MAX}")
        after = replace(after, amount=total)
    return after


def change_bill(bill: Bill, change: Change, day: date) -> Bill:
    """Edit, cancel or reopen a bill. What is paid stays as it was paid; the change falls on what is not."""
    touched = [part for part in bill.occurrences if part.status != "paid"]
    if not touched and (change.amount is not None or change.due_date is not None or change.status is not None):
        text = "every occurrence is paid; unpay one before you change amount, due_date or status"
        raise conflict("already_paid", text, bill.version)
    after = replace(
        bill,
        description=bill.description if change.description is None else change.description,
        category=bill.category if change.category is None else change.category,
        user_id=change.user_id or bill.user_id,
        due_date=change.due_date or bill.due_date,
    )
    dates = {part.number: part.due_date for part in bill.occurrences}
    if change.due_date is not None:
        planned = _dates(after, max(dates), "due_date")
        dates |= {part.number: planned[part.number - 1] for part in touched}
    words = replace(change, amount=None, due_date=None, status=None)  # category and user hold for paid ones too
    parts = [
        _edited(part, words if part.status == "paid" else replace(change, due_date=dates[part.number]), day)
        for part in bill.occurrences
    ]
    after = replace(after, occurrences=tuple(parts))
    if change.amount is not None:
        after = _with_amount(after, change.amount)
    return settled(after)


def settled(bill: Bill) -> Bill:
    """The bill with the status that follows from its occurrences.

    Cancelled ones do not count, unless there is no other: then it is cancelled. All paid: paid, when the last one was.
    One overdue: overdue. Else open.
    """
    live = [part for part in bill.occurrences if part.status != "cancelled"]
    if not live:
        return replace(bill, status="cancelled", paid_at=None)
    paid = [part.paid_at for part in live if part.paid_at is not None]
    if len(paid) == len(live):
        return replace(bill, status="paid", paid_at=max(paid))
    late = any(part.status == "overdue" for part in live)
    return replace(bill, status="overdue" if late else "open", paid_at=None)


def conflict(code: str, text: str, version: int) -> Refusal:
    """409 with the version that is current, so that a client can look and decide."""
    return Refusal(409, code, text, headers={"ETag": f'"{version}"'}, members={"current_version": version})


def _with(bill: Bill, changed: Occurrence) -> Bill:
    parts = tuple(changed if part.id == changed.id else part for part in bill.occurrences)
    return settled(replace(bill, occurrences=parts))


def _with_amount(bill: Bill, amount: Decimal) -> Bill:
    unit = unit_of(bill.currency)
    unpaid = [part for part in bill.occurrences if part.status in UNPAID]
    if not unpaid:
        raise conflict("nothing_open", "no occurrence is open, so no amount can change", bill.version)
    if bill.recurrence != "none":
        amounts = [_enough(amount, 1, unit)] * len(unpaid)
    else:
        fixed = sum((part.amount for part in bill.occurrences if part.status not in UNPAID), Decimal(0))
        amounts = split(_enough(amount - fixed, len(unpaid), unit, fixed), len(unpaid), unit)
    shares = {part.id: share for part, share in zip(unpaid, amounts, strict=True)}
    parts = tuple(replace(part, amount=shares.get(part.id, part.amount)) for part in bill.occurrences)
    return replace(bill, amount=amount, occurrences=parts)


def _edited(part: Occurrence, change: Change, day: date) -> Occurrence:
    due = change.due_date or part.due_date
    status = part.status if change.status is None else change.status
    if status in UNPAID:
        status = _due_status(due, day)
    category = part.category if change.category is None else change.category
    return replace(part, due_date=due, status=status, category=category, user_id=change.user_id or part.user_id)


def _due_status(due: date, day: date) -> Status:
    return "overdue" if due < day else "open"


def _dates(bill: Bill, count: int, field: str) -> list[date]:
    try:
        dates = [due_on(bill.due_date, bill.recurrence, number) for number in range(1, count + 1)]
    except OverflowError:
        dates = [date.max]
    if dates[-1] > LAST_DAY:
        raise _invalid(f"/{field}", "too_far", f"the last occurrence would be due after {LAST_DAY}")
    return dates


def _enough(amount: Decimal, parts: int, unit: Decimal, fixed: Decimal = Decimal(0)) -> Decimal:
    if amount % unit:
        raise _invalid("/amount", "not_whole", "an amount in this currency is a whole number")
    if amount < unit * parts:
        least = f"at least {fixed + unit * parts}: {unit} for each of {parts} unpaid occurrences"
        raise _invalid("/amount", "too_small", least + (f", and {fixed} that are settled" if fixed else ""))
    return amount


def _invalid(pointer: str, code: str, text: str) -> Refusal:
    fault: Fault = {"pointer": pointer, "code": code, "detail": text}
    return Refusal(422, "invalid_bill", text, errors=[fault])
