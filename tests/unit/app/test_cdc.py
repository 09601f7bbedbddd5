"""Laws of the change format: any bytes are a change or poison, and a change has one name however often it comes."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import dlq
from app.cdc import UNAVAILABLE, VALUE_BYTES_MAX, Captured, parse
from app.dead_letters import view
from app.errors import Poison
from schemas.bills import BILLS, HEARTBEATS, KEYS
from tests.support.changes import bill, heartbeat, record, written
from tests.support.records import OTHER_TENANT, TENANT

FORM = Captured(KEYS)
ROW = bill("00000000-0000-0000-0000-000000000001")
UPDATE = written(BILLS, "u", ROW, ROW | {"status": "paid"}, 1_000)


def reason(change: Any, key: str | None = None) -> str:
    """Why inspection calls a record poison, or ""."""
    _, dead = FORM.inspect([record(0, change, key)])
    return dead[0].poison.reason if dead else ""


def changed(**fields: Any) -> dict[str, Any]:
    """The update with some fields of its envelope replaced."""
    return UPDATE | fields


def moved(**fields: Any) -> dict[str, Any]:
    """The update with some fields of its source replaced."""
    return UPDATE | {"source": UPDATE["source"] | fields}


POISON = [
    ("empty_value", None),
    ("bad_json", b""),
    ("bad_json", b"{" * 5_000),
    ("bad_json", b'{"op": "c", "lsn": NaN}'),
    ("too_large", b" " * (VALUE_BYTES_MAX + 1)),
    ("not_a_change", b"[]"),
    ("not_a_change", b'{"schema": {}, "payload": {"op": "c"}}'),
    ("not_a_change", changed(source=None)),
    ("not_a_change", changed(after=[])),
    ("not_a_change", moved(sequence=None, lsn=None)),
    ("not_a_change", moved(sequence=None, lsn=True)),
    ("not_a_change", moved(sequence=None, lsn=1.0)),
    ("not_a_change", moved(sequence='["1"]')),
    ("not_a_change", moved(sequence='["1","2"' + " " * 100 + "]")),
    ("not_a_change", moved(sequence='["1","x"]')),
    ("not_a_change", moved(sequence=7)),
    ("not_a_change", moved(sequence='["-9","-8"]')),
    ("not_a_change", moved(sequence=f'["1","{1 << 63}"]')),
    ("not_a_change", moved(ts_ms=None)),
    ("not_a_change", moved(ts_ms=1 << 62)),
    ("not_a_change", moved(txId="7")),
    ("unknown_table", moved(table="tenants")),
    ("unknown_table", moved(table=None)),
    ("unknown_op", changed(op="m")),
    ("unknown_op", changed(op=["c"])),
    ("missing_row", changed(after=None)),
    ("missing_row", changed(op="d", before=None)),
    ("missing_column", changed(after={name: ROW[name] for name in ROW if name != "id"})),
    ("missing_column", changed(after=ROW | {"tenant_id": None})),
    ("bad_tenant", changed(after=ROW | {"tenant_id": "t"})),
    ("unavailable_value", changed(after=ROW | {"description": UNAVAILABLE}, before=None)),
    ("unavailable_value", changed(after=ROW | {"extra": UNAVAILABLE})),
    ("truncated", changed(op="t", before=None, after=None)),
]


@pytest.mark.parametrize(("wanted", "change"), POISON)
def test_what_is_no_whole_change_is_poison_with_a_reason(wanted: str, change: Any) -> None:
    """Nothing is guessed and nothing is skipped: a truncate is refused as loudly as a broken record."""
    assert reason(change, TENANT) == wanted


def test_a_key_of_another_tenant_is_poison() -> None:
    """The tenant of a change is in its row and in its key; a record on which they differ reaches nobody."""
    assert reason(UPDATE) == ""
    assert reason(UPDATE, OTHER_TENANT) == "tenant_mismatch"
    assert reason(UPDATE, f"{TENANT}/1") == "tenant_mismatch"
    assert reason(UPDATE, "") == "tenant_mismatch"


@given(st.one_of(st.binary(max_size=200), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(
        st.sampled_from(["op", "source", "before", "after", "table", "lsn", "sequence", "ts_ms"]), some, max_size=6),
    max_leaves=12,
).map(lambda found: orjson.dumps(found, default=str) if _fits(found) else b"{}")))  # fmt: skip
def test_any_bytes_are_a_change_or_poison(value: bytes) -> None:
    """One record goes to the DLQ and the worker goes on, whatever is in the topic."""
    good, dead = FORM.inspect([record(0, value)])
    assert len(good) + len(dead) == 1
    assert (FORM.identify(TENANT.encode(), value, ()) is None) == (not good)
    assert {name for name, _ in FORM.describe(record(0, value))} >= {dlq.TENANT, dlq.SCHEMA}
    assert view("debezium", value)["form"] == "json"


def _fits(found: Any) -> bool:
    try:
        orjson.dumps(found)
    except TypeError:
        return False
    return True


@given(st.integers(0, 1_000), st.integers(0, 50))
def test_a_change_that_comes_again_has_the_same_name(offset: int, later_ms: int) -> None:
    """Connect writes after a crash what it wrote before: at another offset, at another time, and it is dropped."""
    again = UPDATE | {"ts_ms": UPDATE["ts_ms"] + later_ms}
    first, _ = FORM.inspect([record(0, UPDATE)])
    second, _ = FORM.inspect([record(offset, again)])
    assert first[0].key == second[0].key == FORM.identify(TENANT.encode(), orjson.dumps(again), ())


def test_changes_that_differ_have_names_that_differ() -> None:
    """By table, key, LSN and op: the delete and the create of a changed primary key share an LSN."""
    other = ROW | {"id": "00000000-0000-0000-0000-000000000002"}
    several = [
        UPDATE, written(BILLS, "u", ROW, ROW, 1_008), written(BILLS, "c", None, ROW, 1_000),
        written(BILLS, "d", ROW, None, 1_000), written(BILLS, "c", None, other, 1_000), heartbeat(TENANT, 1_000),
        written(BILLS, "c", None, ROW | {"tenant_id": OTHER_TENANT}, 1_000),
    ]  # fmt: skip
    good, _ = FORM.inspect([record(offset, change) for offset, change in enumerate(several)])
    assert len({one.key for one in good}) == len(several)


def test_the_order_is_the_commits_and_not_the_lsn() -> None:
    """A stale read of a snapshot loses against the update that was open meanwhile, although that has the lower LSN."""
    stale = written(
        BILLS, "r", None, ROW, 29_983_592, lsn=None, snapshot="incremental", sequence='["29983592","29983592"]'
    )
    late = written(BILLS, "u", ROW, ROW, 29_982_744, sequence='["29986560","29982744"]')
    first = written(BILLS, "r", None, ROW, 100, snapshot="first", sequence='[null,"100"]')
    read, update, initial = (parse(orjson.dumps(one), KEYS) for one in (stale, late, first))
    assert (read.lsn, read.position, read.snapshot) == (29_983_592, 29_983_592, True)
    assert (update.lsn, update.position, update.snapshot) == (29_982_744, 29_986_560, False)
    assert (initial.lsn, initial.position) == (100, 100)


def test_a_value_that_was_not_sent_is_the_former_one() -> None:
    """TOASTed columns that an update leaves alone arrive as a placeholder; an insert's text is its own."""
    update = changed(after=ROW | {"description": UNAVAILABLE, "status": "paid"})
    assert parse(orjson.dumps(update), KEYS).row == ROW | {"status": "paid"}
    literal = ROW | {"description": UNAVAILABLE}
    assert parse(orjson.dumps(written(BILLS, "c", None, literal, 8)), KEYS).row == literal


def test_a_dead_change_is_described_for_the_operator() -> None:
    """It has no headers of ours: the DLQ entry says tenant, change and kind all the same."""
    fields = dict(FORM.describe(record(0, UPDATE)))
    assert fields == {
        dlq.TENANT: TENANT.encode(),
        dlq.SCHEMA: b"debezium",
        dlq.EVENT_ID: f"bills/{TENANT},{ROW['id']}/1000/u".encode(),
        dlq.EVENT_TYPE: b"bills/u",
    }


def test_a_poison_names_its_column() -> None:
    """An operator reads in the DLQ which column it is, and nobody's values."""
    with pytest.raises(Poison, match=r"cdc_heartbeats\.tenant_id"):
        parse(orjson.dumps(written(HEARTBEATS, "u", None, {"at": "x"}, 1)), KEYS)
