"""`./afluente backup ...`: a consistent copy of the embedded stack's stores, checked, listed, and put back."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from infra.local import backup as backups
from infra.local.backup_manifest import Manifest, backups_in
from infra.local.backup_manifest import verify as faults_of
from infra.local.reading import carry_out, confirm
from infra.local.stack import Stack
from infra.local.terminal import AsJson, err, out, print_hint, print_json

NOT_WHOLE = 1
MIB = 1 << 20

app = typer.Typer(
    no_args_is_help=True,
    help="Copy ClickHouse, Postgres and the place in Kafka; check it, put it back. At night: docs/backup.md.",
    epilog=(
        "[bold]Examples[/]\n\n./afluente backup create /mnt/backups\n\n./afluente backup list /mnt/backups\n\n"
        "./afluente backup verify /mnt/backups/afluente-20260101T030000Z-1\n\n"
        "AFLUENTE_HOME=/srv/new ./afluente backup restore /mnt/backups/afluente-20260101T030000Z-1"
    ),
)
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where backups are kept: another disk than the data's.")]
Backup = Annotated[Path, typer.Argument(metavar="BACKUP", help="The folder of one backup.")]


@contextmanager
def _shown() -> Iterator[Callable[[str], None]]:
    if not err.is_terminal:
        yield lambda step: err.print(f"  {step} …", markup=False)
        return
    with err.status("…") as shown:
        yield shown.update


@app.command()
def create(folder: Folder, as_json: AsJson = False) -> None:
    """Copy the running stack into a new folder below FOLDER. Events go on being taken and written.

    It holds local.env, and with it every secret of the stack: keep it as you keep those.
    """
    with _shown() as tell:
        path, manifest = carry_out(asyncio.to_thread(backups.create, Stack(), folder.absolute(), tell))
    if as_json:
        print_json({"path": str(path), **_document(manifest)})
        return
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in manifest.seconds.items())
    out.print(f"[green]✓[/] {path} ({manifest.bytes / MIB:,.1f} MiB; {steps})", soft_wrap=True)


def _document(manifest: Manifest) -> dict[str, Any]:
    return {
        "id": manifest.id, "began": manifest.began, "ended": manifest.ended, "bytes": manifest.bytes,
        "files": len(manifest.files), "versions": manifest.versions, "seconds": manifest.seconds,
    }  # fmt: skip


@app.command("list")
def list_(folder: Folder, as_json: AsJson = False) -> None:
    """Show the backups below FOLDER, the oldest first. What is unfinished or has a broken manifest is told."""
    found = backups_in(folder.absolute())
    if as_json:
        print_json(
            {"backups": [{"path": str(path), **(_document(one) if one else {"broken": True})} for path, one in found]}
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("backup", "began", "MiB", "ClickHouse", "Postgres"):
        table.add_column(title, overflow="fold")
    for path, one in found:
        if one is None:
            table.add_row(path.name, "[red]not whole[/]", "", "", "")
        else:
            versions = (one.versions[name] for name in (backups.CLICKHOUSE, backups.POSTGRES))
            table.add_row(path.name, one.began, f"{one.bytes / MIB:,.1f}", *versions)
    out.print(table)


@app.command()
def verify(backup: Backup, as_json: AsJson = False) -> None:
    """Read every byte of a backup and compare it with its manifest. Status 1 when anything is missing or changed."""
    faults = faults_of(backup.absolute())
    if as_json:
        print_json({"whole": not faults, "faults": faults})
    elif faults:
        for fault in faults:
            out.print(f"[red]✗[/] {fault}")
    else:
        manifest = Manifest.read(backup.absolute())
        out.print(f"[green]✓[/] {len(manifest.files)} files, {manifest.bytes / MIB:,.1f} MiB, as they were written")
    raise typer.Exit(NOT_WHOLE if faults else 0)


@app.command()
def restore(
    backup: Backup,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put back what is missing in AFLUENTE_HOME: an empty home gets all, a store that is there is left alone.

    Where Kafka is still there, its consumer group is set to where it stood at the backup, and the workers read the
    rest once more: rows that are there stay single. Where it is not, what came after the backup is lost. The stack
    stays down.
    """
    stack, place = Stack(), backup.absolute()
    planned = backups.plan(stack, place)
    there = f"; {', '.join(planned.kept)} stay" if planned.kept else ""
    what = f"{' and '.join(planned.missing)} of {planned.manifest.began}"
    confirm(f"Restore {what} into {stack.home.root}{there}?", yes=yes)
    with _shown() as tell:
        done = carry_out(asyncio.to_thread(backups.restore, stack, planned, tell))
    if as_json:
        print_json(done.document)
    else:
        _print(done)


def _print(done: backups.Restored) -> None:
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in done.seconds.items())
    out.print(f"[green]✓[/] {' and '.join(done.restored)} are as in {done.id} ({steps})", soft_wrap=True)
    if done.group is not None:
        out.print(f"{done.group.records:,} records of Kafka will be read from where the backup stood")
        if done.group.gone:
            print_hint(f"{done.group.gone:,} records since the backup are gone: Kafka's retention has passed them.")
        if done.group.strangers:
            print_hint(f"Not the topics of the backup, read from their beginning: {', '.join(done.group.strangers)}.")
    elif backups.CLICKHOUSE in done.restored:
        print_hint("Kafka was not there: what came after the backup is lost.")
    for number, step in enumerate(done.next_steps, 1):
        out.print(f"{number}. {step}", markup=False)
