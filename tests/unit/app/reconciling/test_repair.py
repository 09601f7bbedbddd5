"""What a repair sends is read by the mirror as the row that Postgres has, and as no event."""

from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from agents.bills import columns, happened
from app.cdc import DELETE, READ, parse
from app.codec import schema
from app.reconciling.differences import CHANGED, EXTRA, GHOST, MISSING, Difference
from app.reconciling.repair import records_of
from app.reconciling.rows import Key, as_row
from schemas import bills, rows
from schemas.mirrors import BILL_OCCURRENCES, BILLS, MIRRORS, Kind, Mirror

TENANT = "018f4d3e-7f00-7000-8000-000000000001"
LSN = 1 << 40
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.UUID: st.uuids().map(str),
    Kind.TEXT: st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20),
    Kind.NUMBER: st.integers(0, 65_535),
    Kind.MONEY: st.integers(0, 10**14 - 1),
    Kind.DAY: st.integers(0, 65_535),
    Kind.MOMENT: st.integers(0, 10**16),
}


def rows_of(mirror: Mirror) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(*(
        st.just(TENANT) if column.name == "tenant_id"
        else st.none() | VALUES[column.kind] if column.name == "paid_at"
        else VALUES[column.kind]
        for column in mirror.columns
    ))  # fmt: skip


def in_hundredths(mirror: Mirror, given: dict[str, Any]) -> tuple[Any, ...]:
    """What the mirror read, in the words of a comparison."""
    return tuple(
        int(given[column.name] * 100) if column.kind is Kind.MONEY else given[column.name] for column in mirror.columns
    )


@given(
    st.sampled_from(MIRRORS).flatmap(lambda mirror: st.tuples(st.just(mirror), rows_of(mirror))),
    st.sampled_from([MISSING, CHANGED, EXTRA, GHOST]),
)
def test_a_record_of_a_repair_says_the_row_to_the_last_digit(drawn: tuple[Mirror, tuple[Any, ...]], kind: Any) -> None:
    """Money, days and microseconds survive the way through Debezium's envelope, and nobody is told an event."""
    mirror, values = drawn
    row = as_row(mirror, values)
    key = Key(mirror.table, TENANT, str(UUID(row.values["id"])))
    (record,) = records_of("bills.changes", mirror, [Difference(key, row.month, kind, (), row, row)], LSN)
    change = parse(record.value, bills.KEYS)
    gone = kind in {EXTRA, GHOST}
    assert record.key == TENANT.encode()
    assert (change.op, change.table, change.lsn) == (DELETE if gone else READ, mirror.table, LSN)
    read = columns.read(mirror.table, change.row)
    assert in_hundredths(mirror, read) == values
    assert not columns.unknown(mirror.table, change.row)
    before, after = (read, None) if gone else (None, read)
    assert list(happened.events(change, before, after)) == []


def test_each_ghost_of_one_row_is_a_change_of_its_own() -> None:
    """Two tombstones of one id have two LSNs, or the dedupe step would take the second for the first."""
    values = dict.fromkeys(BILLS.names, 0) | {"tenant_id": TENANT, "id": TENANT, "paid_at": None}
    row = as_row(BILLS, tuple(values[name] for name in BILLS.names))
    ghost = Difference(Key("bills", TENANT, TENANT), row.month, GHOST, (), row, row)
    found = [parse(record.value, bills.KEYS).identity for record in records_of("t", BILLS, [ghost] * 3, LSN)]
    assert len(set(found)) == 3


def test_the_comparison_knows_every_column_that_the_mirror_writes() -> None:
    """A column that is added to a mirror and not to its comparison would never be compared."""
    for mirror, table in ((BILLS, rows.BILLS), (BILL_OCCURRENCES, rows.BILL_OCCURRENCES)):
        fields = {field["name"] for field in schema(table.subject).latest.parsed["fields"]}
        assert {*mirror.names} == fields - {"is_deleted", "_version", "_changed_at"}
