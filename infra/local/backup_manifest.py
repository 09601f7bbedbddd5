"""What a backup says of itself: its files with their checksums, and where Kafka's group stood before they were copied.

A folder without a whole manifest is no backup: it is written last, and the folder gets its name after that.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from infra.local.faults import Fault
from infra.local.home import Home

FORMAT: Final = 1  # of the document below; a reader refuses one that it does not know
NAME: Final = "manifest.json"
SEAL: Final = "manifest.sha256"  # of the manifest itself: it holds the checksums of all the rest
UNFINISHED: Final = ".unfinished"  # the end of the folder's name until all is there
RESTORING: Final = "restoring"  # in the home, while a restore is under way: names what is put there
CHUNK_BYTES: Final = 1 << 20


class NoBackup(Fault):
    """There is no whole backup. The text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Position:
    """A partition before the stores were copied: all below `committed` (-1: nothing) is in the ClickHouse backup."""

    topic: str
    topic_id: str
    partition: int
    first: int
    committed: int
    end: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What a file must be."""

    bytes: int
    sha256: str


@dataclass(slots=True)
class Manifest:
    """One backup. `seconds` is what each step took, in the order of the steps."""

    id: str
    began: str
    group: str
    database: str
    cdc: bool
    versions: dict[str, str]
    ended: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    positions: list[Position] = field(default_factory=list)
    connector: dict[str, Any] = field(default_factory=dict)  # Debezium's place in the log, for whoever looks at it
    files: dict[str, Mark] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(mark.bytes for mark in self.files.values())

    def write(self, folder: Path) -> None:
        """Into the folder, after everything else."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"
        write_synced(folder / NAME, text)
        write_synced(folder / SEAL, hashlib.sha256(text.encode()).hexdigest() + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises NoBackup when the folder holds none, or one that cannot be read."""
        try:
            raw = (folder / NAME).read_bytes()
            seal = (folder / SEAL).read_text("utf-8").strip()
        except (FileNotFoundError, NotADirectoryError):
            raise NoBackup(f"{folder} is no backup: it has no {NAME} with its {SEAL}.") from None
        if hashlib.sha256(raw).hexdigest() != seal:
            raise NoBackup(f"{folder / NAME} was changed after it was written.")
        document = json.loads(raw)
        if document.pop("format") != FORMAT:
            raise NoBackup(f"{folder} was written in another format than {FORMAT}: use the checkout that wrote it.")
        document["positions"] = [Position(**one) for one in document["positions"]]
        document["files"] = {name: Mark(**one) for name, one in document["files"].items()}
        return cls(**document)


def cut_off(home: Home) -> list[str]:
    """The stores that a restore was putting back when it was killed: they are not whole."""
    note = home.root / RESTORING
    return note.read_text("utf-8").split() if note.exists() else []


def refuse_cut_off(home: Home) -> None:
    """Raises Fault when a restore into this home did not come to its end."""
    if cut_off(home):
        raise Fault(f"A restore into {home.root} was cut off: run it again.")


def write_synced(path: Path, text: str) -> None:
    """On disk when it returns, readable by its owner alone."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def files_of(folder: Path) -> Iterator[Path]:
    """Every file below it but the manifest."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or (path.is_file() and path.name not in {NAME, SEAL}):
            yield path


def mark(path: Path, *, sync: bool = False) -> Mark:
    """Size and checksum of a file, brought to disk first when asked to."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        if sync:
            os.fsync(file.fileno())
    return Mark(size, digest.hexdigest())


def verify(folder: Path) -> list[str]:
    """Everything that is not as the manifest says, one sentence a file. Raises NoBackup without a manifest."""
    manifest = Manifest.read(folder)
    found = {str(path.relative_to(folder)): path for path in files_of(folder)}
    faults = [f"{name} is missing" for name in sorted(manifest.files.keys() - found.keys())]
    faults += [f"{name} does not belong to it" for name in sorted(found.keys() - manifest.files.keys())]
    for name in sorted(manifest.files.keys() & found.keys()):
        wanted, there = manifest.files[name], mark(found[name])
        if there.bytes != wanted.bytes:
            faults.append(f"{name} has {there.bytes} bytes instead of {wanted.bytes}")
        elif there.sha256 != wanted.sha256:
            faults.append(f"{name} was changed: its checksum is another")
    return faults


def backups_in(folder: Path) -> list[tuple[Path, Manifest | None]]:
    """The backups of a folder, the oldest first; None for one that is unfinished or broken."""
    found: list[tuple[Path, Manifest | None]] = []
    for path in sorted(one for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []:
        try:
            found.append((path, Manifest.read(path)))
        except NoBackup:
            found.append((path, None))
    return found
