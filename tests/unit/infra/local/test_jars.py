"""The jars: what runs is what was locked."""

import re
from pathlib import Path

import pytest

from infra.local import jars
from infra.local.jars import LOCK, BadJars, Jar, locked_jars

KAFKA = "org.apache.kafka:kafka_2.13:4.1"


def test_the_lock_belongs_to_the_coordinates():
    """An edited jars.toml without `make lock` is found before a download."""
    names = [jar.coordinate for jar in locked_jars("kafka")]
    assert any(name.startswith(KAFKA) for name in names)
    assert len(set(names)) == len(names)


def test_every_jar_has_a_full_checksum():
    """No file is run that is not pinned by its SHA-256."""
    assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) for jar in locked_jars("kafka"))


def test_one_binding_for_the_log():
    """Kafka logs through exactly one slf4j binding: with none it is mute, with two it depends on the class path."""
    names = [jar.coordinate.split(":")[1] for jar in locked_jars("kafka")]
    assert [name for name in names if name in {"log4j-slf4j-impl", "slf4j-simple", "slf4j-reload4j"}] == [
        "log4j-slf4j-impl"
    ]


def test_the_lock_names_no_host():
    """Where the files come from is the machine's configuration and not the repository's."""
    assert "://" not in LOCK.read_text()


def test_a_changed_jar_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file of the right name and size with other content is not put on the class path."""
    monkeypatch.setenv("AFLUENTE_CACHE", str(tmp_path))
    jar = locked_jars("kafka")[0]
    folder = Path(jars.class_path("kafka")).parent
    folder.mkdir(parents=True)
    (folder / jar.filename).write_bytes(b"\0" * jar.size)
    assert jar in jars.missing("kafka")


class _Elsewhere:
    """Stands for jgo's context with a registry that serves another file under the right name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def project(self, *_: str) -> "_Elsewhere":
        return self

    at_version = artifact = project

    def resolve(self) -> Path:
        self.path.write_bytes(b"another file")
        return self.path


def test_a_wrong_download_is_refused_and_not_kept(tmp_path: Path):
    """A registry that serves something else cannot make us run it, nor leave it in the cache."""
    jar = Jar("g:a:1", size=12, sha256="0" * 64)
    served = tmp_path / "served.jar"
    with pytest.raises(BadJars, match="SHA-256 is not"):
        jars._bring(_Elsewhere(served), jar, tmp_path)
    assert not served.exists()
    assert not (tmp_path / jar.filename).exists()
