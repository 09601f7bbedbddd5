"""`./afluente status`: what runs, where, since when, with how much memory; and why not, when something does not."""

import time
from typing import Any

import typer
from rich.table import Table

from infra.local.stack import Stack
from infra.local.terminal import AsJson, out, print_json

COLOURS = {"running": "green", "starting": "yellow", "backoff": "yellow", "failed": "red", "orphaned": "red"}
NOT_RUNNING = 3  # as `systemctl status` has it


def _age(since: float | None) -> str:
    if since is None:
        return ""
    seconds = int(time.time() - since)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _table(document: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("part", "state", "for", "pid", "MB", "restarts", "address"):
        table.add_column(title, justify="right" if title in {"pid", "MB", "restarts"} else "left")
    for part in document["services"]:
        state = part["state"] + ("" if part["ready"] or part["state"] != "running" else ", not ready")
        table.add_row(
            part["name"],
            f"[{COLOURS.get(part['state'], 'dim')}]{state}[/]",
            _age(part["since"]),
            str(part["pid"] or ""),
            f"{part['rss_mb']:.0f}" if part["pid"] else "",
            str(part["restarts"] or ""),
            part["url"],
        )
    return table


def status(as_json: AsJson = False) -> None:
    """Show the parts of the stack in AFLUENTE_HOME. Ends with status 3 when nothing runs."""
    document = Stack().status()
    if as_json:
        print_json(document)
    else:
        out.print(_table(document))
        for part in (*document["services"], *document["steps"]):
            if part["reason"]:
                out.print(f"{part['name']}: {part['reason']}", markup=False)
        total = sum(part["rss_mb"] for part in document["services"]) + document["supervisor"]["rss_mb"]
        if document["supervisor"]["pid"]:
            out.print(f"[dim]{total:.0f} MB in all, home {document['home']}[/]")
        elif any(part["state"] == "orphaned" for part in document["services"]):
            out.print("The supervisor is gone: `./afluente up` puts things right, `./afluente down` ends the rest.")
    if not document["supervisor"]["pid"]:
        if not as_json:
            out.print(f"No stack runs in {document['home']}: `./afluente up` starts it.")
        raise typer.Exit(NOT_RUNNING)
