"""Laws of the ClickHouse sink: rows arrive as they were encoded, with their source; only bad ones stay behind."""

import io
import socket
from collections.abc import Callable, Iterator
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.codec import PREFIX_BYTES, Codec, Version
from app.errors import Backpressure, Poison
from app.settings import Settings
from app.sinks import clickhouse
from app.sinks.clickhouse import RETRY_CODES, ROW_CODES, ClickHouseSink, Refused
from app.sinks.container import Row, container, container_header, varint
from tests.support.records import SOURCE, TRACKING, datums, tracking_value
from tests.unit.app.sinks.server import Server, serving

SUBJECTS = ["tracking-event", "gateway-event", "gateway-webhook"]
CODEC = Codec.load()
COLUMNS = [field["name"] for field in TRACKING.latest.parsed["fields"]] + ["_topic", "_partition", "_offset"]
INSERT = {"table": "tracking_events", "version": TRACKING.latest, "source": SOURCE}


def row(offset: int, event_id: str) -> Row:
    return Row(offset, tracking_value(event_id=event_id))


def wrong(found: dict[str, Any]) -> bool:
    return bool(found["event_id"].startswith("bad"))


def rows_of(marks: list[bool]) -> list[Row]:
    """One row a mark, marked ones refused by the server. Offsets have holes."""
    return [row(3 * index, f"{'bad' if bad else 'good'}-{index}") for index, bad in enumerate(marks)]


def encoded_long(number: int) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, {"type": "long"}, number)
    return out.getvalue()


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_varint_is_avros_long(number: int) -> None:
    """A wrong byte in a row's offset would shift every row behind it."""
    assert varint(number) == encoded_long(number)


@pytest.mark.parametrize("number", [0, -1, 1, 63, 64, -64, -65, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)])
def test_a_varint_is_avros_long_at_its_borders(number: int) -> None:
    """The borders between lengths, and the ends of the range."""
    assert varint(number) == encoded_long(number)


SPLICES = st.sampled_from(SUBJECTS).flatmap(
    lambda subject: st.tuples(st.just(subject), st.lists(datums(CODEC.schema(subject)), max_size=3))
)


@settings(max_examples=60)
@given(SPLICES, st.text(min_size=1, max_size=20), st.integers(0, 2**31 - 1), st.integers(0, 2**62))
def test_a_container_holds_the_records_and_their_source(
    spliced: tuple[str, list[dict[str, Any]]], topic: str, partition: int, first: int
) -> None:
    """Appending the source to a datum without decoding it gives the same record with three fields more."""
    subject, records = spliced
    schema = CODEC.schema(subject)
    values = [schema.encode(record) for record in records]
    rows = [Row(first + index, value) for index, value in enumerate(values)]
    body = container(container_header(schema.latest), topic, partition, rows)
    source = [{"_topic": topic, "_partition": partition, "_offset": one.offset} for one in rows]
    assert list(fastavro.reader(io.BytesIO(body))) == [
        {"_wire_prefix": value[:PREFIX_BYTES]} | schema.decode(value) | added
        for value, added in zip(values, source, strict=True)
    ]


def test_a_container_is_one_block() -> None:
    """One batch = one block = one entry in ClickHouse's deduplication log."""
    body = container(container_header(TRACKING.latest), *SOURCE, rows_of([False] * 500))
    assert [block.num_records for block in fastavro.block_reader(io.BytesIO(body))] == [500]


def test_the_same_rows_make_the_same_bytes() -> None:
    """A retry sends what the first attempt sent."""
    assert container_header(TRACKING.latest) == container_header(TRACKING.latest)


async def test_the_header_of_a_schema_is_made_once() -> None:
    """Parsing a schema at every insert would cost more than a small batch."""
    made: list[str] = []

    class Counted(dict[str, Any]):
        """A schema that tells when it is spread into another one."""

        def __iter__(self) -> Iterator[str]:
            made.append("spread")
            return super().__iter__()

        def keys(self) -> Any:
            return iter(self)

    version = Version("tracking-event", 1, 1, Counted(TRACKING.latest.parsed))
    async with serving(Server(COLUMNS)) as sink:
        for number in range(3):
            await sink.insert("tracking_events", version, SOURCE, rows_of([False]), f"t{number}")
    assert len(made) == 1


async def test_rows_arrive_under_their_token() -> None:
    """The server gets every row once, named, in one request, with what makes it deduplicate and wait."""
    server = Server(COLUMNS)
    async with serving(server) as sink:
        for _ in range(2):
            assert await sink.insert(**INSERT, rows=rows_of([False] * 3), token="p:1") == []
    assert [found["_offset"] for found in server.inserted["p:1"]] == [0, 3, 6]
    assert {found["_topic"] for found in server.inserted["p:1"]} == {SOURCE.topic}
    query = server.requests[0]
    assert query["query"] == f"INSERT INTO afluente.tracking_events ({', '.join(COLUMNS)}) FORMAT Avro"
    assert (query["insert_deduplicate"], query["async_insert"], query["wait_end_of_query"]) == ("1", "0", "1")
    assert len(server.requests) == 2


async def bisected(marks: list[bool]) -> tuple[Server, list[tuple[int, Poison]]]:
    server = Server(COLUMNS, wrong)
    async with serving(server) as sink:
        return server, await sink.insert(**INSERT, rows=rows_of(marks), token="p:1")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40))
async def test_only_the_refused_rows_stay_behind(marks: list[bool]) -> None:
    """A poison row takes none of its neighbours along, wherever and however often it sits in the block."""
    server, refused = await bisected(marks)
    assert [offset for offset, _ in refused] == [3 * index for index, bad in enumerate(marks) if bad]
    assert {poison.reason for _, poison in refused} <= {"refused_by_clickhouse"}
    good = [3 * index for index, bad in enumerate(marks) if not bad]
    assert [found["_offset"] for found in server.inserted.get("p:1", [])] == good
    assert len(server.inserted) <= 1


DAMAGE: list[Callable[[bytes], bytes]] = [
    lambda datum: datum + b"\0",
    lambda datum: datum + b"\x02abcdefgh",
    lambda datum: datum + datum,
    lambda datum: datum[:-1],
    lambda datum: datum[:60],
    lambda _datum: b"",
]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.none(), st.sampled_from(DAMAGE)), min_size=1, max_size=12))
async def test_half_a_datum_takes_nothing_from_its_neighbours(damages: list[Callable[[bytes], bytes] | None]) -> None:
    """A datum too long or too short shifts every row behind it: it goes alone, and no row gets a wrong source."""
    sound = rows_of([False] * len(damages))
    rows = [
        one._replace(value=damage(one.value)) if damage else one for one, damage in zip(sound, damages, strict=True)
    ]
    server = Server(COLUMNS, wrong)
    async with serving(server) as sink:
        refused = await sink.insert(**INSERT, rows=rows, token="p:1")
    assert {poison.reason for _, poison in refused} <= {"bad_wire_format"}
    assert sorted(offset for offset, _ in refused) == [3 * index for index, one in enumerate(damages) if one]
    good = [(3 * index, SOURCE.topic) for index, one in enumerate(damages) if not one]
    assert [(found["_offset"], found["_topic"]) for found in server.inserted.get("p:1", [])] == good


async def test_one_bad_row_is_found_in_few_requests() -> None:
    """Halving, not trying each row: a block of thousands must not become thousands of requests."""
    server, refused = await bisected([at == 700 for at in range(1000)])
    assert [offset for offset, _ in refused] == [2100]
    # The insert, its repetition, the columns, and two halves for each of ten levels.
    assert len(server.requests) <= 3 + 2 * 10


async def test_probing_inserts_nothing() -> None:
    """Parts of a block go to no table: half a block under the token would make the other half a duplicate."""
    server, _ = await bisected([True, False, False, True])
    probes = [query for query in server.requests if "null(" in query["query"]]
    assert len(probes) > 1
    assert all("insert_deduplication_token" not in query for query in probes)
    assert all("`" not in query["query"] and "event_id String" in query["query"] for query in probes)


async def test_a_block_refused_for_no_row_stops_us() -> None:
    """When the server takes each part and not the whole, nothing may be called poison, and nothing is committed."""
    server = Server(COLUMNS, answers=[(400, "27", "the whole is too much")])
    async with serving(server) as sink:
        with pytest.raises(RuntimeError, match="none of its rows"):
            await sink.insert(**INSERT, rows=rows_of([False, False]), token="p:1")
    assert server.inserted == {}


@pytest.mark.parametrize("code", ["1000", "1001"])
async def test_a_disk_that_takes_no_writes_makes_no_row_poison(code: str) -> None:
    """A library's failure may be the disk's: the server is asked about the rows, one row as well as many."""
    for count in (1, 3):
        server = Server(COLUMNS, answers=[(500, code, "filesystem error: Read-only file system")])
        async with serving(server) as sink:
            with pytest.raises(Backpressure, match=f"code {code}"):
                await sink.insert(**INSERT, rows=rows_of([False] * count), token="p:1")
            assert server.probed == 1
            assert await sink.insert(**INSERT, rows=rows_of([False] * count), token="p:1") == []


async def test_a_row_that_a_library_refuses_is_poison() -> None:
    """The same codes stay the rows' when the server refuses them where nothing is written."""
    server = Server(COLUMNS, wrong, answers=[(500, "1001", "avro::Exception")])
    async with serving(server) as sink:
        refused = await sink.insert(**INSERT, rows=rows_of([False, True, False]), token="p:1")
    assert [(offset, poison.reason) for offset, poison in refused] == [(3, "refused_by_clickhouse")]


async def test_a_busy_server_in_the_middle_of_halving_is_backpressure() -> None:
    """The whole insert is repeated later; no row is called poison because the server was busy."""
    server = Server(COLUMNS, wrong, answers=[(400, "27", "cannot parse"), (500, "202", "too many queries")])
    async with serving(server) as sink:
        with pytest.raises(Backpressure):
            await sink.insert(**INSERT, rows=rows_of([True, False]), token="p:1")
        assert [offset for offset, _ in await sink.insert(**INSERT, rows=rows_of([True, False]), token="p:1")] == [0]


async def test_a_server_that_is_away_is_backpressure() -> None:
    """Nothing listens there: keep the batch and try again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        sink = ClickHouseSink(Settings(clickhouse_url=f"http://127.0.0.1:{taken.getsockname()[1]}"))
        with pytest.raises(Backpressure):
            await sink.insert(**INSERT, rows=rows_of([False]), token="p:1")
        await sink.close()


FAILURES: list[tuple[int, str | None, type[Exception]]] = [
    (400, "27", Refused),  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
    (400, "53", Refused),  # TYPE_MISMATCH
    (500, "748", Refused),  # AVRO_EXCEPTION: the end of the block was reached within a row
    (500, "69", Refused),  # ARGUMENT_OUT_OF_BOUND
    (500, "76", Backpressure),  # CANNOT_OPEN_FILE: a disk that takes no writes, until somebody mends it
    (500, "172", Backpressure),  # CANNOT_CREATE_DIRECTORY
    (500, "204", Backpressure),  # CANNOT_FSYNC
    (500, "294", Backpressure),  # CANNOT_WRITE_TO_FILE
    (500, "424", Backpressure),  # CANNOT_LINK
    (500, "586", Backpressure),  # CANNOT_CREATE_FILE
    (500, "202", Backpressure),  # TOO_MANY_SIMULTANEOUS_QUERIES
    (500, "241", Backpressure),  # MEMORY_LIMIT_EXCEEDED
    (500, "242", Backpressure),  # TABLE_IS_READ_ONLY
    (500, "243", Backpressure),  # NOT_ENOUGH_SPACE
    (500, "252", Backpressure),  # TOO_MANY_PARTS
    (500, "319", Backpressure),  # UNKNOWN_STATUS_OF_INSERT
    (500, "999", Backpressure),  # KEEPER_EXCEPTION
    (200, "241", Backpressure),  # the status was sent before the failure
    (200, "27", Refused),
    (404, "60", RuntimeError),  # UNKNOWN_TABLE
    (404, "81", RuntimeError),  # UNKNOWN_DATABASE
    (400, "16", RuntimeError),  # NO_SUCH_COLUMN_IN_TABLE
    (403, "516", RuntimeError),  # AUTHENTICATION_FAILED
    (403, "497", RuntimeError),  # ACCESS_DENIED
    (400, "62", RuntimeError),  # SYNTAX_ERROR
    (500, "49", RuntimeError),  # LOGICAL_ERROR
    (500, None, Backpressure),
    (502, None, Backpressure),
    (503, None, Backpressure),
    (504, None, Backpressure),
    (429, None, Backpressure),
    (403, None, RuntimeError),
    (404, None, RuntimeError),
    (413, None, RuntimeError),
    (400, "x", RuntimeError),
]


@pytest.mark.parametrize(("status", "code", "expected"), FAILURES)
async def test_each_failure_has_its_class(status: int, code: str | None, expected: type[Exception]) -> None:
    """Busy is waited for, bad rows go to the DLQ, and what only a person can mend stops the process."""
    async with serving(Server(COLUMNS, answers=[(status, code, "text")])) as sink:
        with pytest.raises(expected) as raised:
            await sink._request({"query": "SELECT 1"}, b"")
    assert type(raised.value) is expected


def test_no_code_is_of_two_classes() -> None:
    """A code that passes by itself must never send a row to the DLQ."""
    assert not RETRY_CODES & ROW_CODES


async def test_the_password_travels_in_a_header_only() -> None:
    """A URL ends up in logs; a header does not."""
    server = Server(COLUMNS)
    async with serving(server) as plain:
        sink = ClickHouseSink(Settings(clickhouse_url=plain._url, clickhouse_password="s3cret"))
        await sink.insert(**INSERT, rows=rows_of([False]), token="p:1")
        await sink.close()
    assert server.heads[0]["X-ClickHouse-Key"] == "s3cret"
    assert "s3cret" not in str(server.requests)


async def test_an_answer_is_bounded() -> None:
    """A server that answers without end must not fill our memory."""
    text = "x" * (clickhouse.ANSWER_BYTES_MAX * 3)
    async with serving(Server(COLUMNS, answers=[(200, None, text)])) as sink:
        assert len(await sink._request({"query": "SELECT 1"}, b"")) == clickhouse.ANSWER_BYTES_MAX
