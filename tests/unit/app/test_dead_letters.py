"""Laws of the DLQ read back: what an entry is, which ones are meant, and what goes back to the source topic."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import dlq
from app.batch import Record
from app.dead_letters import Identity, Selection, TooMany, Unreadable, entry_of, gather, original, view
from app.dlq import LIMIT_RECORDS_MIN, REPLAY_OF, BrokenDeploy, Dead, check_limit
from app.errors import Poison
from app.ranges import Range
from app.source import SourceRecord
from schemas.envelope import HEADER_ID, HEADER_TENANT

TENANT = "0190f0a0-0000-7000-8000-000000000001"
TOPIC_ID = "jCBxArpURKCBd6u5+9u0/Q"


@dataclass(frozen=True)
class Kafkas:
    """A record as confluent-kafka gives it, made of what the producer was handed."""

    produced: Any
    at: int = 0
    fields: dict[str, Any] = field(default_factory=dict)

    def topic(self) -> str:
        return str(self.produced.topic)

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self.at

    def key(self) -> bytes | None:
        key: bytes | None = self.produced.key
        return key

    def value(self) -> bytes | None:
        value: bytes | None = self.produced.value
        return value

    def headers(self) -> Any:
        return list(self.produced.headers)


def source_record(offset: int = 7, value: bytes | None = b"v", extra: Sequence[tuple[str, bytes]] = ()) -> SourceRecord:
    headers = [(HEADER_ID, b"e1"), (HEADER_TENANT, TENANT.encode()), *extra]
    return SourceRecord("tracking.collected", 3, offset, 1_000, TENANT.encode(), value, headers)


def in_dlq(record: Record, reason: str = "bad", at: int = 0) -> Any:
    dead = Dead(record, Poison(reason, "why"), 5, TENANT)
    span = Range(TOPIC_ID, "tracking.collected", 3, record.offset, record.offset, 1)
    return Kafkas(dlq.entry("tracking.collected.dlq", dead, span, "tracking.collect"), at)


topics = st.from_regex(r"[A-Za-z0-9._-]{1,50}", fullmatch=True)
offsets = st.integers(0, 10**18 - 1)
topic_ids = st.from_regex(r"[A-Za-z0-9+/_-]{1,22}", fullmatch=True)


@given(topics, st.integers(0, 10**9 - 1), offsets, topic_ids)
def test_an_identity_survives_its_text(topic: str, partition: int, offset: int, topic_id: str) -> None:
    """What `dlq list` prints names that entry again, with its topic id or without."""
    identity = Identity(topic, partition, offset, topic_id)
    assert Identity.parse(identity.text) == identity
    assert Identity.parse(identity.text.partition("@")[0]).names(identity)


@pytest.mark.parametrize("text", ["", "a/b", "a/1/x", "a/-1/2", "a/1/2@", "a/1/2 ", "a b/1/2", "a/1/" + "9" * 19])
def test_what_is_no_identity_is_refused(text: str) -> None:
    """A mistyped id is a sentence, never another entry."""
    with pytest.raises(Unreadable):
        Identity.parse(text)


def test_a_topic_id_tells_a_recreated_topic_apart() -> None:
    """The same offset of a re-created topic is another entry."""
    one, two = Identity("t", 0, 1, "A"), Identity("t", 0, 1, "B")
    assert not one.names(two)
    assert Identity("t", 0, 1, "").names(one)


header_names = st.text("abcxyz_-", min_size=1, max_size=8)


@given(
    value=st.one_of(st.none(), st.binary(max_size=40)),
    extra=st.lists(st.tuples(header_names, st.binary(max_size=10)), max_size=4),
)
def test_a_record_goes_back_as_it_was(value: bytes | None, extra: list[tuple[str, bytes]]) -> None:
    """Through the DLQ and back: key, bytes (null is not empty), headers and topic are the original's."""
    record = source_record(value=value, extra=extra)
    dead = in_dlq(record)
    back = original(entry_of(dead), dead)
    assert (back.topic, back.key, back.value) == (record.topic, record.key, record.value)
    kept = [one for one in back.headers if one[0] != REPLAY_OF]
    assert kept == list(record.headers)
    assert [one for one in back.headers if one[0] == REPLAY_OF] == [(REPLAY_OF, entry_of(dead).identity.text.encode())]


def test_an_entry_that_is_twice_in_the_dlq_is_one() -> None:
    """A replayed range writes its dead records again; they are one entry with two copies, and the last is used."""
    into: dict[Identity, Any] = {}
    assert gather([in_dlq(source_record(), at=1), in_dlq(source_record(), at=5)], Selection(), into) == 0
    (entry,) = into.values()
    assert (entry.copies, entry.place_offset) == (2, 5)


def test_a_foreign_record_in_the_dlq_is_counted_not_raised() -> None:
    """Whatever somebody else wrote there never keeps an operator from the rest."""
    foreign = Kafkas(dlq.Produced("tracking.collected.dlq", None, b"x", []))
    into: dict[Identity, Any] = {}
    assert gather([foreign, in_dlq(source_record())], Selection(), into) == 1  # type: ignore[list-item]
    assert len(into) == 1


def test_more_than_fits_is_refused() -> None:
    """Memory is bounded: a selection that is too wide ends with a sentence."""
    with pytest.raises(TooMany, match="narrow"):
        gather([in_dlq(source_record(offset=n)) for n in range(4)], Selection(), {}, 3)


@given(
    st.sampled_from(["", "bad", "other"]),
    st.sampled_from(["", TENANT, "nobody"]),
    st.sampled_from(["", "tracking.collect", "x"]),
    st.integers(-1, 1),
    st.integers(-1, 1),
)
def test_every_selector_must_hold(reason: str, tenant: str, pipeline: str, since: int, until: int) -> None:
    """Selectors narrow together; `since` is included, `until` is not."""
    entry = entry_of(in_dlq(source_record()))
    at = entry.died_at_ms
    chosen = Selection(
        pipeline=pipeline, reason=reason, tenant_id=tenant, since_ms=at + since, until_ms=at + until,
    )  # fmt: skip
    wanted = reason != "other" and tenant != "nobody" and pipeline != "x" and since <= 0 and until > 0
    assert chosen.takes(entry) is wanted


def test_only_topics_of_the_ids_are_read() -> None:
    """Ids narrow what is read from Kafka, not only what is kept."""
    assert Selection(ids=(Identity("gateway.received", 0, 1, ""),)).topics == ["gateway.received.dlq"]
    assert len(Selection().topics) > 1


@given(st.binary(max_size=100), st.sampled_from(["", "tracking-event/1", "nothing/1"]))
def test_any_value_can_be_shown(value: bytes, schema: str) -> None:
    """`dlq show` never fails on the bytes that made a record poison."""
    assert view(schema, value)["form"] in {"hex", "avro"}


def test_replayed_records_that_fail_again_do_not_stop_the_worker() -> None:
    """A replay without a fix refills the DLQ; it is no broken deploy, and must not stop the worker at every start."""
    count = LIMIT_RECORDS_MIN * 2
    fresh = [Dead(source_record(n), Poison("bad"), 3, TENANT) for n in range(count)]
    with pytest.raises(BrokenDeploy):
        check_limit(fresh, count, 0.5)
    mark = [(REPLAY_OF, b"x")]
    check_limit([Dead(source_record(n, extra=mark), Poison("bad"), 3, TENANT) for n in range(count)], count, 0.5)
