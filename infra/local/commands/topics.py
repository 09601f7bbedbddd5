"""`./afluente topics diff|apply`: the cluster's topics against schemas/topics.py."""

from typing import Annotated

import typer
from rich.table import Table

from infra.local import topics as cluster
from infra.local.faults import Fault
from infra.local.stack import Stack
from infra.local.terminal import AsJson, out, print_json
from schemas.topics import TOPICS

DIFFERS = 1  # as `diff` has it

app = typer.Typer(
    no_args_is_help=True,
    help="Kafka topics: what schemas/topics.py declares against what the cluster has.",
    epilog=(
        "[bold]Examples[/]\n\n./afluente topics diff\n\n./afluente topics apply\n\n"
        "AFLUENTE_PARTITION_FACTOR=4 AFLUENTE_REPLICATION_FACTOR=3 AFLUENTE_KAFKA_URL=k1:9092 ./afluente topics apply"
    ),
)
Force = Annotated[bool, typer.Option("--force", help="Add partitions although dedupe state stays behind.")]


def _print(changes: list[cluster.Change], verb: str) -> None:
    if not changes:
        out.print(f"[green]✓[/] {len(TOPICS)} topics are as declared")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("topic", "change", "setting", "found", "declared", ""):
        table.add_column(title)
    for change in changes:
        mark = "[red]refused[/]" if change.refusal else f"[green]{verb}[/]"
        table.add_row(change.topic, change.kind, change.setting, change.found, change.declared, mark)
    out.print(table)
    for refusal in dict.fromkeys(change.refusal for change in changes if change.refusal):
        names = ", ".join(change.topic for change in changes if change.refusal == refusal)
        out.print(f"Refused for {names}: {refusal}.", markup=False)


@app.command()
def diff(force: Force = False, as_json: AsJson = False) -> None:
    """Show what [bold]apply[/] would do, and do nothing. Ends with status 1 when there is a difference."""
    settings = Stack().settings
    found = cluster.read_cluster(cluster.admin_client(settings), TOPICS)
    changes = cluster.plan(TOPICS, found, settings, force=force)
    if as_json:
        print_json({"changes": [change.document for change in changes]})
    else:
        _print(changes, "would do")
    raise typer.Exit(DIFFERS if changes else 0)


@app.command()
def apply(force: Force = False, as_json: AsJson = False) -> None:
    """Create what is missing and set what differs. Partitions are never removed, and added with --force alone."""
    settings = Stack().settings
    admin = cluster.admin_client(settings)
    changes = cluster.plan(TOPICS, cluster.read_cluster(admin, TOPICS), settings, force=force)
    cluster.apply(admin, TOPICS, changes, settings)
    if as_json:
        print_json({"changes": [change.document for change in changes]})
    else:
        _print(changes, "done")
    refused = [change for change in changes if change.refusal]
    if refused:
        raise Fault(f"{len(refused)} difference(s) were refused; everything else is as declared.")
