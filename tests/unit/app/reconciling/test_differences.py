"""What two sides of a row say: every way to differ has its name, and equal rows have none."""

from hypothesis import given
from hypothesis import strategies as st

from app.reconciling.differences import (
    CHANGED,
    EXTRA,
    GHOST,
    MISSING,
    NEWER_VERSION,
    OLD_VERSION,
    Difference,
    differences,
)
from app.reconciling.rows import Key, MirrorRow, month_of, next_month

KEY = Key("bills", "t", "i")
JANUARY = 20_454  # 2026-01-01


def row(day: int = JANUARY, version: int = 3, amount: int = 100) -> MirrorRow:
    return MirrorRow({"due_date": day, "version": version, "amount": amount}, month_of(day))


def kinds(found: list[Difference]) -> list[tuple[str, int]]:
    return [(one.kind, one.month) for one in found]


def test_each_way_to_differ_has_its_name() -> None:
    """A kind is what an operator acts on, so none stands for two causes."""
    assert differences(KEY, row(), [row()]) == []
    assert kinds(differences(KEY, row(), [])) == [(MISSING, 202601)]
    assert kinds(differences(KEY, None, [row()])) == [(EXTRA, 202601)]
    assert kinds(differences(KEY, row(), [row(version=2)])) == [(OLD_VERSION, 202601)]
    assert kinds(differences(KEY, row(), [row(version=4)])) == [(NEWER_VERSION, 202601)]
    assert differences(KEY, row(), [row(amount=101)])[0].fields == ("amount",)
    assert kinds(differences(KEY, row(), [row(amount=101)])) == [(CHANGED, 202601)]
    assert kinds(differences(KEY, row(), [row(), row(JANUARY + 40)])) == [(GHOST, 202602)]
    assert kinds(differences(KEY, row(), [row(), row(JANUARY + 1)])) == [(GHOST, 202601)]
    assert kinds(differences(KEY, row(), [row(JANUARY + 40)])) == [(MISSING, 202601), (GHOST, 202602)]


ROWS = st.builds(row, st.integers(JANUARY, JANUARY + 3), st.integers(1, 2), st.integers(1, 2))


@given(st.none() | ROWS, st.lists(ROWS, unique_by=lambda one: one.values["due_date"]))
def test_there_is_no_difference_exactly_when_both_sides_are_the_same(
    there: MirrorRow | None, here: list[MirrorRow]
) -> None:
    """Nothing that differs goes without a name, nothing that is equal gets one; a day has one difference at most."""
    found = differences(KEY, there, here)
    assert (found == []) == (here == ([there] if there is not None else []))
    days = [(one.clickhouse or one.postgres).values["due_date"] for one in found]  # type: ignore[union-attr]
    assert len(days) == len(set(days))


@given(st.integers(0, 65_535))
def test_months_follow_one_another(day: int) -> None:
    """The month of a day holds the day, and the next month begins behind it."""
    month = month_of(day)
    assert month <= month_of(day + 1) <= next_month(month)
    assert 1 <= next_month(month) % 100 <= 12
