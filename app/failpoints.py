"""Named failpoints in the steps of the loop and behind the edge's confirmation, for the fault tests.

Off unless AFLUENTE_FAILPOINTS names them.

`step=kill` kills the process with SIGKILL the first time the step is reached, `step=kill@3` the third time. Each
firing leaves a file in `$AFLUENTE_HOME/failpoints/`, which proves that the window was hit; a failpoint whose file is
there does not fire again, so that the restarted process goes on.
"""

import os
import re
import signal
from pathlib import Path

from app.settings import Settings

_FORM = re.compile(r"(?P<name>[a-z0-9_.]+)=kill(?:@(?P<nth>[0-9]+))?")

armed: dict[str, int] = {}
_fired_folder = Path()


def arm(settings: Settings) -> None:
    """Read the failpoints of this process. Raises ValueError for a text that is none."""
    global _fired_folder  # noqa: PLW0603 - one process, one set of failpoints
    _fired_folder = settings.home / "failpoints"
    armed.clear()
    for text in filter(None, settings.failpoints.split(",")):
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(f"AFLUENTE_FAILPOINTS: {text!r} is not NAME=kill or NAME=kill@N")
        if not (_fired_folder / match["name"]).exists():
            armed[match["name"]] = int(match["nth"] or 1)


def hit(name: str) -> None:
    """Reached that point. Callers check `armed` first, so that a release pays one dictionary test a batch."""
    if name not in armed:
        return
    armed[name] -= 1
    if armed[name] == 0:
        _fired_folder.mkdir(parents=True, exist_ok=True)
        (_fired_folder / name).touch()
        os.kill(os.getpid(), signal.SIGKILL)
