"""How a part of the embedded stack is started: its command and environment, and as which user."""

import os
import pwd
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infra.local.faults import Fault
from infra.local.home import ROOT

UNPRIVILEGED = "nobody"


class CannotLaunch(Fault):
    """A part cannot run on this machine as things are. The text says what to change."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One process to start. `environ` is on top of what every process of the stack gets."""

    argv: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    folder: Path = ROOT


def is_root() -> bool:
    """Whether we are the superuser, as in most containers."""
    return os.geteuid() == 0


def unprivileged(argv: Sequence[str], reads: Sequence[Path]) -> list[str]:
    """The same command as a user that is not root; unchanged for everybody else.

    PostgreSQL refuses to run as root. Its files may lie below folders that only root may enter (a checkout in /root,
    a folder of mktemp): then the process keeps one capability, the one that passes them.
    """
    if not is_root():
        return list(argv)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise CannotLaunch(
            "PostgreSQL refuses to run as root, and `setpriv` (package util-linux) is not here to start it as "
            f"{UNPRIVILEGED}. Install it, or run Afluente as a normal user."
        )
    as_other = [setpriv, f"--reuid={UNPRIVILEGED}", f"--regid={_group()}", "--clear-groups"]
    if not all(_may_pass(path) for path in reads):
        as_other += ["--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"]
    else:
        as_other += ["--inh-caps=-all"]
    return [*as_other, *argv]


def give_to_unprivileged(path: Path) -> None:
    """Makes the unprivileged user the owner of a folder, when we are root."""
    if is_root():
        shutil.chown(path, UNPRIVILEGED, _group())


def _group() -> int:
    return pwd.getpwnam(UNPRIVILEGED).pw_gid


def _may_pass(path: Path) -> bool:
    # Asked of the parents alone: what lies in the folder itself is either world-readable or owned by that user.
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.absolute().parents if parent.exists())
