"""Periods and words of analytics: every month is met once, and the page speaks the better language."""

from datetime import date
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from api import analytics_answers, page_words
from api.analytics_periods import MONTHS_MAX, months_of, read_months, shifted

MONTHS = st.dates(date(1980, 1, 1), date(2140, 1, 1)).map(lambda day: day.replace(day=1))


@given(MONTHS, st.integers(1, 36))
def test_months_of_a_span_are_whole_and_without_gaps(first: date, count: int) -> None:
    """As many names as months, in order, and the last day is the one before the next month."""
    span = months_of(first, count)
    assert len(span.months) == count == len(set(span.months))
    assert span.months == sorted(span.months)
    assert shifted(first, count).toordinal() - span.last.toordinal() == 1


@given(MONTHS, st.integers(1, MONTHS_MAX))
def test_a_range_that_ends_somewhere_has_as_many_months_as_usual(last: date, count: int) -> None:
    """With `to` alone, the range ends there."""
    span = read_months(None, f"{last:%Y-%m}", date(2026, 11, 25), 6, count)
    assert (span.months[-1], len(span.months)) == (f"{last:%Y-%m}", count)


@given(
    st.lists(
        st.tuples(st.sampled_from(("BRL", "USD")), st.integers(0, 11), st.integers(0, 10**9)),
        max_size=30,
        unique_by=lambda row: row[:2],
    )
)
def test_the_balance_ends_at_what_is_unpaid_in_each_currency(figures: list[tuple[str, int, int]]) -> None:
    """Whatever months are missing, each currency has all of them, and its balance is the sum of what is unpaid."""
    months = months_of(date(2026, 1, 1), 12).months
    rows = [
        {"currency": currency, "month": f"{months[index]}-01", "due": f"{cents / 100:.2f}", "paid": "0.00",
         "unpaid": str(Decimal(cents).scaleb(-2))}
        for currency, index, cents in figures
    ]  # fmt: skip
    for line in analytics_answers.flows(rows, months):
        assert [month["month"] for month in line["months"]] == months
        total = sum((Decimal(row["unpaid"]) for row in rows if row["currency"] == line["currency"]), Decimal(0))
        assert Decimal(line["months"][-1]["balance"]) == total == Decimal(line["unpaid"])


def test_the_language_follows_the_browser() -> None:
    """The better of the two that is asked for; English for everybody else, garbage included."""
    wanted = {
        "pt-BR,pt;q=0.9,en;q=0.8": "pt-BR", "en-US,en;q=0.9,pt;q=0.8": "en", "pt": "pt-BR", "de": "en", "": "en",
        "pt;q=0.1,en;q=0.2": "en", "pt;q=x": "en", "," * 10_000: "en", "*": "en",
    }  # fmt: skip
    assert {accepted: page_words.language(accepted) for accepted in wanted} == wanted
    assert page_words.WORDS["en"].keys() == page_words.WORDS["pt-BR"].keys()


def test_money_is_written_as_people_write_it() -> None:
    """Separators of the language, the sign of the currency, and no rounding on the way."""
    assert page_words.money("1234567.89", "BRL", "pt-BR") == "R$\u00a01.234.567,89"
    assert page_words.money("1234567.89", "XOF", "en") == "XOF\u00a01,234,567.89"
    assert page_words.money("999999999999.99", "USD", "en") == "US$\u00a0999,999,999,999.99"
