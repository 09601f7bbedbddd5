"""The stand-in's reading of SQL: where rows begin, and where the output clause goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local.clickhouse_sql import StatementRefused, insert_head, is_insert, output_clause

HEADS = [
    b"INSERT INTO t FORMAT CSV\n",
    b"insert into t (a, b) format CSV ",
    b"INSERT INTO `VALUES` (`format`, \"SELECT\") SETTINGS x = 'FORMAT TSV' FORMAT CSV\r\n",
    b"/* SELECT */ INSERT INTO TABLE db.values -- FORMAT TSV\n FORMAT CSV;\n",
    b"INSERT INTO FUNCTION null('a UInt8') FORMAT CSV\n",
]


@pytest.mark.parametrize("head", HEADS)
@given(rows=st.binary().filter(lambda rows: rows[:1] not in {b" ", b"\t", b"\f", b"\r", b"\n", b";", b""}))
def test_rows_begin_right_behind_the_head(head: bytes, rows: bytes) -> None:
    """Not a byte of the rows is taken for SQL, whatever they are, and not one is lost."""
    found = insert_head(head + rows, complete=True)
    assert found is not None
    assert ((head + rows)[found.rows_at :], found.format) == (rows, "CSV")
    assert b"CSV" not in found.statement


@pytest.mark.parametrize("head", HEADS)
def test_a_head_cut_anywhere_waits_for_the_rest(head: bytes) -> None:
    """A statement that arrives in pieces is not judged before its format's name is whole."""
    whole = insert_head(head + b"1", complete=False)
    assert whole is not None
    for cut in range(len(head)):
        early = insert_head(head[:cut], complete=False)
        assert early is None or early == whole


@pytest.mark.parametrize(
    "sql", [b"INSERT INTO t SELECT 1", b"INSERT INTO t (a) SELECT b FROM x FORMAT CSV", b"INSERT INTO t (SELECT 1)"]
)
def test_an_insert_from_a_query_has_no_rows_behind_it(sql: bytes) -> None:
    """INSERT ... SELECT is the engine's business alone."""
    assert is_insert(sql)
    assert insert_head(sql, complete=True) is None


@pytest.mark.parametrize(
    ("sql", "format_name"),
    [
        (b"SELECT 1", "TSV"),
        (b"SELECT 1;;", "TSV"),
        (b"SELECT 1 FORMAT JSON", "JSON"),
        (b"SELECT 1 FORMAT JSON -- FORMAT XML", "JSON"),
        (b"SELECT 1 FORMAT JSON SETTINGS max_threads = 1", "JSON"),
        (b"SELECT 1 SETTINGS max_threads = 1 FORMAT JSON;", "JSON"),
        (b"SELECT 'FORMAT JSON'", "TSV"),
        (b"SELECT x AS format FROM t", "TSV"),
        (b"WITH 1 AS format SELECT format", "TSV"),
        (b"(SELECT 1 FORMAT JSON)", "TSV"),
        (b"SHOW TABLES FROM x FORMAT Native", "Native"),
    ],
)
def test_the_output_clause_is_found(sql: bytes, format_name: str) -> None:
    """The format is the statement's own; names, strings and comments that look like one are not."""
    clause = output_clause(sql, "TSV")
    assert clause is not None
    assert clause.format == format_name
    assert clause.into("/x").count(b" INTO OUTFILE '/x' TRUNCATE COMPRESSION 'none' FORMAT ") == 1


@pytest.mark.parametrize(
    "sql", [b"CREATE TABLE t AS SELECT 1", b"KILL QUERY WHERE 1", b"", b"-- nothing", b"SET a = 1"]
)
def test_statements_without_rows_are_left_alone(sql: bytes) -> None:
    """Only a reading statement is sent through the pipe."""
    assert output_clause(sql, "TSV") is None


def test_files_of_the_server_are_not_written_over_http() -> None:
    """INTO OUTFILE and FROM INFILE would touch the server's disk: a server refuses them, and so do we."""
    with pytest.raises(StatementRefused, match="OUTFILE"):
        output_clause(b"SELECT 1 INTO OUTFILE '/etc/x' FORMAT CSV", "TSV")
    with pytest.raises(StatementRefused, match="infile"):
        insert_head(b"INSERT INTO t FROM INFILE '/etc/passwd' FORMAT CSV", complete=True)
