"""Laws of ranges and tokens: what is pending survives a restart as it was, and two blocks never share a name."""

import string
from dataclasses import replace

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.ranges import METADATA_BYTES_MAX, Range, token

OFFSETS = st.integers(0, 2**63 - 1)
NAMES = string.ascii_letters + string.digits + "-_"
TOPIC_NAMES = st.text(NAMES + ".", min_size=1, max_size=40)
TOPIC_IDS = st.text(NAMES, min_size=22, max_size=22)
INTEGERS = st.integers(0, 2**31 - 1)
SPANS = st.builds(
    lambda topic_id, topic, partition, ends, version: Range(topic_id, topic, partition, *sorted(ends), version),
    TOPIC_IDS,
    TOPIC_NAMES,
    INTEGERS,
    st.tuples(OFFSETS, OFFSETS),
    INTEGERS,
)
# Few characters, the separators of the token among them, so that borders between parts collide whenever they can.
TRICKY = st.text(alphabet="a:v1s-%3A", max_size=6)
BLOCKS = st.tuples(
    TRICKY,  # pipeline
    TRICKY,  # table
    st.integers(0, 12),  # schema id
    st.builds(Range, TRICKY, st.just("t"), *[st.integers(0, 12)] * 4),
    TRICKY,  # namespace
)


def meaning(block: tuple[str, str, int, Range, str]) -> tuple[object, ...]:
    """What a token must tell apart. The topic's name is not part of it: its id is."""
    pipeline, table, schema_id, span, namespace = block
    return pipeline, table, schema_id, replace(span, topic=""), namespace


def joined(pipeline: str, table: str, schema_id: int, span: Range, namespace: str) -> str:
    """A token with a fault: the parts are joined as they are."""
    parts = (pipeline, f"v{span.version}", table, f"s{schema_id}", span.topic_id, span.partition)
    return ":".join(map(str, parts)) + f":{span.first}-{span.last}" + (f":{namespace}" if namespace else "")


@given(SPANS)
def test_a_pending_range_survives_the_commit_metadata(span: Range) -> None:
    """What step 2 made durable is what the next owner replays, to the last field."""
    assert Range.from_metadata(span.metadata()) == span


@given(SPANS)
def test_deliveries_are_counted_and_are_no_part_of_the_range(span: Range) -> None:
    """The next owner reads how often the range was begun; its name and its bounds stay what they were."""
    again = span.again().again()
    found = Range.from_metadata(again.metadata())
    assert found == span
    assert found.deliveries == 3
    assert token("p", "t", 1, again) == token("p", "t", 1, span)
    assert "deliveries" not in span.metadata(), "a worker from before the count reads a first delivery"


@given(SPANS)
def test_the_metadata_of_any_range_fits_the_brokers_limit(span: Range) -> None:
    """A longer text would be refused by the broker: no range may ever make one."""
    assert len(span.metadata().encode()) <= METADATA_BYTES_MAX


def test_the_longest_range_fits_the_brokers_limit() -> None:
    """The limit holds at the longest topic name that Kafka allows and the largest numbers, not only by luck."""
    top = 2**63 - 1
    assert len(Range("x" * 36, "t" * 249, 2**31 - 1, top, top, 2**31 - 1).metadata().encode()) <= METADATA_BYTES_MAX


def test_empty_metadata_means_that_nothing_was_in_flight() -> None:
    """A closed partition, and a group that Faust or a tool committed for, have no pending range."""
    assert Range.from_metadata("") is None


@pytest.mark.parametrize(
    "text",
    ["{", "null", "[]", "1", '"v"', "{}", '{"v":1}', "afluente keeps its pending ranges here", '{"v":1,"topic":"t"}'],
)
def test_foreign_metadata_is_refused(text: str) -> None:
    """Starting over a text that is not ours could lose the range it names."""
    with pytest.raises(ValueError, match="not a pending range"):
        Range.from_metadata(text)


@given(SPANS, st.one_of(st.none(), st.integers().filter(lambda n: n != 1), st.text()))
def test_metadata_of_an_unknown_version_is_refused(span: Range, version: object) -> None:
    """A newer worker's metadata may mean more than we read in it, so an older one stops."""
    assume(not isinstance(version, int) or abs(version) < 2**63)
    fields = {**orjson.loads(span.metadata()), "v": version}
    with pytest.raises(ValueError, match="not a pending range"):
        Range.from_metadata(orjson.dumps(fields).decode())


@given(SPANS, st.text(min_size=1, max_size=8))
def test_metadata_with_a_field_too_many_is_refused(span: Range, name: str) -> None:
    """A field we do not know could change what the range means."""
    fields = orjson.loads(span.metadata())
    assume(name not in fields)
    with pytest.raises(ValueError, match="not a pending range"):
        Range.from_metadata(orjson.dumps({**fields, name: 0}).decode())


@given(st.text(max_size=60))
def test_no_text_is_taken_for_a_range_by_chance(text: str) -> None:
    """Whatever a tool wrote into the metadata: it is empty, or it is refused."""
    assume(text)
    with pytest.raises(ValueError, match="not a pending range"):
        Range.from_metadata(text)


@given(BLOCKS, BLOCKS)
def test_two_blocks_never_share_a_token(
    one: tuple[str, str, int, Range, str], two: tuple[str, str, int, Range, str]
) -> None:
    """An equal token makes ClickHouse drop new rows silently, so it is equal only for the same block."""
    assert (token(*one) == token(*two)) == (meaning(one) == meaning(two))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("a", "b:v1:c"), ("a:v1:b", "c")),
        (("a", "b%3Av1%3Ac"), ("a", "b:v1:c")),
        (("a%3Av1%3Ab", "c"), ("a:v1:b", "c")),
        (("a%", "3A"), ("a:", "3A")),
    ],
)
def test_colons_in_the_parts_do_not_move_their_borders(one: tuple[str, str], two: tuple[str, str]) -> None:
    """A table named with a colon must not read as another pipeline's table."""
    span = Range("id", "t", 0, 0, 9, 1)
    assert token(*one, 7, span) != token(*two, 7, span)


def test_the_checker_rejects_a_token_that_joins_its_parts_as_they_are() -> None:
    """The law above can fail: the fault it is made for is a plain join."""
    span = Range("id", "t", 0, 0, 9, 1)
    assert joined("a", "b:v1:c", 7, span, "") == joined("a:v1:b", "c", 7, span, "")


CHANGES = st.sampled_from(
    [
        {"topic_id": "another"},
        {"partition": 100},
        {"first": 1},
        {"last": 10**6},
        {"version": 1000},
    ]
)


@given(SPANS, CHANGES)
def test_each_coordinate_is_part_of_the_token(span: Range, change: dict[str, object]) -> None:
    """A re-created topic starts again at offset 0: its id, and every other coordinate, must change the token."""
    other = replace(span, **change)
    assume(other != span)
    assert token("p", "t", 1, span) != token("p", "t", 1, other)


@given(SPANS)
def test_a_retry_has_the_token_of_its_first_attempt(span: Range) -> None:
    """A replay knows only the pending range of the commit: it gives the same token, so nothing is added twice."""
    pending = Range.from_metadata(span.metadata())
    assert pending is not None
    assert token("tracking.collect", "tracking_events", 1, pending) == token(
        "tracking.collect", "tracking_events", 1, span
    )


def test_the_token_reads_as_its_parts() -> None:
    """An operator finds a block in ClickHouse's logs by what it is made of."""
    span = Range("AbC-_1", "tracking.collected", 3, 10, 19, 2)
    assert token("tracking.collect", "tracking_events", 1, span) == (
        "tracking.collect:v2:tracking_events:s1:AbC-_1:3:10-19"
    )
    assert token("tracking.collect", "tracking_events", 1, span, "replay-7").endswith(":10-19:replay-7")
