"""Laws of the DLQ: a poison record is kept whole, and most of a batch poison means that the deploy is broken."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import dlq
from app.dlq import LIMIT_RECORDS_MIN, BrokenDeploy, Dead, check_limit, entry
from app.errors import Poison
from app.ranges import Range
from tests.support.records import OTHER_TENANT, SOURCE, TENANT, TIMESTAMP_MS, PlainRecord

SPAN = Range("topic-id", *SOURCE, 5, 9, 4)
HEADER_VALUES = st.one_of(st.none(), st.binary(max_size=20))
RECORDS = st.builds(
    PlainRecord,
    st.integers(0, 2**62),
    st.one_of(st.none(), st.binary(max_size=200)),
    st.one_of(st.none(), st.binary(max_size=40)),
    st.lists(st.tuples(st.text(max_size=10), HEADER_VALUES), max_size=5),
)
DETAILS = st.text(max_size=50)


def made(record: PlainRecord, detail: str = "", reason: str = "bad") -> Any:
    return entry("tracking.collected.dlq", Dead(record, Poison(reason, detail), 5, TENANT), SPAN, "tracking.collect")


@given(RECORDS, DETAILS)
def test_an_entry_keeps_the_record_whole(record: PlainRecord, detail: str) -> None:
    """A replay after a fix puts back what came: key, bytes and headers, in their order."""
    found = made(record, detail)
    assert (found.key, found.value) == (record.key, record.value or b"")
    own = [pair for pair in record.headers if not pair[0].startswith(dlq.PREFIX)]
    assert found.headers[: len(own)] == own
    assert all(name.startswith(dlq.PREFIX) for name, _ in found.headers[len(own) :])


def test_a_detail_of_any_characters_can_be_written() -> None:
    """A detail may quote a lone surrogate that came out of a tenant's JSON; it must not stop the process."""
    assert dict(made(PlainRecord(0), "field \ud800").headers)[dlq.ERROR] == rb"field \ud800"


@given(RECORDS)
def test_an_entry_says_where_why_and_by_whom(record: PlainRecord) -> None:
    """A rebuild tells poison by topic, partition and offset; an operator by reason, pipeline and time."""
    found = dict(made(record, "the amount is no number", "bad_amount").headers)
    assert found[dlq.SOURCE_TOPIC] == SOURCE.topic.encode()
    assert found[dlq.SOURCE_TOPIC_ID] == b"topic-id"
    assert int(found[dlq.SOURCE_PARTITION]) == SOURCE.partition
    assert int(found[dlq.SOURCE_OFFSET]) == record.offset
    assert int(found[dlq.SOURCE_TIMESTAMP]) == TIMESTAMP_MS
    assert (found[dlq.REASON], found[dlq.ERROR]) == (b"bad_amount", b"the amount is no number")
    assert (found[dlq.PIPELINE], found[dlq.VERSION]) == (b"tracking.collect", b"4")
    assert int(found[dlq.TIME]) > TIMESTAMP_MS // 2
    assert (dlq.NULL_VALUE in found) == (record.value is None)


def test_a_record_that_is_poison_again_does_not_keep_its_first_reason() -> None:
    """After a failed replay the headers tell of the last failure, once."""
    first = made(PlainRecord(7, b"v", b"k", [("ce_id", b"e-1")]), "first", "one")
    again = PlainRecord(99, first.value, first.key, first.headers)
    names = [name for name, _ in made(again, "second", "two").headers]
    assert len(names) == len(set(names))
    assert dict(made(again, "second", "two").headers)[dlq.REASON] == b"two"


def test_a_long_error_is_cut() -> None:
    """A header is no place for a stack trace; a record must still fit its topic."""
    found = dict(made(PlainRecord(0), "x" * 10**6).headers)
    assert len(found[dlq.ERROR]) == dlq.ERROR_CHARACTERS_MAX


def gone(count: int, step: int = 5, tenant: str = TENANT, since: int = 0, replayed: bool = False) -> list[Dead]:
    headers = [(dlq.REPLAY_OF, b"0/7")] if replayed else []
    return [Dead(PlainRecord(since + at, headers=headers), Poison("bad"), step, tenant) for at in range(count)]


MIN = LIMIT_RECORDS_MIN
LIMITS = [
    ("nothing is poison", [], 1000, 0.5, False),
    ("few records, all poison", gone(MIN - 1, step=3), MIN - 1, 0.5, False),
    ("enough of them, all poison", gone(MIN, step=3), MIN, 0.5, True),
    ("just at the ratio", gone(MIN, step=3), 2 * MIN, 0.5, False),
    ("just above the ratio", gone(MIN + 1, step=3), 2 * MIN, 0.5, True),
    ("a stricter ratio", gone(MIN, step=3), 2 * MIN, 0.1, True),
    ("no ratio can be above one", gone(MIN, step=3), MIN, 1.0, False),
    ("one tenant's content alone", gone(5 * MIN), 5 * MIN, 0.5, False),
    ("several tenants' content", gone(MIN) + gone(1, tenant=OTHER_TENANT, since=MIN), MIN + 1, 0.5, True),
    ("one tenant's envelopes: the edge wrote those", gone(5 * MIN, step=3), 5 * MIN, 0.5, True),
    ("one tenant's rows, refused by ClickHouse", gone(5 * MIN, step=6), 5 * MIN, 0.5, True),
    ("replayed records that fail again", gone(5 * MIN, step=3, replayed=True), 5 * MIN, 0.5, False),
    ("replays beside enough fresh ones", gone(MIN, 3, replayed=True) + gone(2 * MIN, 3), 3 * MIN, 0.5, True),
    ("one tenant's content and some envelopes", gone(4 * MIN) + gone(MIN, step=3), 5 * MIN, 0.5, False),
    ("one tenant's content, envelopes above the ratio", gone(MIN) + gone(2 * MIN, step=3), 3 * MIN, 0.5, True),
]


@pytest.mark.parametrize(
    ("dead", "rows", "ratio", "broken"), [case[1:] for case in LIMITS], ids=[case[0] for case in LIMITS]
)
def test_most_of_a_batch_poison_stops_us_unless_one_tenant_sent_it(
    dead: list[Dead], rows: int, ratio: float, broken: bool
) -> None:
    """A broken deploy must not pour a topic into the DLQ, and one tenant's nonsense must not stop the others."""
    if not broken:
        check_limit(dead, rows, ratio)
        return
    with pytest.raises(BrokenDeploy, match=f"of {rows} records are poison"):
        check_limit(dead, rows, ratio)


@given(st.integers(0, 400), st.floats(0.01, 1.0), st.integers(1, 400))
def test_one_tenants_content_never_stops_the_others(count: int, ratio: float, rows: int) -> None:
    """Whatever the ratio: what step 5 rejects of one tenant alone is that tenant's own matter."""
    check_limit(gone(min(count, rows)), rows, ratio)


def test_the_record_stays_as_it_is() -> None:
    """An entry is made of the record; the record itself may be needed again for a retry."""
    record = PlainRecord(1, b"v", b"k", [("ce_id", b"e-1")])
    before = replace(record, headers=list(record.headers))
    made(record)
    assert record == before
