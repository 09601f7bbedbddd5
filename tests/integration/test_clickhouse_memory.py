"""Laws of the embedded ClickHouse when memory is short: an insert is there whole, or is refused; never a false yes."""

import itertools
from collections.abc import Iterator

import pytest

from tests.integration.test_clickhouse_server import SCHEMA, avro_container
from tests.support.clickhouse_server import ClickHouseServer

NUMBERS = itertools.count()
ROWS = 20_000
MEMORY_LIMIT_EXCEEDED = "241"
MIB = 1 << 20
WHOLE_BLOCK = {"max_insert_block_size": "1048576", "min_insert_block_size_rows": "1048576"}
BODY = avro_container([{"a": ROWS - number, "b": f"{number:01000}"} for number in range(ROWS)], SCHEMA)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    server = ClickHouseServer(tmp_path_factory.mktemp("clickhouse"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.mark.parametrize("memory_mib", [20, 40, 50, 60, 70, 80, 90, 100, 120, 400])
def test_success_means_that_the_rows_are_there(server: ClickHouseServer, memory_mib: int) -> None:
    """Wherever memory ends, at the parsing or when the block is written, success is said of rows that are there."""
    table = f"default.memory{next(NUMBERS)}"
    server.query(f"CREATE TABLE {table} (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
    answer = server.post(
        f"INSERT INTO {table} FORMAT Avro", BODY, max_memory_usage=str(memory_mib * MIB), **WHOLE_BLOCK
    )
    rows = int(server.query(f"SELECT count() FROM {table}"))
    if answer.status_code == 200:
        assert rows == ROWS
    else:
        assert (rows, answer.headers["X-ClickHouse-Exception-Code"]) == (0, MEMORY_LIMIT_EXCEEDED)


def test_a_refused_insert_is_taken_at_its_second_try(server: ClickHouseServer) -> None:
    """What had too little memory leaves no token behind: the retry under the same one brings the rows."""
    table = f"default.memory{next(NUMBERS)}"
    window = "SETTINGS non_replicated_deduplication_window = 100"
    server.query(f"CREATE TABLE {table} (a UInt64, b String) ENGINE = MergeTree ORDER BY a {window}")
    for memory_mib in (60, 400, 400):
        server.post(
            f"INSERT INTO {table} FORMAT Avro", BODY, max_memory_usage=str(memory_mib * MIB),
            insert_deduplication_token="once", **WHOLE_BLOCK,
        )  # fmt: skip
    assert int(server.query(f"SELECT count() FROM {table}")) == ROWS
