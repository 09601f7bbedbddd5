"""The rules of bills: amounts add up, dates keep their day, and a status follows from its occurrences."""

import calendar
import random
import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import bills_rules as rules
from api.bills_rules import Bill, Change, Occurrence
from api.errors import Refusal
from schemas.days import today

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
TODAY = today(NOW)
CENT = Decimal("0.01")
days = st.dates(date(1970, 1, 1), date(2060, 12, 31))
cents = st.integers(1, 10**14 - 1).map(lambda count: CENT * count)


def new_bill(amount: Decimal = Decimal(100), **fields: object) -> Bill:
    given_fields: dict[str, object] = {
        "id": uuid.uuid4(), "user_id": "u", "description": "", "category": "", "amount": amount, "currency": "BRL",
        "due_date": date(2090, 1, 31), "recurrence": "none", "installments": 1, "occurrences": (), **fields,
    }  # fmt: skip
    return Bill(**given_fields)  # type: ignore[arg-type]


def total(bill: Bill) -> Decimal:
    return sum((part.amount for part in bill.occurrences), Decimal(0))


@given(cents, st.integers(1, 480))
def test_parts_add_up_and_differ_by_a_cent_at_most(amount: Decimal, parts: int) -> None:
    """Whatever is split, not a cent is lost or made, and nobody pays a cent more than another but one."""
    shares = rules.split(amount, parts, CENT)
    assert len(shares) == parts
    assert sum(shares) == amount
    assert max(shares) - min(shares) <= CENT
    assert shares == sorted(shares, reverse=True)


@given(st.integers(1, 10**12), st.integers(1, 480))
def test_money_without_cents_is_split_into_whole_amounts(amount: int, parts: int) -> None:
    """There is no third of a yen."""
    shares = rules.split(Decimal(amount), parts, rules.unit_of("JPY"))
    assert sum(shares) == amount
    assert all(share == int(share) for share in shares)


@given(days, st.integers(1, 480), st.sampled_from(["none", "monthly", "yearly"]))
def test_months_keep_the_day_or_end_sooner(first: date, number: int, recurrence: str) -> None:
    """The n-th date is n - 1 steps later, on the same day, or on the last one of a month that lacks it."""
    try:
        due = rules.due_on(first, recurrence, number)  # type: ignore[arg-type]
    except OverflowError:
        assert first.year + (number - 1) * (12 if recurrence == "yearly" else 1) // 12 >= 2148
        return
    months = (due.year - first.year) * 12 + due.month - first.month
    assert months == (number - 1) * rules.MONTHS[recurrence]
    assert due.day == min(first.day, calendar.monthrange(due.year, due.month)[1])


def test_the_end_of_january_comes_back_in_march() -> None:
    """A short month shortens no other, in leap years and in others."""
    for year, february in ((2024, 29), (2026, 28), (2100, 28), (2000, 29)):
        dates = [rules.due_on(date(year, 1, 31), "monthly", number) for number in (1, 2, 3, 4)]
        assert dates == [date(year, 1, 31), date(year, 2, february), date(year, 3, 31), date(year, 4, 30)]
    assert rules.due_on(date(2024, 2, 29), "yearly", 5) == date(2028, 2, 29)


@given(days, st.sampled_from(["weekly", "monthly", "yearly"]), st.integers(0, 4000))
def test_until_takes_every_date_up_to_its_day_and_no_other(first: date, recurrence: str, span: int) -> None:
    """The last occurrence is on or before `until`, and one more would be after it."""
    until = first + timedelta(days=span)
    count = rules.count_until(first, recurrence, until)  # type: ignore[arg-type]
    if count <= rules.OCCURRENCES_MAX:
        assert rules.due_on(first, recurrence, count) <= until  # type: ignore[arg-type]
        assert rules.due_on(first, recurrence, count + 1) > until  # type: ignore[arg-type]


def test_a_day_is_over_when_it_is_over_everywhere() -> None:
    """At 11:59 UTC it is still yesterday somewhere; at 12:00 it is not."""
    assert today(datetime(2026, 11, 25, 11, 59, tzinfo=UTC)) == date(2026, 11, 24)
    assert today(datetime(2026, 11, 25, 12, 0, tzinfo=UTC)) == date(2026, 11, 25)


STATUSES = st.lists(st.sampled_from(["open", "paid", "overdue", "cancelled"]), min_size=1, max_size=6)


@given(STATUSES)
def test_a_bill_s_status_follows_from_its_occurrences(statuses: list[str]) -> None:
    """Cancelled ones do not count unless all are; all paid is paid; one overdue is overdue; else open."""
    paid_at = {"paid": NOW}
    parts = tuple(
        Occurrence(uuid.uuid4(), number, CENT, TODAY, status, "", "u", paid_at.get(status))  # type: ignore[arg-type]
        for number, status in enumerate(statuses, 1)
    )
    bill = rules.settled(new_bill(occurrences=parts))
    live = [status for status in statuses if status != "cancelled"]
    if not live:
        assert bill.status == "cancelled"
    elif set(live) == {"paid"}:
        assert bill.status == "paid"
    else:
        assert bill.status == ("overdue" if "overdue" in live else "open")
    assert (bill.paid_at is not None) == (bill.status == "paid")


def _random_step(bill: Bill, chance: random.Random) -> Bill:
    part = chance.choice(bill.occurrences)
    amount = chance.choice([None, CENT * chance.randint(1, 100_000)])
    due = chance.choice([None, date(2026, 1, 1) + timedelta(days=chance.randint(0, 700))])
    change = Change(amount=amount, due_date=due, status=chance.choice([None, None, "open", "cancelled"]))
    step = chance.randrange(4)
    if step == 0:
        return rules.pay(bill, part, NOW)
    if step == 1:
        return rules.unpay(bill, part, TODAY)
    if step == 2:
        return rules.change_occurrence(bill, part, change, TODAY)
    return rules.change_bill(bill, change, TODAY)


@given(st.integers(0, 10**9))
def test_whatever_is_done_a_bill_stays_in_order(seed: int) -> None:
    """After any row of changes a bill adds up, statuses follow, and what is paid has kept amount and date."""
    chance = random.Random(seed)
    recurrence = chance.choice(["none", "none", "monthly"])
    installments = chance.randint(1, 6) if recurrence == "none" else 1
    bill = rules.plan(
        new_bill(CENT * chance.randint(10, 10_000), recurrence=recurrence, installments=installments,
                 due_date=date(2026, 9, 30)), 4, TODAY,
    )  # fmt: skip
    for _ in range(12):
        before = bill
        try:
            bill = _random_step(bill, chance)
        except Refusal as refusal:
            assert refusal.status in {409, 422}
            continue
        if recurrence == "none":
            assert total(bill) == bill.amount
        assert all(part.amount >= CENT for part in bill.occurrences)
        assert bill == rules.settled(bill)
        for now, then in zip(bill.occurrences, before.occurrences, strict=True):
            assert (now.paid_at is not None) == (now.status == "paid")
            assert now.status in {"paid", "cancelled", "overdue" if now.due_date < TODAY else "open"}
            if then.status == now.status == "paid":
                assert (now.amount, now.due_date) == (then.amount, then.due_date)


def test_what_cannot_be_done_is_refused() -> None:
    """Paying twice, taking back nothing, and moving what is all paid are conflicts that carry the version."""
    bill = rules.plan(new_bill(), 1, TODAY)
    bill = replace(bill, version=7)
    part = replace(bill.occurrences[0], version=3)
    paid = rules.pay(bill, part, NOW)
    for refused in (
        lambda: rules.pay(paid, paid.occurrences[0], NOW),
        lambda: rules.unpay(bill, part, TODAY),
        lambda: rules.change_occurrence(paid, paid.occurrences[0], Change(amount=CENT), TODAY),
    ):
        with pytest.raises(Refusal) as caught:
            refused()
        assert (caught.value.status, caught.value.members) == (409, {"current_version": 3})
    with pytest.raises(Refusal) as caught:
        rules.change_bill(paid, Change(status="cancelled"), TODAY)
    assert caught.value.members == {"current_version": 7}
    assert rules.change_bill(paid, Change(category="c"), TODAY).occurrences[0].category == "c"
