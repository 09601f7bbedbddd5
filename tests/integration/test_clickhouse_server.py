"""The ClickHouse of the embedded stack keeps a real server's promises to clickhouse-connect, curl and the worker."""

import datetime as dt
import gzip
import io
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
import zlib
from base64 import b64encode
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import clickhouse_connect
import fastavro
import httpx
import lz4.frame
import pytest
import zstandard
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, Error

from infra.local.clickhouse import READ_THREADS
from infra.local.home import exports
from tests.support.clickhouse_server import KEY, PASSWORD, ClickHouseServer
from tests.support.edge_parts import wait_for

WINDOW = "SETTINGS non_replicated_deduplication_window = 1000"
CODECS = {
    "gzip": (gzip.compress, gzip.decompress),
    "deflate": (zlib.compress, zlib.decompress),
    "zstd": (zstandard.compress, lambda body: zstandard.ZstdDecompressor().decompressobj().decompress(body)),
    "lz4": (lz4.frame.compress, lz4.frame.decompress),
}
NUMBERS = iter(itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """One server for the tests that do not kill it."""
    running = ClickHouseServer(tmp_path_factory.mktemp("clickhouse")).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(server: ClickHouseServer) -> Iterator[Client]:
    """clickhouse-connect as everybody creates it."""
    made = clickhouse_connect.get_client(host="127.0.0.1", port=server.port, username="default", password=PASSWORD)
    yield made
    made.close()


@pytest.fixture
def table(server: ClickHouseServer) -> str:
    """A fresh table with a deduplication window."""
    name = f"default.t{next(NUMBERS)}"
    server.query(f"CREATE TABLE {name} (a UInt64, b String) ENGINE = MergeTree ORDER BY a {WINDOW}")
    return name


def avro_container(records: Sequence[dict[str, Any]], schema: dict[str, Any]) -> bytes:
    """An object container whose one block is the concatenation of the datums, as the worker builds it."""
    datums, out = io.BytesIO(), io.BytesIO()
    for record in records:
        fastavro.schemaless_writer(datums, schema, record)
    fastavro.writer(out, schema, [], sync_marker=bytes(16))
    for number in (len(records), len(datums.getvalue())):
        fastavro.schemaless_writer(out, {"type": "long"}, number)
    return out.getvalue() + datums.getvalue() + bytes(16)


SCHEMA = {
    "type": "record",
    "name": "R",
    "fields": [{"name": "a", "type": "long"}, {"name": "b", "type": "string"}],
}


def avro_rows(first: int, count: int) -> bytes:
    return avro_container([{"a": first + i, "b": f"row {i}" * 10} for i in range(count)], SCHEMA)


def counted(server: ClickHouseServer, table: str) -> tuple[int, int]:
    rows, distinct = server.query(f"SELECT count(), uniqExact(a) FROM {table}").split("\t")
    return int(rows), int(distinct)


def test_every_column_type_of_ours_makes_the_round_trip(server: ClickHouseServer, client: Client) -> None:
    """What clickhouse-connect inserts natively comes back equal, for each column type of our tables."""
    server.query(
        "CREATE TABLE default.types (id UUID, name String, kind LowCardinality(String), at DateTime64(3, 'UTC'),"
        " amount Nullable(Decimal(18, 4)), consent Nullable(Bool), parts Nullable(Int32), p UInt32, o UInt64)"
        " ENGINE = MergeTree ORDER BY id"
    )
    at = dt.datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=dt.UTC)
    rows = [
        [uuid.uuid4(), "ação ' \\ \t \n 🎉 \0", "click", at, Decimal("-12345678901234.5678"), True, -1, 7, 2**64 - 1],
        [uuid.uuid4(), "", "", at, None, None, None, 0, 0],
    ]
    summary = client.insert("default.types", rows, column_names="*")
    assert summary.written_rows == 2
    found = client.query("SELECT * FROM default.types ORDER BY p DESC", tz_mode="aware").result_rows
    assert [list(row) for row in found] == rows


def test_clickhouse_connect_binds_streams_and_commands(client: Client) -> None:
    """Parameters, streams, commands, empty results and raw inserts behave as with a server."""
    bound = client.query("SELECT {s:String}, {a:Array(String)}", parameters={"s": "a'b\\\t\n", "a": ["x'", "\\"]})
    assert bound.result_rows == [("a'b\\\t\n", ["x'", "\\"])]
    with client.query_row_block_stream("SELECT number FROM numbers(1000000)") as stream:
        assert sum(len(block) for block in stream) == 1_000_000
    client.command("CREATE TABLE IF NOT EXISTS default.raw (a UInt64) ENGINE = Memory")
    client.raw_insert("default.raw", ["a"], b"1\n2\n", fmt="CSV")
    assert client.command("SELECT count() FROM default.raw") == 2
    assert client.query("SELECT 1 AS one LIMIT 0").column_names == ("one",)
    assert {"default", "system"} <= {row[0] for row in client.query("SHOW DATABASES").result_rows}
    assert client.ping()


@pytest.mark.parametrize("rows", [1, 50_000])
def test_an_avro_insert_is_one_block_and_its_token_counts_once(server: ClickHouseServer, table: str, rows: int) -> None:
    """A batch is one part, and the same token adds nothing a second time, whatever the rows are."""
    insert = f"INSERT INTO {table} (a, b) FORMAT Avro"
    for _ in range(2):
        server.insert(insert, avro_rows(0, rows), insert_deduplication_token="t0-0-1", async_insert="0")
    server.insert(insert, avro_rows(10, rows), insert_deduplication_token="t0-0-1", async_insert="0")
    assert counted(server, table) == (rows, rows)
    parts = f"SELECT rows FROM system.parts WHERE database || '.' || table = '{table}'"
    assert server.query(parts) == str(rows)
    server.insert(insert, avro_rows(rows, rows), insert_deduplication_token="t0-0-2", async_insert="0")
    assert counted(server, table) == (2 * rows, 2 * rows)


def test_one_token_covers_every_month_of_its_batch(server: ClickHouseServer) -> None:
    """A batch that spans table partitions is deduplicated part by part: a retry completes, it never doubles."""
    server.query(
        f"CREATE TABLE default.months (a UInt64, d Date) ENGINE = MergeTree PARTITION BY toYYYYMM(d)"
        f" ORDER BY a {WINDOW}"
    )
    rows = b"1,2026-01-31\n2,2026-02-01\n3,2026-03-01\n"
    for _ in range(3):
        server.insert("INSERT INTO default.months FORMAT CSV", rows, insert_deduplication_token="month")
    server.insert("INSERT INTO default.months FORMAT CSV", rows, insert_deduplication_token="other")
    assert server.query("SELECT count(), uniqExact(_partition_id) FROM default.months") == "6\t3"


def test_settings_of_the_url_hold_for_that_insert_alone(server: ClickHouseServer, table: str) -> None:
    """Block bounds, input settings and dedupe settings take effect exactly, and leak into nothing."""
    small = {"max_insert_block_size": "10", "min_insert_block_size_rows": "0", "min_insert_block_size_bytes": "0"}
    body = b"".join(b"%d,x\n" % i for i in range(30))
    insert = f"INSERT INTO {table} FORMAT CSV"
    server.insert(insert, body, **small, insert_deduplication_token="cut")
    parts = f"SELECT sum(rows), max(rows) FROM system.parts WHERE database || '.' || table = '{table}' AND level = 0"
    assert server.query(parts) == "30\t10"
    for _ in range(2):
        server.insert(insert, b"100,y\n", deduplicate_insert="disable", insert_deduplication_token="off")
    assert counted(server, table) == (32, 31)
    skipping = {"input_format_allow_errors_num": "1"}
    server.insert(insert, b"200,y\nnot a number,z\n201,y\n", **skipping)
    assert server.post(insert, b"300,y\nnot a number,z\n").status_code == 400
    assert counted(server, table) == (34, 33)


@pytest.mark.parametrize(
    ("sql", "parameters", "status", "code"),
    [
        ("SELECT * FROM default.nope", {}, 404, 60),
        ("INSERT INTO default.nope FORMAT CSV 1", {}, 404, 60),
        ("SELECT 1", {"database": "nope"}, 404, 81),
        ("SELEC 1", {}, 400, 62),
        ("SELECT 1; SELECT 2", {}, 400, 62),
        ("SELECT nope", {}, 404, 47),
        ("SELECT 1", {"no_such_setting": "1"}, 404, 115),
        ("SELECT 1 FORMAT Nope", {}, 404, 73),
        ("SELECT throwIf(1)", {}, 500, 395),
        ("SELECT sleep(3)", {"max_execution_time": "0.2", "timeout_overflow_mode": "throw"}, 408, 159),
        ("SELECT 1", {"compress": "1"}, 501, 48),
        ("SELECT 1 INTO OUTFILE '/dev/null'", {}, 500, 358),
        ("INSERT INTO default.nope SELECT a FROM input('a UInt8') FORMAT CSV 1", {}, 501, 48),
    ],
)
def test_errors_are_clickhouses_own(
    server: ClickHouseServer, sql: str, parameters: dict[str, str], status: int, code: int
) -> None:
    """A refused statement gets ClickHouse's status, code header and text, wherever it stands."""
    answer = server.http.post("/", params=parameters, content=sql)
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (status, str(code)), answer.text
    assert answer.text.startswith(f"Code: {code}. DB::Exception: ")


def test_a_failure_after_the_first_megabyte_cannot_pass_for_an_answer(server: ClickHouseServer, client: Client) -> None:
    """A query that fails in mid-stream breaks the transfer and carries its error; the server goes on."""
    sql = "SELECT number, throwIf(number = 3000000) FROM numbers(10000000)"
    with pytest.raises(Error, match="395"):
        assert client.query(sql).result_rows
    with pytest.raises(httpx.RemoteProtocolError):
        server.query(sql)
    assert server.query("SELECT 1") == "1"


def test_only_the_right_password_is_let_in(server: ClickHouseServer) -> None:
    """Headers, Basic and URL are understood; anything else is 403 with code 516 and shows nothing."""
    assert httpx.get(server.url, params={"query": "SELECT 1"}, auth=("default", PASSWORD)).text == "1\n"
    by_url = {"query": "SELECT 1", "user": "default", "password": PASSWORD}
    assert httpx.get(server.url, params=by_url).text == "1\n"
    refused = [
        httpx.get(server.url, params={"query": "SELECT 1"}),
        httpx.get(server.url, params={"query": "SELECT 1"}, auth=("default", "x")),
        httpx.get(server.url, params={"query": "SELECT 1"}, auth=("root", PASSWORD)),
        httpx.get(server.url, params={"query": "SELECT 1"}, headers={"Authorization": "Basic %%%"}),
        httpx.post(server.url, params={"query": "INSERT INTO x FORMAT CSV"}, content=b"1" * 100_000),
    ]
    for answer in refused:
        assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (403, "516")
        assert PASSWORD not in answer.text
    with pytest.raises(DatabaseError, match="516"):
        clickhouse_connect.get_client(host="127.0.0.1", port=server.port, password="wrong")


def test_a_get_reads_and_never_changes(server: ClickHouseServer, table: str) -> None:
    """GET is read-only, as on a server: code 164."""
    for sql in (f"INSERT INTO {table} VALUES (1, 'x')", f"DROP TABLE {table}", "CREATE DATABASE by_get"):
        answer = server.http.get("/", params={"query": sql})
        assert answer.headers["X-ClickHouse-Exception-Code"] == "164", answer.text
    assert server.http.get("/", params={"query": f"SELECT count() FROM {table}"}).text == "0\n"


@pytest.mark.parametrize("encoding", sorted(CODECS))
def test_bodies_are_compressed_both_ways(server: ClickHouseServer, table: str, encoding: str) -> None:
    """A compressed insert arrives whole, a cut one adds nothing, and answers are compressed when asked for."""
    pack, unpack = CODECS[encoding]
    rows = b"".join(b"%d,%s\n" % (i, b"y" * 50) for i in range(200_000))
    parameters = {"query": f"INSERT INTO {table} FORMAT CSV"}
    packed, header = pack(rows), {"Content-Encoding": encoding}
    cut = server.http.post("/", params=parameters, content=packed[: len(packed) // 2], headers=header)
    assert cut.status_code == 500
    assert counted(server, table) == (0, 0)
    server.http.post("/", params=parameters, content=packed, headers=header).raise_for_status()
    assert counted(server, table) == (200_000, 200_000)
    asked = {"enable_http_compression": "1", "query": f"SELECT * FROM {table} ORDER BY a FORMAT CSV"}
    with server.http.stream("POST", "/", params=asked, headers={"Accept-Encoding": encoding}) as answer:
        assert answer.headers["Content-Encoding"] == encoding
        assert unpack(b"".join(answer.iter_raw())).replace(b'"', b"") == rows


def test_statements_come_in_every_shape(server: ClickHouseServer, table: str) -> None:
    """Rows behind the statement, beside it, as VALUES, chunked, or a statement cut between URL and body."""
    server.query(f"INSERT INTO {table} (a, b) VALUES (1, 'x;y'), (2, lower('FORMAT'));")
    server.query(f'INSERT INTO {table} FORMAT JSONEachRow {{"a": 3, "b": "j"}}')
    server.query(f"-- a comment\nINSERT INTO {table} (b, a) FORMAT CSV\nq,4\n")
    server.http.post("/", params={"query": f"INSERT INTO {table}"}, content=b"(5, 'v')").raise_for_status()
    chunks = (b"%d,c\n" % i for i in range(6, 1_000))
    server.http.post("/", params={"query": f"INSERT INTO {table} FORMAT CSV"}, content=chunks).raise_for_status()
    server.query(f"INSERT INTO {table} SELECT number + 1000, 's' FROM numbers(10)")
    assert counted(server, table) == (1_009, 1_009)
    by_both = server.http.post(
        "/", params={"query": "SELECT b"}, content=f"FROM {table} WHERE a IN (1, 2, 4) ORDER BY a"
    )
    assert by_both.text == "x;y\nformat\nq\n"
    assert server.query("SELECT 1 AS x, 'FORMAT JSON' AS y -- FORMAT XML", default_format="JSONEachRow") == (
        '{"x":1,"y":"FORMAT JSON"}'
    )
    assert json.loads(server.query("SELECT 1 AS x FORMAT JSON SETTINGS max_threads = 1"))["data"] == [{"x": 1}]


def test_the_headers_name_query_format_and_figures(server: ClickHouseServer, table: str) -> None:
    """Clients read these headers: query id, format, timezone, and what was read and written."""
    insert = server.insert(f"INSERT INTO {table} FORMAT CSV", b"1,a\n2,b\n", query_id="mine")
    assert json.loads(insert.headers["X-ClickHouse-Summary"])["written_rows"] == "2"
    read = server.post(f"SELECT a FROM {table}", default_format="JSONCompact", query_id="mine")
    assert json.loads(read.headers["X-ClickHouse-Summary"])["read_rows"] == "2"
    assert (read.headers["X-ClickHouse-Query-Id"], read.headers["X-ClickHouse-Format"]) == ("mine", "JSONCompact")
    assert read.headers["Content-Type"].startswith("application/json")
    assert {"x-clickhouse-timezone", "x-clickhouse-server-display-name"} <= set(read.headers)


def test_long_reads_keep_nobody_waiting(server: ClickHouseServer, table: str) -> None:
    """With every reading thread busy for good, inserts, pings and KILL QUERY are answered all the same."""
    long = "SELECT count() FROM system.numbers WHERE number % 7 = 8 SETTINGS max_threads = 1"
    readers = [threading.Thread(target=server.post, args=(long,), daemon=True) for _ in range(READ_THREADS + 4)]
    for reader in readers:
        reader.start()
    which = "KILL QUERY WHERE query LIKE '%7 = 8%' AND query NOT LIKE '%KILL%'"
    wait_for(lambda: len(server.query(f"{which} TEST").splitlines()) == READ_THREADS, "the reading threads are busy")
    for token in range(5):
        server.insert(f"INSERT INTO {table} FORMAT CSV", b"%d,x\n" % token, insert_deduplication_token=str(token))
        assert server.is_alive()
    while any(reader.is_alive() for reader in readers):
        server.query(f"{which} SYNC")
        readers = [reader for reader in readers if reader.is_alive()]
    assert counted(server, table) == (5, 5)


def test_a_client_that_leaves_wedges_nothing(server: ClickHouseServer, table: str) -> None:
    """Half an insert adds nothing, and an abandoned query stops: neither keeps a thread or a lock."""
    auth = "Authorization: Basic " + b64encode(f"default:{PASSWORD}".encode()).decode()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            target = f"/?query=INSERT%20INTO%20{table}%20FORMAT%20CSV"
            head = f"POST {target} HTTP/1.1\r\nHost: x\r\n{auth}\r\nContent-Length: 20000000\r\n\r\n"
            connection.sendall(head.encode() + b"1,x\n" * 500)
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            target = "/?query=SELECT%20*%20FROM%20system.numbers"
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n{auth}\r\n\r\n".encode())
            connection.recv(1024)
    running = "SELECT count() FROM system.processes WHERE query NOT LIKE '%system.processes%'"
    wait_for(lambda: server.query(running) == "0", "abandoned queries stop")
    assert counted(server, table) == (0, 0)


def test_memory_is_bounded_and_given_back(server: ClickHouseServer, table: str) -> None:
    """A body of 300 MB streams through, a query over its bound is refused with 241, and the server stays up."""
    row = b"%d," + b"z" * 990 + b"\n"
    body = (b"".join(row % (block * 1_000 + i) for i in range(1_000)) for block in range(300))
    answer = server.http.post("/", params={"query": f"INSERT INTO {table} FORMAT CSV"}, content=body)
    assert answer.status_code == 200, answer.text
    assert counted(server, table) == (300_000, 300_000)
    greedy = server.post("SELECT groupArray(number) FROM numbers(200000000)")
    assert greedy.headers["X-ClickHouse-Exception-Code"] == "241"
    assert server.is_alive()


def test_curl_inserts_and_reads(server: ClickHouseServer, table: str, tmp_path: Path) -> None:
    """A piped file with compression goes in by curl, as in every ClickHouse tutorial."""
    rows = tmp_path / "rows.csv.gz"
    rows.write_bytes(gzip.compress(b"1,a\n2,b\n"))
    curl = ["curl", "-sS", "--fail-with-body", "--user", f"default:{PASSWORD}"]
    target = f"{server.url}/?query=INSERT+INTO+{table}+FORMAT+CSV"
    subprocess.run([*curl, "-H", "Content-Encoding: gzip", "--data-binary", f"@{rows}", target], check=True)
    sql = f"SELECT * FROM {table} ORDER BY a FORMAT CSV"
    done = subprocess.run([*curl, server.url, "-d", sql], check=True, capture_output=True)
    assert done.stdout == b'1,"a"\n2,"b"\n'


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ClickHouseServer]:
    """A server that its test may kill."""
    running = ClickHouseServer(tmp_path / "home").start()
    running.query(f"CREATE TABLE default.t (a UInt64, b String) ENGINE = ReplacingMergeTree ORDER BY a {WINDOW}")
    yield running
    running.stop()


def test_acknowledged_rows_survive_kill_9_and_retries_add_nothing(own_server: ClickHouseServer) -> None:
    """Killed at random during inserts, three times: every acknowledged row is there, every retried one once."""
    insert, number = "INSERT INTO default.t FORMAT CSV", 0
    for delay_s in (0.05, 0.2, 0.4):
        assert own_server.process is not None
        threading.Timer(delay_s, os.kill, (own_server.process.pid, signal.SIGKILL)).start()
        try:
            while True:
                rows = b"".join(b"%d,x\n" % (number * 10 + i) for i in range(10))
                own_server.insert(insert, rows, insert_deduplication_token=f"batch {number}")
                number += 1
        except httpx.HTTPError:
            own_server.stop(signal.SIGKILL)
        own_server.start()
        own_server.insert(insert, rows, insert_deduplication_token=f"batch {number}")
        number += 1
        assert counted(own_server, "default.t") == (number * 10, number * 10)


def test_a_token_without_its_rows_is_forgotten(own_server: ClickHouseServer) -> None:
    """Killed between a token's log entry and its part, the engine alone would drop the retry: rows would be lost."""
    own_server.query("SYSTEM STOP MERGES")
    insert = "INSERT INTO default.t FORMAT CSV"
    for number in range(3):
        own_server.insert(insert, b"%d,x\n" % number, insert_deduplication_token=f"batch {number}")
    own_server.stop(signal.SIGKILL)
    # The state such a kill leaves: the log names the part, the part is not there.
    newest = max(own_server.home.glob("clickhouse/store/*/*/all_*"), key=lambda part: int(part.name.split("_")[1]))
    shutil.rmtree(newest)
    own_server.start()
    for number in range(3):
        own_server.insert(insert, b"%d,x\n" % number, insert_deduplication_token=f"batch {number}")
    assert counted(own_server, "default.t") == (3, 3)


def test_sigterm_ends_it_in_time_even_during_a_long_query(own_server: ClickHouseServer) -> None:
    """A long query delays a stop by the drain time at most, the exit status is 0, and nothing is locked behind."""
    sql = "SELECT count() FROM system.numbers SETTINGS max_threads = 1"
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(httpx.post(own_server.url, headers=KEY, content=sql, timeout=60))
    )
    asking.start()
    wait_for(
        lambda: own_server.query("SELECT count() FROM system.processes WHERE query LIKE '%system.numbers%'") == "2",
        "the long query runs",
    )
    process = own_server.process
    assert process is not None
    second = subprocess.run(
        [sys.executable, "-m", "infra.local.clickhouse"],
        env={**os.environ, **own_server.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (second.returncode, "in use by another process" in second.stderr) == (os.EX_UNAVAILABLE, True)
    assert own_server.stop(signal.SIGTERM) == 0
    asking.join()
    assert answers[0].headers["X-ClickHouse-Exception-Code"] == "394"
    own_server.start()


def test_a_backup_stays_in_its_folder_and_comes_back(server: ClickHouseServer) -> None:
    """BACKUP writes into one folder of the home and nowhere else, and RESTORE brings the rows back from there."""
    server.query("CREATE DATABASE kept")
    server.query("CREATE TABLE kept.t (a UInt64) ENGINE = MergeTree ORDER BY a")
    server.query("INSERT INTO kept.t SELECT number FROM numbers(1000)")
    outside, inside = server.home / "elsewhere", exports(server.home / "clickhouse") / "one"
    refused = server.http.post("/", content=f"BACKUP DATABASE kept TO File('{outside}')".encode())
    assert refused.status_code >= 400
    assert not outside.exists()
    server.query(f"BACKUP DATABASE kept TO File('{inside}')")
    server.query("DROP DATABASE kept SYNC")
    server.query(f"RESTORE DATABASE kept FROM File('{inside}')")
    assert server.query("SELECT count(), sum(a) FROM kept.t") == "1000\t499500"
