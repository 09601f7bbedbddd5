"""A backup is whole or it is told: every byte is in the manifest, and the manifest vouches for itself."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.local.backup_manifest import NAME, SEAL, Manifest, NoBackup, Position, backups_in, files_of, mark, verify
from infra.local.backup_stores import CopyFailed, log_ahead

PART = "clickhouse/data/all_1_1_0/data.bin"


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Three files and their manifest."""
    folder = tmp_path / "afluente-1"
    for name, text in ((PART, "rows" * 99), ("postgres/base.tar", "pages"), ("local.env", "A=b\n")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    manifest = Manifest("afluente-1", "2026-01-01T00:00:00.000Z", "afluente", "afluente", cdc=True, versions={"a": "1"})
    manifest.positions = [Position("tracking.collected", "id", 0, 0, 7, 9)]
    manifest.seconds = {"clickhouse": 0.5}
    manifest.files = {str(path.relative_to(folder)): mark(path, sync=True) for path in files_of(folder)}
    manifest.write(folder)
    return folder


def test_what_was_written_is_read(backup: Path) -> None:
    """A manifest comes back as it was, to the last field, and knows the size of it all."""
    manifest = Manifest.read(backup)
    assert manifest.positions == [Position("tracking.collected", "id", 0, 0, 7, 9)]
    assert manifest.cdc
    assert manifest.bytes == sum(path.stat().st_size for path in files_of(backup)) > 0
    assert len(manifest.files) == 3
    assert verify(backup) == []


def changed(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "told"),
    [(changed, f"{PART} was changed"), (cut, f"{PART} has 395 bytes"), (Path.unlink, f"{PART} is missing")],
)
def test_a_harmed_file_is_named(backup: Path, harm: Callable[[Path], None], told: str) -> None:
    """One bit, one byte less, one file less: each is found, and nothing else is."""
    harm(backup / PART)
    (fault,) = verify(backup)
    assert fault.startswith(told)


def test_a_strange_file_is_named(backup: Path) -> None:
    """What somebody has put beside the parts would be restored with them."""
    (backup / "clickhouse" / "more").write_text("x")
    (backup / "postgres" / "link").symlink_to("/etc/hostname")
    assert verify(backup) == ["clickhouse/more does not belong to it", "postgres/link does not belong to it"]


def test_a_changed_manifest_is_no_manifest(backup: Path) -> None:
    """Whoever changes offsets or checksums by hand makes the whole backup void."""
    changed(backup / NAME)
    with pytest.raises(NoBackup, match="was changed"):
        verify(backup)


@pytest.mark.parametrize("name", [NAME, SEAL])
def test_without_its_manifest_it_is_no_backup(backup: Path, name: str) -> None:
    """The manifest is written last, so a copy that was cut off has none."""
    (backup / name).unlink()
    with pytest.raises(NoBackup, match="no backup"):
        verify(backup)


def test_the_list_tells_whole_ones_from_others(backup: Path) -> None:
    """An unfinished folder is shown as what it is, and an absent folder has no backups."""
    shutil.copytree(backup, backup.with_name("afluente-2.unfinished"))
    (backup.with_name("afluente-2.unfinished") / NAME).unlink()
    found = backups_in(backup.parent)
    assert [(path.name, one is not None) for path, one in found] == [
        ("afluente-1", True),
        ("afluente-2.unfinished", False),
    ]
    assert backups_in(backup / "nowhere") == []


def test_a_restored_postgres_goes_on_ahead_of_the_lost_one() -> None:
    """Versions are places in the log: the next one is 1 TiB further, on the same timeline."""
    told = "Current pg_control values:\n\nFirst log segment after reset:        0000000100000002000000FE\n"
    assert log_ahead(told) == "0000000100000102000000FE"
    with pytest.raises(CopyFailed, match="does not say"):
        log_ahead("nothing")
