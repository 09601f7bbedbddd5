"""Rules of columns: money is exact, a time keeps its microseconds, and what is missing or widened is named."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.bills import columns
from app import codec
from app.errors import Poison
from schemas.bills import BILLS, OCCURRENCES
from schemas.rows import BILL_OCCURRENCES
from schemas.rows import BILLS as BILL_ROWS
from tests.support.changes import bill, occurrence

ID = "00000000-0000-0000-0000-000000000001"
VERSIONED = {"is_deleted": 0, "_version": 1, "_changed_at": 1}


def refused(**given_columns: Any) -> Poison:
    """The poison of a bill with these columns."""
    with pytest.raises(Poison) as caught:
        columns.read(BILLS, bill(ID, **given_columns))
    return caught.value


@given(st.integers(0, 10**14 - 1))
def test_money_is_exact_to_the_cent(cents: int) -> None:
    """Every amount that Postgres can hold comes through Avro as it was."""
    text = f"{cents // 100}.{cents % 100:02}"
    row = columns.read(BILLS, bill(ID, amount=text))
    schema = codec.schema(BILL_ROWS.subject)
    assert schema.decode(schema.encode({**row, **VERSIONED}))["amount"] == Decimal(cents) / 100


@pytest.mark.parametrize(
    "amount", ["1.005", "1000000000000.00", "NaN", "Infinity", "1e400", "-", "", 12.5, 12, None, True, "x" * 5_000]
)
def test_money_that_does_not_fit_is_refused(amount: Any) -> None:
    """A column widened to more decimals or digits would be cut without a word."""
    poison = refused(amount=amount)
    assert (poison.reason, poison.detail.split(" ")[0]) == ("bad_column", "bills.amount")


def test_a_column_of_more_decimals_is_taken_while_they_are_zero() -> None:
    """numeric(16, 4) that holds cents holds cents."""
    assert columns.read(BILLS, bill(ID, amount="12.5000"))["amount"] == Decimal("12.50")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "x"), ("id", 7), ("id", ID.upper().replace("0", "G")), ("user_id", None), ("description", 7),
        ("due_date", "2026-11-08"), ("due_date", -1), ("due_date", 65_536), ("due_date", True),
        ("installments", 65_536), ("installments", 1.0), ("version", "1"), ("version", 1 << 63),
        ("created_at", "2026-11-25"), ("created_at", "infinity"), ("created_at", 7),
        ("created_at", "1899-12-31T00:00:00Z"),
        ("paid_at", "soon"), ("paid_at", "2300-01-01T00:00:00Z"), ("status", ["open"]), ("tenant_id", {}),
    ],
)  # fmt: skip
def test_a_column_of_another_type_is_named(name: str, value: Any) -> None:
    """A widened type is poison with the column's name, never another value."""
    poison = refused(**{name: value})
    assert (poison.reason, poison.detail.split(" ")[0]) == ("bad_column", f"bills.{name}")


@pytest.mark.parametrize("name", sorted(columns.TABLES[BILLS]))
def test_a_column_that_is_missing_is_named(name: str) -> None:
    """A column that was dropped or renamed is refused loudly."""
    row = bill(ID)
    del row[name]
    with pytest.raises(Poison, match=rf"missing_column: bills\.{name} "):
        columns.read(BILLS, row)


def test_a_column_that_nobody_knows_is_left_out_and_named() -> None:
    """A column added in Postgres stops nothing; it is counted until a mirror knows it."""
    row = bill(ID, nickname="x")
    assert columns.unknown(BILLS, row) == {"nickname"}
    assert columns.unknown(BILLS, bill(ID)) == set()
    assert "nickname" not in columns.read(BILLS, row)


@pytest.mark.parametrize("text", ["2026-11-25T04:16:48.147623Z", "2026-11-25T04:16:48.1Z", "2026-11-25T04:16:48Z"])
def test_times_keep_their_microseconds(text: str) -> None:
    """Debezium leaves out trailing zeros."""
    whole = columns.read(BILLS, bill(ID, created_at=text))["created_at"]
    fraction = text.partition(".")[2].rstrip("Z").ljust(6, "0")
    assert whole == 1_795_580_208 * 1_000_000 + int(fraction)


def test_a_row_from_before_the_versions_has_version_zero() -> None:
    """While a migration numbers old rows, those that wait are null."""
    assert columns.read(BILLS, bill(ID, version=None))["version"] == 0


def test_a_row_is_what_its_table_takes() -> None:
    """The columns that are read, and those that the mirror adds, are the fields of the Avro subjects."""
    for table, row, rows in ((BILLS, bill(ID), BILL_ROWS), (OCCURRENCES, occurrence(ID), BILL_OCCURRENCES)):
        fields = {field["name"] for field in codec.schema(rows.subject).latest.parsed["fields"]}
        assert columns.read(table, row).keys() | VERSIONED.keys() == fields


JSON = st.none() | st.booleans() | st.integers(-1, 1 << 17) | st.text(max_size=4) | st.just("2026-11-25T01:02:03Z")


@given(st.dictionaries(st.sampled_from(sorted(columns.TABLES[BILLS])), JSON, max_size=4))
def test_a_former_row_is_read_as_any_other(changes: dict[str, Any]) -> None:
    """Only its differences from the row that came after it are looked at; what comes of it is the same."""
    now = bill(ID)
    former = {**now, **changes}
    read = columns.read(BILLS, now)
    try:
        expected = columns.read(BILLS, former)
    except Poison as poison:
        with pytest.raises(Poison) as caught:
            columns.read_former(BILLS, former, now, read)
        assert (caught.value.reason, caught.value.detail) == (poison.reason, poison.detail)
    else:
        assert columns.read_former(BILLS, former, now, read) == expected


@pytest.mark.parametrize("zeros", [1, 38, 2_000])
def test_a_long_text_is_read_as_a_short_one(zeros: int) -> None:
    """What is too long to be kept is read all the same, with the same result."""
    row = columns.read(BILLS, bill(ID, amount=f"12.50{'0' * zeros}", created_at=f"2026-11-25T01:02:03.5{'0' * zeros}Z"))
    assert row["amount"] == Decimal("12.50")
    assert row["created_at"] == columns.read(BILLS, bill(ID, created_at="2026-11-25T01:02:03.5Z"))["created_at"]
