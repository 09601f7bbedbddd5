"""Laws of inspection: any bytes give good or dead records, never an error, and no tenant reaches another's rows."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.codec import PREFIX_BYTES
from app.dedup import event_key
from app.dlq import Dead
from app.errors import Poison
from app.inspection import TENANT_BYTES, TENANT_LENGTH_BYTE, Inspected, followers, inspect, tenant
from schemas.envelope import EVENT_ID_BYTES_MAX, HEADER_ID, HEADER_TENANT
from tests.support.records import OTHER_TENANT, TENANT, TRACKING, PlainRecord, tracking_record, tracking_value, wire

WHOLE = tracking_record(0)
OWNER, OTHER = TENANT.encode(), OTHER_TENANT.encode()


def with_headers(**named: bytes | None) -> Any:
    """Headers in the producer's order, with the named ones replaced, or left out when None."""
    values = {"id": b"e-1", "tenant": OWNER, **named}
    found = ((HEADER_ID, values["id"]), (HEADER_TENANT, values["tenant"]))
    return tuple(pair for pair in found if pair[1] is not None)


DATUM = WHOLE.value[PREFIX_BYTES:] if WHOLE.value else b""
POISON = [
    ("empty_value", "no value", replace(WHOLE, value=None)),
    ("bad_wire_format", "an empty value", replace(WHOLE, value=b"")),
    ("bad_wire_format", "shorter than the prefix", replace(WHOLE, value=b"\0\0\0\0")),
    ("bad_wire_format", "another magic byte", replace(WHOLE, value=wire(TRACKING.id, DATUM, magic=1))),
    ("bad_wire_format", "JSON", replace(WHOLE, value=b'{"event_id": 1}')),
    ("unknown_schema", "an id that nobody gave", replace(WHOLE, value=wire(2**32 - 1, DATUM))),
    ("unknown_schema", "the id of another subject", replace(WHOLE, value=wire(TRACKING.id + 1, DATUM))),
    ("tenant_mismatch", "the value is another tenant's", replace(WHOLE, value=tracking_value(OTHER_TENANT))),
    ("tenant_mismatch", "the value ends before its tenant", replace(WHOLE, value=wire(TRACKING.id, DATUM[:20]))),
    ("tenant_mismatch", "the value has a prefix only", replace(WHOLE, value=wire(TRACKING.id, b""))),
    ("tenant_mismatch", "the key is another tenant's", replace(WHOLE, key=OTHER)),
    ("tenant_mismatch", "the key is a shard of another tenant", replace(WHOLE, key=OTHER + b"/1")),
    ("tenant_mismatch", "no key", replace(WHOLE, key=None)),
    ("tenant_mismatch", "an empty key", replace(WHOLE, key=b"")),
    ("tenant_mismatch", "the key only begins with the tenant", replace(WHOLE, key=OWNER + b"1")),
    ("tenant_mismatch", "the header is another tenant's", replace(WHOLE, headers=with_headers(tenant=OTHER))),
    ("missing_header", "no headers", replace(WHOLE, headers=())),
    ("missing_header", "no event id", replace(WHOLE, headers=with_headers(id=None))),
    ("missing_header", "an empty event id", replace(WHOLE, headers=with_headers(id=b""))),
    ("missing_header", "no tenant", replace(WHOLE, headers=with_headers(tenant=None))),
    ("missing_header", "an empty tenant", replace(WHOLE, headers=with_headers(tenant=b""))),
    ("missing_header", "null headers", replace(WHOLE, headers=((HEADER_ID, None), (HEADER_TENANT, None)))),
    ("bad_tenant", "a tenant too short", replace(WHOLE, headers=with_headers(tenant=OWNER[:-1]))),
    ("bad_tenant", "a tenant too long", replace(WHOLE, headers=with_headers(tenant=OWNER + b"/"))),
    (
        "event_id_too_long",
        "one byte too many",
        replace(WHOLE, headers=with_headers(id=b"x" * (EVENT_ID_BYTES_MAX + 1))),
    ),
]


@pytest.mark.parametrize(("reason", "what", "record"), POISON, ids=[f"{one[0]}: {one[1]}" for one in POISON])
def test_each_kind_of_poison_has_its_reason(reason: str, what: str, record: PlainRecord) -> None:
    """An operator reads the reason and knows what to mend; the neighbours of the record go on."""
    neighbours = [tracking_record(1, "before"), replace(record, offset=2), tracking_record(3, "after")]
    good, dead = inspect(neighbours, TRACKING)
    assert [one.record.offset for one in good] == [1, 3]
    assert [(one.record.offset, one.poison.reason, one.step) for one in dead] == [(2, reason, 3)]


def test_a_whole_record_is_good() -> None:
    """Its key and its schema version are what the next steps need."""
    good, dead = inspect([WHOLE], TRACKING)
    assert good == [Inspected(WHOLE, event_key(OWNER, b"e-1"), TRACKING.latest)]
    assert dead == []


@pytest.mark.parametrize(
    "record",
    [
        replace(WHOLE, key=OWNER + b"/7"),
        replace(WHOLE, headers=tuple(reversed(WHOLE.headers))),
        replace(WHOLE, headers=(("other", b"x"), *WHOLE.headers)),
        replace(WHOLE, headers=with_headers(id=b"x" * EVENT_ID_BYTES_MAX)),
        replace(WHOLE, headers=with_headers(id=b"\xff\x00/")),
    ],
    ids=["a shard's key", "headers in another order", "other headers first", "the longest id", "an id of any bytes"],
)
def test_unusual_records_that_are_whole_are_good(record: PlainRecord) -> None:
    """Order of headers, shards and lengths at the limit are no reason for the DLQ."""
    good, dead = inspect([record], TRACKING)
    assert (len(good), dead) == (1, [])


TEXTS = st.one_of(st.none(), st.binary(max_size=40), st.sampled_from([OWNER, OTHER, b"e-1", b"x" * 200, OWNER + b"/1"]))
NAMES = st.sampled_from([HEADER_ID, HEADER_TENANT, "ce_type", "", "dlq_reason"])
VALUES = st.one_of(
    st.none(),
    st.binary(max_size=60),
    st.sampled_from([WHOLE.value, tracking_value(OTHER_TENANT)]),
    st.binary(max_size=60).map(lambda datum: wire(TRACKING.id, datum)),
    st.binary(max_size=60).map(lambda rest: wire(TRACKING.id, TENANT_LENGTH_BYTE + OWNER + rest)),
)
ANY = st.builds(
    PlainRecord,
    st.just(0),
    VALUES,
    TEXTS,
    st.one_of(st.just(WHOLE.headers), st.lists(st.tuples(NAMES, TEXTS), max_size=4)),
)


@given(st.lists(ANY, max_size=8))
def test_any_bytes_are_good_or_dead(records: list[PlainRecord]) -> None:
    """No header, key or value may stop a partition: each record has one fate, and the order stays."""
    records = [replace(record, offset=offset) for offset, record in enumerate(records)]
    good, dead = inspect(records, TRACKING)
    fates = [[one.record.offset for one in good], [one.record.offset for one in dead]]
    assert fates == [sorted(fate) for fate in fates]
    assert sorted(fates[0] + fates[1]) == list(range(len(records)))


def tenants_of(record: PlainRecord) -> set[bytes]:
    """The tenants that header, key and value of a record name, read the slow way."""
    headers = dict(reversed(record.headers))
    value, key = record.value or b"", record.key or b""
    return {headers.get(HEADER_TENANT) or b"", key.split(b"/")[0], value[PREFIX_BYTES + 1 :][:TENANT_BYTES]}


@given(ANY)
def test_a_good_record_is_of_one_tenant(record: PlainRecord) -> None:
    """Header, key and value agree, or the record is dead: no way leads into another tenant's rows or ids."""
    good, _ = inspect([record], TRACKING)
    if good:
        (owner,) = tenants_of(record)
        assert len(owner) == TENANT_BYTES


@given(st.sampled_from([OWNER, OTHER]), st.sampled_from([OWNER, OTHER]), st.sampled_from([TENANT, OTHER_TENANT]))
def test_tenants_that_disagree_are_dead(named: bytes, key: bytes, value: str) -> None:
    """Each of the three may be the odd one."""
    record = replace(WHOLE, headers=with_headers(tenant=named), key=key, value=tracking_value(value))
    good, dead = inspect([record], TRACKING)
    assert bool(good) == (len(tenants_of(record)) == 1)
    assert bool(dead) != bool(good)


@given(ANY)
def test_the_tenant_of_any_record_reads_as_text(record: PlainRecord) -> None:
    """Logs and the DLQ's limit ask for it, of records whose header may be anything."""
    assert len(tenant(record)) <= TENANT_BYTES


def inspected(stream: list[tuple[int, bytes]]) -> list[Inspected]:
    return [Inspected(PlainRecord(offset), key, TRACKING.latest) for offset, key in stream]


def test_duplicates_of_poison_follow_it() -> None:
    """With only the first of two in the DLQ, a rebuilt table would know the id and drop the replay."""
    good = inspected([(0, b"a"), (1, b"b"), (2, b"a"), (3, b"b"), (4, b"a"), (5, b"known")])
    kept = good[:2]
    dead = [Dead(good[0].record, Poison("bad"), 5, TENANT)]
    found = followers(good, kept, dead)
    assert [(one.record.offset, one.poison.reason) for one in found] == [
        (2, "duplicate_of_poison"),
        (4, "duplicate_of_poison"),
    ]


@given(
    st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=12),
    st.sets(st.integers(0, 11)),
    st.sets(st.sampled_from([b"a", b"b", b"c"])),
)
def test_followers_are_the_duplicates_of_poison_and_nothing_else(
    keys: list[bytes], bad: set[int], before: set[bytes]
) -> None:
    """After it, all records of an id in a batch share a fate, and an id known from before is left alone."""
    good = inspected(list(enumerate(keys)))
    firsts = {key: offset for offset, key in reversed(list(enumerate(keys))) if key not in before}
    kept = [one for one in good if firsts.get(one.key) == one.record.offset]
    dead = [Dead(one.record, Poison("bad"), 5, TENANT) for one in kept if one.record.offset in bad]
    gone = {one.record.offset for one in [*dead, *followers(good, kept, dead)]}
    poisoned = {keys[offset] for offset in bad if offset < len(keys) and firsts.get(keys[offset]) == offset}
    assert gone == {offset for offset, key in enumerate(keys) if key in poisoned}
