"""The jars of the embedded stack's Java parts: fetched by jgo, checked against SHA-256 sums that are in the repository.

`python -m infra.local.jars` resolves jars.toml anew and rewrites jars.lock.json (`make lock` does it).
"""

import hashlib
import json
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.local.faults import Fault
from infra.local.home import cache_dir, locked

if TYPE_CHECKING:
    from jgo.maven import MavenContext

COORDINATES = Path(__file__).with_name("jars.toml")
LOCK = Path(__file__).with_name("jars.lock.json")
DOWNLOADS_AT_ONCE = 8  # the files are small, so the round trips count and not the bandwidth
DOWNLOAD_TIMEOUT_S = 60  # one answer; a slow link is no reason to fail, a dead one is
ATTEMPTS = 3  # a dropped connection is common in 46 downloads

Advance = Callable[[int], None]


class BadJars(Fault):
    """The jars cannot be had, or are not the ones that were locked."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One locked file: `group:artifact:version`, its size and its SHA-256."""

    coordinate: str
    size: int
    sha256: str

    @property
    def filename(self) -> str:
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def locked_jars(group: str) -> list[Jar]:
    """What the lock says. Refuses when the coordinates were edited and not locked again."""
    lock = json.loads(LOCK.read_text(encoding="utf-8")).get(group, {})
    if lock.get("coordinates") != _coordinates()[group]:
        raise BadJars(f"{LOCK.name} does not belong to {COORDINATES.name}: run `make lock`.")
    return [Jar(**entry) for entry in lock["jars"]]


def _coordinates() -> dict[str, list[str]]:
    groups = tomllib.loads(COORDINATES.read_text(encoding="utf-8"))
    return {group: table["coordinates"] for group, table in groups.items()}


def class_path(group: str) -> str:
    """The class path of a group that `ensure` has laid out."""
    return f"{_folder(group)}/*"


def _folder(group: str) -> Path:
    jars = locked_jars(group)
    digest = hashlib.sha256("".join(jar.sha256 for jar in jars).encode()).hexdigest()
    return cache_dir() / "jars" / f"{group}-{digest[:16]}"


def missing(group: str) -> list[Jar]:
    """The jars that are not there or are not what the lock says. All are read: 44 MB take a tenth of a second."""
    folder = _folder(group)
    return [jar for jar in locked_jars(group) if not _is_intact(folder / jar.filename, jar)]


def _is_intact(path: Path, jar: Jar) -> bool:
    if not path.is_file() or path.stat().st_size != jar.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256


def ensure(group: str, advance: Advance = lambda _: None) -> int:
    """Brings what is missing, checks it, and returns how many files that were. `advance` gets bytes as they come."""
    folder = _folder(group)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):  # two stacks may start for the first time together
        wanting = missing(group)
        if wanting:
            context = _context(advance)
            with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
                list(pool.map(lambda jar: _bring(context, jar, folder), wanting))
    return len(wanting)


def _bring(context: "MavenContext", jar: Jar, folder: Path) -> None:
    # A cut download stays behind under its final name (jgo writes in place), so a wrong file is fetched anew.
    fault = "no answer"
    for _ in range(ATTEMPTS):
        try:
            path = _artifact(context, jar.coordinate).resolve()
        except (OSError, RuntimeError, AssertionError) as error:
            fault = type(error).__name__
            continue
        if _is_intact(path, jar):
            draft = folder / f".{jar.filename}"
            shutil.copyfile(path, draft)
            draft.replace(folder / jar.filename)
            return
        fault = f"SHA-256 is not {jar.sha256}, as {LOCK.name} has it"
        path.unlink()
    raise BadJars(
        f"{jar.coordinate} could not be had in {ATTEMPTS} attempts ({fault}).\n"
        f"Check the network and run the command again: what has arrived is kept in {cache_dir()}."
    )


def _context(advance: Advance) -> "MavenContext":
    # Imported here: a start with all jars at hand needs neither jgo nor the HTTP client it brings.
    from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415

    @contextmanager
    def progress(_name: str, _size: int) -> Iterator[Advance]:
        yield advance

    callback: Callable[[str, int], AbstractContextManager[Advance]] = progress
    return MavenContext(
        resolver=PythonResolver(progress_callback=callback),
        repo_cache=cache_dir() / "maven",
        local_repos=[],
        timeout=DOWNLOAD_TIMEOUT_S,
    )


def _artifact(context: "MavenContext", coordinate: str) -> Any:
    group, artifact, version = coordinate.split(":")
    return context.project(group, artifact).at_version(version).artifact()


def _resolve(context: "MavenContext", coordinates: list[str]) -> list[Jar]:
    from jgo.maven import Dependency  # noqa: PLC0415 - as above

    # raw: jgo otherwise takes each coordinate for a bill of materials too, and log4j's pins an older kafka-clients.
    roots = [Dependency(_artifact(context, coordinate), raw=True) for coordinate in coordinates]
    inputs, transitive = context.resolver.resolve(roots)
    jars = []
    for dependency in [*inputs, *transitive]:
        artifact = dependency.artifact
        if artifact.classifier or artifact.packaging != "jar":
            raise BadJars(f"{artifact} is no plain jar: teach infra/local/jars.py about it.")
        path = artifact.resolve()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
        jars.append(Jar(coordinate, path.stat().st_size, digest))
    return sorted(jars, key=lambda jar: jar.coordinate)


def relock() -> None:
    """Resolves every group and writes the lock."""
    context = _context(lambda _: None)
    lock = {}
    for group, coordinates in _coordinates().items():
        jars = _resolve(context, coordinates)
        lock[group] = {
            "coordinates": coordinates,
            "jars": [{"coordinate": jar.coordinate, "size": jar.size, "sha256": jar.sha256} for jar in jars],
        }
        sys.stderr.write(f"{group}: {len(jars)} jars, {sum(jar.size for jar in jars) / 1e6:.0f} MB\n")
    LOCK.write_text(json.dumps(lock, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    relock()
