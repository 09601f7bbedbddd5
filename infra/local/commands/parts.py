"""`./afluente start|stop|restart NAME`: one part of a running stack, while the others stay and cope."""

from typing import Annotated

import typer

from infra.local.commands.up import bring_jars
from infra.local.parts import BY_NAME, EXTRAS, SERVICES
from infra.local.stack import Stack
from infra.local.terminal import AsJson, out, print_json

Name = Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(SERVICES)}.")]


def _tell(stack: Stack, name: str, verb: str, *, as_json: bool) -> None:
    if as_json:
        print_json(next(part for part in stack.status()["services"] if part["name"] == name))
    else:
        out.print(f"[green]✓[/] {BY_NAME[name].title} {verb}")


def _equip(stack: Stack, name: str) -> None:
    """What an extra part needs before its first start, and that the next `up` starts it too."""
    if name in EXTRAS:
        stack.chosen_cdc(True)
    if name in BY_NAME and BY_NAME[name].jars:
        bring_jars(BY_NAME[name].jars)


def start(name: Name, as_json: AsJson = False) -> None:
    """Start one part that was stopped or has failed, and wait until it is ready."""
    stack = Stack()
    _equip(stack, name)
    stack.start(name)
    _tell(stack, name, "runs", as_json=as_json)


def stop(name: Name, as_json: AsJson = False) -> None:
    """Stop one part and leave it stopped: see how the others take it, then [bold]start[/] it again."""
    stack = Stack()
    stack.stop(name)
    _tell(stack, name, "stopped", as_json=as_json)


def restart(name: Name, as_json: AsJson = False) -> None:
    """Stop one part in its own way and start it again: after a change of code or settings, say."""
    stack = Stack()
    stack.stop(name)
    stack.start(name)
    _tell(stack, name, "runs again", as_json=as_json)
