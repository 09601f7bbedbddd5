"""`./afluente worker`: one more Faust worker in the foreground, started the way a Faust user knows."""

import os
from typing import Annotated

import typer

from infra.local import crew
from infra.local.crew import PROCESSES_MAX
from infra.local.environment import STACK_MARK
from infra.local.faults import Fault
from infra.local.home import ROOT
from infra.local.parts import worker_command
from infra.local.stack import Stack

MANY_NAME = "many"  # of several processes without --id


def worker(
    name: Annotated[
        str, typer.Option("--id", metavar="NAME", help="Its name in the consumer group (AFLUENTE_WORKER_ID).")
    ] = "",
    processes: Annotated[
        int, typer.Option(min=1, max=PROCESSES_MAX, help="How many, one a core: NAME-0, NAME-1, … end together.")
    ] = 1,
) -> int:
    """Run a worker here, until Ctrl-C: [bold]faust -A agents.worker worker -l info[/] with the stack's environment.

    Beside the stack's own worker (whose name is 0) give it another name; it then listens on any free port.
    """
    stack = Stack()
    environ = stack.environ | {"MALLOC_ARENA_MAX": "2"}
    environ.pop(STACK_MARK, None)  # it belongs to this terminal, not to the supervisor
    if name or processes > 1:
        environ["AFLUENTE_WORKER_ID"] = name or MANY_NAME
        environ.setdefault("AFLUENTE_WORKER_PORT", "0")
    if processes > 1:
        environ["AFLUENTE_WORKER_PORT"] = "0"  # one port cannot be listened on twice
    record = stack.records().get("worker")
    process = record.identity.process() if record and record.identity else None
    if process and environ.get("AFLUENTE_WORKER_ID", "0") == "0":
        raise Fault(
            f"This stack has its worker 0 already (pid {process.pid}), and two of one name fence each other.\n"
            "Give this one another name (`./afluente worker --id 1`), or `./afluente stop worker` first."
        )
    os.chdir(ROOT)
    command = worker_command()
    if processes == 1:
        # Replaces this process: signals go to Faust.
        os.execve(command[0], ["faust", *command[1:]], environ)  # nosec B606 # noqa: S606
    return crew.run(command, environ, environ["AFLUENTE_WORKER_ID"], processes, stack.settings.drain_timeout_s)
