"""What the supervisor and the command line tell each other, in two small files: what should run, and what runs."""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import psutil

from infra.local.environment import STACK_MARK
from infra.local.home import Home, locked, read_json, write_private

State = Literal["stopped", "starting", "running", "backoff", "failed", "done"]
# The kernel counts a process's start in hundredths of a second since boot, and the clock may be set meanwhile.
CREATED_TOLERANCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> "Identity":
        """Raises psutil.NoSuchProcess when it is gone already."""
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """The living process, or nothing. A zombie counts as dead."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.created) > CREATED_TOLERANCE_S:
                return None
        except psutil.Error:
            return None
        return process if is_alive(process) else None


def is_alive(process: psutil.Process) -> bool:
    """Whether this very process runs. One that has ended and whose parent has not asked about it does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@dataclass(slots=True)
class PartRecord:
    """One part as the supervisor sees it."""

    name: str
    state: State = "stopped"
    pid: int | None = None
    created: float = 0.0
    restarts: int = 0
    asked: int = 0  # the latest wish (its nonce) that this state takes into account
    ready_s: float | None = None  # from the start of the process to ready
    since: float = field(default_factory=time.time)
    reason: str = ""

    @property
    def identity(self) -> Identity | None:
        return Identity(self.pid, self.created) if self.pid else None


@dataclass(slots=True)
class Wish:
    """What the command line asks of one part. `nonce` changes when it asks again (after a failure, say)."""

    run: bool = False
    nonce: int = 0
    environ: dict[str, str] = field(default_factory=dict)


def _only_known(kind: Any, content: dict[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in content.items() if name in names}


def read_wishes(home: Home) -> dict[str, Wish]:
    """What should run, by part."""
    return {name: Wish(**_only_known(Wish, wish)) for name, wish in read_json(home.wanted_file).items()}


@contextlib.contextmanager
def changing_wishes(home: Home) -> Iterator[dict[str, Wish]]:
    """Read, change, write, without another command line in between."""
    with locked(home.logs):
        wishes = read_wishes(home)
        yield wishes
        write_private(home.wanted_file, json.dumps({name: asdict(wish) for name, wish in wishes.items()}, indent=1))


def write_state(home: Home, supervisor: Identity, parts: Iterable[PartRecord]) -> None:
    """What runs. Replaced in one step: a reader sees the former state or this one."""
    content = {"supervisor": asdict(supervisor), "parts": [asdict(part) for part in parts]}
    write_private(home.state_file, json.dumps(content, indent=1))


def read_state(home: Home) -> tuple[Identity | None, dict[str, PartRecord]]:
    """The supervisor (living or not) and the parts as it last wrote them."""
    content = read_json(home.state_file)
    parts = [PartRecord(**_only_known(PartRecord, part)) for part in content.get("parts", [])]
    supervisor = content.get("supervisor")
    return Identity(**supervisor) if supervisor else None, {part.name: part for part in parts}


def living_supervisor(home: Home) -> psutil.Process | None:
    """The supervisor of this home, when there is one."""
    identity, _ = read_state(home)
    return identity.process() if identity else None


def leftovers(home: Home) -> list[psutil.Process]:
    """Every living process of this stack, known from the state file or from the mark in its environment."""
    _, parts = read_state(home)
    found: dict[int, psutil.Process] = {}
    for part in parts.values():
        process = part.identity.process() if part.identity else None
        if process:
            found[process.pid] = process
            with contextlib.suppress(psutil.Error):
                found.update({child.pid: child for child in process.children(recursive=True)})
    own = psutil.Process().pid
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(STACK_MARK) == str(home.root) and is_alive(process):
                found[process.pid] = process
    found.pop(own, None)
    return list(found.values())


def rss_bytes(process: psutil.Process) -> int:
    """Resident memory of a process and everything below it. Shared pages count once a process: an upper bound."""
    total = 0
    with contextlib.suppress(psutil.Error):
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += each.memory_info().rss
    return total
