"""`./afluente logs`: what the parts wrote, from the files that the supervisor keeps and rotates."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from infra.local.faults import Fault
from infra.local.parts import PARTS
from infra.local.stack import Stack

FOLLOW_INTERVAL_S = 0.2
NAMES = (*(part.name for part in PARTS), "supervisor")


def _follow(path: Path) -> None:
    position = path.stat().st_size
    while True:
        size = path.stat().st_size
        if size < position:
            position = 0  # rotated
        if size > position:
            with path.open("rb") as file:
                file.seek(position)
                chunk = file.read()
            position += len(chunk)
            sys.stdout.write(chunk.decode("utf-8", "replace"))
            sys.stdout.flush()
        time.sleep(FOLLOW_INTERVAL_S)


def logs(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(NAMES)}. Without it: the end of each.")] = "",
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, max=100_000, help="How many lines.")] = 40,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until Ctrl-C.")] = False,
) -> None:
    """Show the end of a part's log. The files are in logs/ of AFLUENTE_HOME."""
    stack = Stack()
    if name and name not in NAMES:
        raise Fault(f"No log is named {name}: there are {', '.join(NAMES)}.")
    if follow and not name:
        raise Fault(f"Following needs the name of one log: {', '.join(NAMES)}.")
    for each in [name] if name else NAMES:
        path = stack.home.log_file(each)
        if not name and not path.exists():
            continue
        if not name:
            sys.stdout.write(f"==> {path} <==\n")
        sys.stdout.write(stack.tail(each, lines) + "\n")
        if follow:
            _follow(path)
