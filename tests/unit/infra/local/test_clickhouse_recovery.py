"""Deduplication tokens after a kill: those without rows are forgotten, all others kept."""

from pathlib import Path

import pytest

from infra.local.clickhouse_recovery import BLOCKS_IN_DOUBT, forget_lost_parts


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table's folder with a deduplication log, as the engine lays it out."""
    folder = tmp_path / "store" / "abc" / "abcdef"
    (folder / "deduplication_logs").mkdir(parents=True)
    (folder / "detached").mkdir()
    return folder


def written(table: Path, *entries: str, number: int = 1) -> Path:
    path = table / "deduplication_logs" / f"deduplication_log_{number}.txt"
    path.write_text("".join(f"{entry}\n" for entry in entries))
    return path


def with_parts(table: Path, *names: str) -> None:
    for name in names:
        (table / name).mkdir()


def test_a_token_without_its_part_gets_a_drop_entry(tmp_path: Path, table: Path) -> None:
    """The engine's own DROP entry is appended, once; a second start finds nothing more to do."""
    with_parts(table, "202601_1_1_0", "202602_2_2_1")
    log = written(table, "1\t202601_1_1_0\tx_1", "1\t202602_2_2_1\ty_2", "1\t202601_3_3_0\tx_3")
    before = log.read_text()
    assert forget_lost_parts(tmp_path) == 1
    assert log.read_text() == before + "2\t202601_3_3_0\tx_3\n"
    assert forget_lost_parts(tmp_path) == 0


def test_rows_that_were_merged_are_not_lost(tmp_path: Path, table: Path) -> None:
    """A merged part holds the blocks of those it was made of, mutated or not."""
    with_parts(table, "all_1_4_1", "all_5_5_0_9")
    written(table, *[f"1\tall_{n}_{n}_0\tt_{n}" for n in range(1, 6)])
    assert forget_lost_parts(tmp_path) == 0


def test_another_partition_does_not_vouch(tmp_path: Path, table: Path) -> None:
    """The part of one month says nothing about the rows of another."""
    with_parts(table, "202601_1_9_1")
    written(table, "1\t202602_5_5_0\tt")
    assert forget_lost_parts(tmp_path) == 1


def test_old_parts_may_be_gone(tmp_path: Path, table: Path) -> None:
    """What TTL or DROP PARTITION took long ago keeps its token; what was dropped on the record stays dropped."""
    with_parts(table, f"all_{BLOCKS_IN_DOUBT + 5}_{BLOCKS_IN_DOUBT + 5}_0")
    written(table, "1\tall_3_3_0\told", "1\tall_1001_1001_0\tdropped", "2\tall_1001_1001_0\tdropped")
    assert forget_lost_parts(tmp_path) == 0


def test_a_torn_last_line_is_cut(tmp_path: Path, table: Path) -> None:
    """Half an entry would swallow the next one written behind it."""
    with_parts(table, "all_1_1_0")
    log = written(table, "1\tall_1_1_0\ta")
    log.write_text(log.read_text() + "1\tall_2_2_0\tb")
    assert forget_lost_parts(tmp_path) == 0
    assert log.read_text() == "1\tall_1_1_0\ta\n"


def test_entries_go_to_the_newest_log(tmp_path: Path, table: Path) -> None:
    """The engine reads its logs in the order of their numbers, so 10 comes after 9."""
    written(table, "1\tall_1_1_0\ta", number=9)
    newest = written(table, number=10)
    assert forget_lost_parts(tmp_path) == 1
    assert newest.read_text() == "2\tall_1_1_0\ta\n"
