"""Where one embedded stack keeps its files: `$AFLUENTE_HOME`, and the cache of jars that all stacks share."""

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Others may pass through (Postgres runs as another user when we are root) but not list or read.
HOME_MODE = 0o711
PRIVATE_DIR_MODE = 0o700
PRIVATE_FILE_MODE = 0o600
LOCK_POLL_S = 0.05


def cache_dir() -> Path:
    """The folder outside the checkout where jars are kept: downloaded once for every stack of this user."""
    return Path(os.environ.get("AFLUENTE_CACHE") or Path.home() / ".cache" / "afluente").expanduser().absolute()


def exports(engine_folder: Path) -> Path:
    """Where ClickHouse's BACKUP writes to and RESTORE reads from: whoever may query must reach no other files."""
    return engine_folder / "exports"


def write_private(path: Path, text: str) -> None:
    """Replaces a file in one step, readable by its owner alone: a reader never sees half of it."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


@contextmanager
def locked(folder: Path, *, deadline_s: float | None = None) -> Iterator[bool]:
    """Holds the kernel's lock on a folder. It ends with its process, so that a kill leaves nothing to clear away.

    Without a deadline it waits as long as it takes; with one, the body runs without the lock (False) after it.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _take(handle, deadline_s)
    finally:
        os.close(handle)


def _take(handle: int, deadline_s: float | None) -> bool:
    if deadline_s is None:
        fcntl.flock(handle, fcntl.LOCK_EX)
        return True
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(LOCK_POLL_S)
        else:
            return True


def read_json(path: Path) -> dict[str, Any]:
    """What a state file says; nothing when it is absent or was cut short by a crash of the machine."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one stack. Everything that `clean` removes is below it."""

    root: Path

    @classmethod
    def here(cls) -> "Home":
        """The stack that the environment names."""
        return cls((ROOT / Path(os.environ.get("AFLUENTE_HOME") or ".afluente").expanduser()).absolute())

    @property
    def env_file(self) -> Path:
        return self.root / "local.env"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """State of the running stack. Gone after `down`."""
        return self.root / "run"

    @property
    def state_file(self) -> Path:
        """What runs: written by the supervisor alone."""
        return self.run / "state.json"

    @property
    def wanted_file(self) -> Path:
        """What should run: written by the command line alone."""
        return self.run / "wanted.json"

    def log_file(self, part: str) -> Path:
        return self.logs / f"{part}.log"

    def create(self) -> None:
        """Makes the folders, with modes that keep secrets and logs from other users."""
        self.root.mkdir(mode=HOME_MODE, parents=True, exist_ok=True)
        self.root.chmod(HOME_MODE)
        for folder in (self.logs, self.run):
            folder.mkdir(mode=PRIVATE_DIR_MODE, exist_ok=True)
