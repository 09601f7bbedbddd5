"""What a restore puts back, what it leaves alone, and what it refuses, before it has touched anything."""

from pathlib import Path

import pytest

from infra.local.backup import SECRETS, plan
from infra.local.backup_manifest import RESTORING, Manifest, files_of, mark, refuse_cut_off
from infra.local.faults import Fault
from infra.local.stack import Stack


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A whole backup, of hardly anything."""
    folder = tmp_path / "afluente-1"
    folder.mkdir()
    (folder / SECRETS).write_text("AFLUENTE_MASTER_KEY=mine\n")
    manifest = Manifest("afluente-1", "2026-01-01T00:00:00.000Z", "afluente", "afluente", cdc=False, versions={})
    manifest.files = {str(path.relative_to(folder)): mark(path) for path in files_of(folder)}
    manifest.write(folder)
    return folder


def home(tmp_path: Path, *stores: str, key: str = "mine") -> Stack:
    """A stack that is down, with these stores."""
    stack = Stack(tmp_path / "home")
    stack.home.create()
    for store in stores:
        (stack.home.root / store).mkdir()
    stack.home.env_file.write_text(f"AFLUENTE_MASTER_KEY={key}\n")
    return stack


@pytest.mark.parametrize(
    ("stores", "missing", "kept"),
    [
        ((), ["clickhouse", "postgres"], []),
        (("kafka",), ["clickhouse", "postgres"], ["kafka"]),
        (("kafka", "postgres"), ["clickhouse"], ["postgres", "kafka"]),
        (("clickhouse",), ["postgres"], ["clickhouse"]),
    ],
)
def test_what_is_missing_is_put_back(
    tmp_path: Path, backup: Path, stores: tuple[str, ...], missing: list[str], kept: list[str]
) -> None:
    """A store that is there is newer than its backup: it stays."""
    planned = plan(home(tmp_path, *stores), backup)
    assert (planned.missing, planned.kept) == (missing, kept)


def test_nothing_is_overwritten(tmp_path: Path, backup: Path) -> None:
    """A home that has both stores is refused: whoever wants the backup moves them aside first."""
    with pytest.raises(Fault, match="nothing is missing"):
        plan(home(tmp_path, "clickhouse", "postgres"), backup)


def test_a_harmed_backup_is_refused(tmp_path: Path, backup: Path) -> None:
    """Half a restore is worse than none: every byte is checked before."""
    (backup / SECRETS).write_text("AFLUENTE_MASTER_KEY=mink\n")
    with pytest.raises(Fault, match="is not whole"):
        plan(home(tmp_path), backup)


def test_the_backup_of_another_stack_is_refused(tmp_path: Path, backup: Path) -> None:
    """Its secrets do not open what is there, and its offsets are of other topics."""
    with pytest.raises(Fault, match="another stack's"):
        plan(home(tmp_path, "kafka", key="other"), backup)


def test_a_restore_that_was_cut_off_begins_anew(tmp_path: Path, backup: Path) -> None:
    """What it had put there is not whole: `up` refuses it, and the next restore puts back that, and that alone."""
    stack = home(tmp_path, "kafka", "clickhouse", "postgres")
    (stack.home.root / RESTORING).write_text("clickhouse\npostgres")
    with pytest.raises(Fault, match="was cut off"):
        refuse_cut_off(stack.home)
    planned = plan(stack, backup)
    assert (planned.missing, planned.kept) == (["clickhouse", "postgres"], ["kafka"])
    refuse_cut_off(home(tmp_path / "other").home)
