"""The tables of a rebuild are those of the migrations under another name; blocks lose no record."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app import rebuilding
from app.settings import Settings
from schemas.mirrors import MIRRORS


def settings(**chosen: Any) -> Settings:
    return Settings(_env_file=None, **chosen)  # type: ignore[call-arg]


def test_new_tables_are_made_of_the_migrations_of_the_old_ones() -> None:
    """The same columns, keys and engine, another name, and nothing said to any other table."""
    for mirror in MIRRORS:
        old = rebuilding.statements(settings(), mirror.table, "", "x")
        new = rebuilding.statements(settings(), mirror.table, "_next", "x")
        assert old[0].startswith("CREATE TABLE")
        name = f"afluente.{mirror.table}"
        assert [text.replace(f"{name}_next", name) for text in new] == old


def test_on_a_cluster_each_rebuild_has_its_own_place_in_keeper() -> None:
    """A table that was swapped in keeps its place, so the next one cannot have the same."""
    for mirror in MIRRORS:
        cluster = settings(clickhouse_cluster="main")
        texts = [rebuilding.statements(cluster, mirror.table, "_next", one)[0] for one in ("first", "second")]
        assert "/{table}'" not in "".join(texts)
        assert texts[0] != texts[1]
        assert all("ON CLUSTER `main`" in text for text in texts)


@given(st.lists(st.integers(0, 60_000), max_size=8))
def test_blocks_lose_nothing(sizes: list[int]) -> None:
    """Lists of any size become large blocks, in order: a part is made for each month of a block."""
    given_: list[Any] = [[number] * size for number, size in enumerate(sizes) if size]
    found = list(rebuilding.blocks(iter(given_)))
    assert sum(map(len, found)) == sum(sizes)
    assert all(len(block) >= rebuilding.BLOCK_RECORDS for block in found[:-1])
