"""How every command speaks: tables and sentences for people, one JSON document for programs, faults on stderr."""

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead, for scripts.")]


def print_json(document: Any) -> None:
    """One document on stdout, and nothing else there."""
    sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")


def print_fault(text: str) -> None:
    """What went wrong. Plain text: a log's brackets are no markup."""
    first, _, rest = text.partition("\n")
    err.print(f"error: {first}", style="bold red", markup=False, soft_wrap=True)
    if rest:
        err.print(rest, markup=False, soft_wrap=True)


def print_hint(text: str) -> None:
    """Something worth knowing that stops nothing."""
    err.print(text, style="yellow", markup=False, soft_wrap=True)
