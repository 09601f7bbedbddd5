"""`./afluente down` and `clean`: the stack ends without a process or a lock left; clean removes its data too."""

import shutil
import time
from typing import Annotated

import typer

from infra.local.environment import relative
from infra.local.faults import Fault
from infra.local.parts import BY_NAME
from infra.local.stack import Stack
from infra.local.terminal import AsJson, out, print_json


def down(as_json: AsJson = False) -> None:
    """Stop the stack of AFLUENTE_HOME. Its data stays for the next [bold]up[/].

    The very first time Kafka takes some 5 seconds longer: it writes the cache that halves its later starts.
    """
    stack = Stack()
    began = time.monotonic()
    stopped: list[str] = []

    def report(name: str) -> None:
        stopped.append(name)
        if not as_json:
            out.print(f"[green]✓[/] {BY_NAME[name].title} stopped")

    killed = stack.down(report)
    seconds = round(time.monotonic() - began, 2)
    if as_json:
        print_json({"home": str(stack.home.root), "stopped": stopped, "killed": killed, "seconds": seconds})
    elif not stopped and not killed:
        out.print(f"Nothing ran in {relative(stack.home.root)}.")
    else:
        note = f" {killed} process(es) had to be killed." if killed else ""
        out.print(f"Down in {seconds:.1f} s.{note} The data stays in {relative(stack.home.root)}.")


def clean(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the stack and remove its data: every event, tenant, key and secret in AFLUENTE_HOME."""
    stack = Stack()
    root = stack.home.root
    if root.exists() and not (stack.home.env_file.exists() or (root / "run").exists() or not any(root.iterdir())):
        raise Fault(f"{root} does not look like the home of a stack (no local.env in it), so it is not removed.")
    if root.exists() and not yes:
        typer.confirm(f"Remove {root} with all its data?", abort=True)
    stack.down()
    existed = root.exists()
    if existed:
        shutil.rmtree(root)
    if as_json:
        print_json({"home": str(root), "removed": existed})
    else:
        out.print(f"Removed {relative(root)}." if existed else f"There is no {relative(root)}: nothing to remove.")
