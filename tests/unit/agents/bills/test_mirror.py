"""Laws of the mirror: whatever order changes come in, and however often, readers see what Postgres has."""

from collections.abc import Iterable
from itertools import permutations
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.bills import columns, mirror
from app.cdc import Captured
from app.outputs import Emitted, Outputs
from schemas import bills
from schemas.bills import BILLS, KEYS, OCCURRENCES
from schemas.emits import BILLS_EVENTS
from schemas.rows import CDC_PROGRESS
from tests.support.changes import NOVEMBER, TIME, Database, alive, bill, heartbeat, ids, occurrence, record, written
from tests.support.records import OTHER_TENANT, TENANT

FORM = Captured(KEYS)
(A, B) = ids(2)


def mirrored(changes: Iterable[dict[str, Any]]) -> Outputs:
    """The outputs of a batch of these changes, as steps 3 and 5 of the loop make them."""
    good, dead = FORM.inspect([record(offset, change) for offset, change in enumerate(changes)])
    assert not dead
    return mirror.process(FORM.events(good))


def versions(changes: Iterable[dict[str, Any]], table: str = BILLS) -> list[dict[str, Any]]:
    """The rows of one table."""
    return [dict(row) for _, row in mirrored(changes).rows.get(mirror.MIRRORS[table], [])]


def events(changes: Iterable[dict[str, Any]]) -> list[Emitted]:
    """The events."""
    return [event for _, event in mirrored(changes).produced.get(BILLS_EVENTS, [])]


def seen(changes: Iterable[dict[str, Any]], table: str) -> dict[Any, dict[str, Any]]:
    """What a reader sees by id, its columns alone; fails when a row is seen at two places."""
    found = alive(versions(changes, table), table)
    assert len({place[1] for place in found}) == len(found), "a ghost"
    return {row["id"]: {name: row[name] for name in columns.TABLES[table]} for row in found.values()}


def wanted(database: Database, table: str) -> dict[str, dict[str, Any]]:
    """What Postgres has."""
    return {row_id: columns.read(of, row) for (of, row_id), row in database.rows.items() if of == table}


LIVES = {
    "moved to another month and back": lambda one: (
        one.insert(BILLS, A), one.update(BILLS, A, due_date=NOVEMBER + 30), one.update(BILLS, A, due_date=NOVEMBER)),
    "moved within a month": lambda one: (one.insert(BILLS, A), one.update(BILLS, A, due_date=NOVEMBER + 1)),
    "deleted and inserted again": lambda one: (
        one.insert(BILLS, A), one.delete(BILLS, A), one.insert(BILLS, A, amount="2.00")),
    "deleted where it had moved": lambda one: (
        one.insert(BILLS, A), one.update(BILLS, A, due_date=NOVEMBER + 40), one.delete(BILLS, A)),
    "inserted again on another day": lambda one: (
        one.insert(BILLS, A), one.delete(BILLS, A), one.insert(BILLS, A, due_date=NOVEMBER + 60),
        one.update(BILLS, A, status="paid", paid_at=TIME)),
    "another primary key": lambda one: (
        one.insert(BILLS, A), one.rename(BILLS, A, B), one.update(BILLS, B, due_date=NOVEMBER + 31)),
    "read by a snapshot in between": lambda one: (
        one.insert(BILLS, A), one.update(BILLS, A, amount="3.00"), one.read(), one.update(BILLS, A, amount="4.00")),
}  # fmt: skip


def test_every_order_of_a_life_leaves_what_postgres_has() -> None:
    """All permutations, each with one change repeated: moves leave no ghost and deleted rows stay deleted."""
    for name, live in LIVES.items():
        database = Database()
        live(database)
        for order in permutations(database.changes):
            for again in range(len(order)):
                assert seen([*order, order[again]], BILLS) == wanted(database, BILLS), (name, order)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10**9), st.randoms(use_true_random=False))
def test_any_history_in_any_order_leaves_what_postgres_has(steps: int, seed: int, chance: Any) -> None:
    """Over many rows of both tables: shuffled, and a third of the changes twice."""
    database = Database()
    database.wander(steps, seed)
    order = database.changes + chance.sample(database.changes, len(database.changes) // 3)
    chance.shuffle(order)
    for table in (BILLS, OCCURRENCES):
        assert seen(order, table) == wanted(database, table)


def test_in_one_transaction_the_later_record_counts() -> None:
    """Changes of one transaction may share their position: they come in order, and the last one is alive."""
    rows = [bill(A, amount=f"{n}.00", due_date=NOVEMBER + n % 2, version=n) for n in range(1, 5)]
    changes = [written(BILLS, "c", None, rows[0], 100, sequence='["900","100"]')]
    changes += [
        written(BILLS, "u", rows[n - 1], rows[n], 100 + 8 * n, sequence=f'["900","{100 + 8 * n}"]') for n in (1, 2, 3)
    ]
    assert seen(changes, BILLS) == {A: columns.read(BILLS, rows[3])}


def test_without_tombstones_the_law_fails() -> None:
    """The checker can see a ghost: the one that a moved row would leave."""
    database = Database()
    LIVES["moved within a month"](database)
    rows = [row for row in versions(database.changes) if not row["is_deleted"]]
    assert len(alive(rows, BILLS)) == 2


def test_an_update_without_its_former_row_is_refused() -> None:
    """Where the row was cannot be known then, and its ghost would stay."""
    outputs = mirrored([written(BILLS, "u", None, bill(A), 8)])
    assert [poison.reason for _, poison in outputs.rejected] == ["missing_row"]
    assert not outputs.rows
    assert not outputs.produced


def test_a_row_that_changes_hands_is_refused() -> None:
    """An update that takes a row from one tenant to another would write into both."""
    outputs = mirrored([written(BILLS, "u", bill(A, OTHER_TENANT), bill(A), 8)])
    assert [poison.reason for _, poison in outputs.rejected] == ["tenant_mismatch"]


def test_poison_takes_nobody_along_and_leaves_nothing_behind() -> None:
    """A change is mirrored whole, or it is in the DLQ whole."""
    broken = written(BILLS, "u", bill(A), bill(A, amount="1.005"), 16)
    outputs = mirrored([written(BILLS, "c", None, bill(A), 8), broken, written(BILLS, "c", None, bill(B), 24)])
    assert [found.offset for found, _ in outputs.rejected] == [1]
    assert [found.offset for entries in outputs.rows.values() for found, _ in entries] == [0, 2]
    assert [found.offset for entries in outputs.produced.values() for found, _ in entries] == [0, 2]


def test_an_unknown_column_is_counted() -> None:
    """Postgres may be ahead of the mirror by a column, and that should be seen."""
    outputs = mirrored([written(BILLS, "c", None, bill(A, nickname="x"), 8 * n) for n in (1, 2)])
    assert outputs.warnings == {"unknown_column bills.nickname": 2}
    assert not outputs.rejected


def test_progress_is_claimed_last_and_by_beats_alone() -> None:
    """What a heartbeat says is true once the tables before it are written; a snapshot's read of one says nothing."""
    changes = [
        heartbeat(TENANT, 1), written(BILLS, "c", None, bill(A), 8), heartbeat(TENANT, 16, op="r"),
        written(OCCURRENCES, "c", None, occurrence(B), 24), heartbeat(TENANT, 32, op="c"),
    ]  # fmt: skip
    rows = mirrored(changes).rows
    assert list(rows)[-1] == CDC_PROGRESS
    assert [row["lsn"] for _, row in rows[CDC_PROGRESS]] == [1, 32]


def test_each_change_tells_what_happened() -> None:
    """Created, updated, status changed, deleted; a snapshot tells nothing, nor does a change of bookkeeping alone."""
    database = Database()
    database.insert(BILLS, A)
    database.insert(OCCURRENCES, B)
    database.update(BILLS, A, category="office")
    database.update(OCCURRENCES, B, status="paid", paid_at=TIME, actor="key:2")
    database.update(OCCURRENCES, B, actor="key:3")
    database.read()
    database.delete(OCCURRENCES, B)
    database.delete(BILLS, A)
    told = events(database.changes)
    assert [event.type for event in told] == [
        bills.BILL_CREATED, bills.OCCURRENCE_CREATED, bills.BILL_UPDATED, bills.OCCURRENCE_UPDATED,
        bills.OCCURRENCE_STATUS_CHANGED, bills.OCCURRENCE_DELETED, bills.BILL_DELETED,
    ]  # fmt: skip
    status = told[4].value
    assert (status["data"]["previous_status"], status["data"]["status"]) == ("open", "paid")
    assert (sorted(status["data"]["changed"]), status["actor"]) == (["paid_at", "status"], "key:2")
    assert told[0].value["data"]["previous_status"] is None


def test_a_repair_is_mirrored_and_tells_nothing() -> None:
    """What `reconcile --repair` sends looks like a snapshot: a ghost that it removes is no bill that was deleted."""
    changes = [written(BILLS, op, *rows, 8, snapshot="incremental") for op, rows in (
        ("r", (None, bill(A))), ("d", (bill(B), None)))]  # fmt: skip
    assert [row["is_deleted"] for row in versions(changes)] == [0, 1]
    assert events(changes) == []


def test_an_event_keeps_its_id_and_shares_it_with_none() -> None:
    """Ids are made of the change: a repeated one tells the same events, and no two events have one id."""
    database = Database()
    database.wander(60, 7)
    first, second = events(database.changes), events(reversed(database.changes))
    assert sorted(event.id for event in first) == sorted(event.id for event in second)
    assert len({event.id for event in first}) == len(first)
