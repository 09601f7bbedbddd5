"""The command line `./afluente`: starts the embedded stack and operates any stack that the environment points to."""

import sys

import click
import typer

from infra.local.commands import (
    backup,
    bills,
    cdc,
    demo,
    demo_bills,
    dlq,
    down,
    key,
    lag,
    load,
    logs,
    migrate,
    parts,
    rebuild,
    reconcile,
    replay,
    status,
    tenant,
    topics,
    up,
    webhook,
    worker,
)
from infra.local.faults import Fault
from infra.local.terminal import print_fault

STACK = "The embedded stack"
OPERATE = "Operate"
TRY = "Try"

app = typer.Typer(
    name="afluente",
    no_args_is_help=True,
    add_completion=False,  # the command is a path in the checkout, which shells do not complete for
    rich_markup_mode="rich",
    # A trace with local variables would print secrets.
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Every event of a business into ClickHouse, exactly once in effect.\n\n"
        "[bold]up[/] starts Apache Kafka, Postgres, ClickHouse, the HTTP edge and a worker on this machine; the other "
        "commands work on that stack, or on the one that AFLUENTE_KAFKA_URL, AFLUENTE_POSTGRES_URL and "
        "AFLUENTE_CLICKHOUSE_URL name."
    ),
    epilog=(
        "[bold]Examples[/]\n\n"
        "./afluente up                                  start everything\n\n"
        "./afluente status                              what runs, where, with how much memory\n\n"
        "./afluente tenant create shop --json           a tenant and its keys\n\n"
        "./afluente logs worker -f                      follow a log\n\n"
        "AFLUENTE_HOME=/tmp/b AFLUENTE_EDGE_PORT=8001 … ./afluente up    a second stack beside it\n\n"
        "./afluente down                                stop; the data stays"
    ),
)

# Every command of the project, one line each, in the order in which --help shows them.
app.command("up", rich_help_panel=STACK)(up.up)
app.command("down", rich_help_panel=STACK)(down.down)
app.command("status", rich_help_panel=STACK)(status.status)
app.command("logs", rich_help_panel=STACK)(logs.logs)
app.command("start", rich_help_panel=STACK)(parts.start)
app.command("stop", rich_help_panel=STACK)(parts.stop)
app.command("restart", rich_help_panel=STACK)(parts.restart)
app.command("clean", rich_help_panel=STACK)(down.clean)
app.command("worker", rich_help_panel=STACK)(worker.worker)
app.command("migrate", rich_help_panel=OPERATE)(migrate.migrate)
app.add_typer(topics.app, name="topics", rich_help_panel=OPERATE)
app.add_typer(tenant.app, name="tenant", rich_help_panel=OPERATE)
app.add_typer(key.app, name="key", rich_help_panel=OPERATE)
app.add_typer(webhook.app, name="webhook", rich_help_panel=OPERATE)
app.add_typer(bills.app, name="bills", rich_help_panel=OPERATE)
app.add_typer(dlq.app, name="dlq", rich_help_panel=OPERATE)
app.command("replay", rich_help_panel=OPERATE)(replay.replay)
app.add_typer(cdc.app, name="cdc", rich_help_panel=OPERATE)
app.command("lag", rich_help_panel=OPERATE)(lag.lag)
app.add_typer(reconcile.app, name="reconcile", rich_help_panel=OPERATE)
app.add_typer(rebuild.app, name="rebuild", rich_help_panel=OPERATE)
app.add_typer(backup.app, name="backup", rich_help_panel=OPERATE)
app.command("load", rich_help_panel=TRY)(load.load)
demo.app.command("bills")(demo_bills.bills)
app.add_typer(demo.app, name="demo", rich_help_panel=TRY)


def main() -> int:
    """The status: 0 done, 1 a fault that the text explains, 2 a wrong command line, 130 interrupted."""
    try:
        result = app(standalone_mode=False, prog_name="./afluente")
    except Fault as fault:
        print_fault(str(fault))
        return 1
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("\n")
        return 130
    except BrokenPipeError:  # `./afluente logs | head`
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
