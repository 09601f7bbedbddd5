"""Migrations: history is never rewritten, and the same files make one node or a replicated cluster."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.migrate import SCHEMAS, Migration, MigrationRefused, pending, placeholders, read_migrations, render, statements
from app.settings import Settings

SINGLE = Settings(clickhouse_cluster="")
CLUSTER = Settings(clickhouse_cluster="main", clickhouse_database="events")
EVENTS = SCHEMAS / "clickhouse" / "0001_events.sql"


def migration(number: int, text: str = "SELECT 1;") -> Migration:
    return Migration(number, Path(f"{number:04}_x.sql"), text)


def test_a_cluster_gets_replicated_tables_everywhere() -> None:
    """With a cluster every statement goes ON CLUSTER, tables are replicated under the servers' macros."""
    rendered = render(Migration(1, EVENTS, EVENTS.read_text()), CLUSTER)
    assert all("ON CLUSTER `main`" in statement for statement in rendered)
    tables = [statement for statement in rendered if statement.startswith("CREATE TABLE")]
    engine = "ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/events/{table}', '{replica}', _ingested_at)"
    assert len(tables) == 2
    for table in tables:
        assert engine in table
        assert "replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800" in table
        assert "non_replicated" not in table


def test_a_single_node_gets_no_trace_of_a_cluster() -> None:
    """Without a cluster there is no ON CLUSTER, no replica path, and the window of plain tables is set."""
    rendered = "\n".join(render(Migration(1, EVENTS, EVENTS.read_text()), SINGLE))
    assert "CLUSTER" not in rendered
    assert "Replicated" not in rendered
    assert "{" not in rendered
    assert rendered.count("non_replicated_deduplication_window = 100000") == 2


def test_an_unknown_placeholder_names_what_is_allowed() -> None:
    """A misspelt placeholder is found before any server is asked."""
    with pytest.raises(MigrationRefused, match=r"\{databse\}.*\{database\}"):
        render(migration(1, "CREATE DATABASE {databse}"), SINGLE)


@given(
    st.lists(
        st.sampled_from(["SELECT ';'", "SELECT 1 -- a; b\n", "SELECT /* ; ' */ 2", "SELECT 'it\\'s; '", "a - b / c"])
    )
)
def test_only_semicolons_between_statements_cut(parts: list[str]) -> None:
    """Strings and comments may hold semicolons and quotes; the number of statements never depends on them."""
    assert len(list(statements(";\n".join(parts)))) == len(parts)


@given(st.sets(st.integers(1, 30)), st.integers(0, 30))
def test_what_is_pending_is_the_tail_of_the_history(numbers: set[int], applied: int) -> None:
    """After the first k files are applied the rest is pending, in order; then nothing is."""
    files = [migration(number) for number in sorted(numbers)]
    records = {one.number: one.checksum for one in files[:applied]}
    assert pending(files, records) == files[applied:]


def test_an_edited_file_is_refused_with_both_checksums() -> None:
    """Nobody knows which of two texts made the tables, so the operator is shown both and the file."""
    before, after = migration(3, "SELECT 1;"), migration(3, "SELECT 2;")
    with pytest.raises(MigrationRefused) as caught:
        pending([after], {3: before.checksum})
    assert all(text in str(caught.value) for text in (before.checksum, after.checksum, "0003_x.sql"))


def test_a_history_that_is_not_ours_is_refused() -> None:
    """Older code than the store, and a file squeezed in before an applied one, are found."""
    with pytest.raises(MigrationRefused, match="deploy newer code"):
        pending([migration(1)], {1: migration(1).checksum, 2: "x"})
    with pytest.raises(MigrationRefused, match="give it a new number"):
        pending([migration(1), migration(2)], {2: migration(2).checksum})


@pytest.mark.parametrize("names", [["1_a.sql"], ["0001_A.sql"], ["0001_a.sql", "0001_b.sql"]])
def test_file_names_are_checked(tmp_path: Path, names: list[str]) -> None:
    """A stray name or a number used twice would be applied in an order nobody chose."""
    for name in names:
        (tmp_path / name).write_text("SELECT 1")
    with pytest.raises(MigrationRefused, match=names[-1]):
        read_migrations(tmp_path)


def test_both_kinds_of_server_fill_the_same_placeholders() -> None:
    """A file that renders for one node renders for a cluster."""
    assert placeholders(SINGLE).keys() == placeholders(CLUSTER).keys()
