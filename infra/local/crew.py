"""Several workers of one machine as one: one process a core, one signal for all, one end for all.

`./afluente worker --processes N` runs this. Each process is a static member of the group with a name of its own, so it
gets its partitions back after a restart. When one ends, all end: whoever started us (systemd, Kubernetes, a person)
sees it and starts all again, which is the restart that every fault test covers.
"""

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

POLL_S = 0.2  # how late the death of a process is noticed
KILL_SLACK_S = 10.0  # on top of a worker's own drain time
PROCESSES_MAX = 64


def run(command: Sequence[str], environ: Mapping[str, str], name: str, processes: int, drain_s: float) -> int:
    """Run so many processes named `name-0`, `name-1`, … until all have ended; the first status that is not 0, or 0."""
    crew = [
        subprocess.Popen(command, env={**environ, "AFLUENTE_WORKER_ID": f"{name}-{number}"})
        for number in range(processes)
    ]
    asked: list[int] = []
    for which in (signal.SIGTERM, signal.SIGINT):
        signal.signal(which, lambda number, _frame: asked.append(number))
    deadline = 0.0
    status = 0
    forwarded = 0
    while None in (statuses := [process.poll() for process in crew]):
        ended = [code for code in statuses if code is not None]
        if ended and not deadline:
            asked.append(signal.SIGTERM)
        status = status or next((code for code in ended if code), 0)
        while forwarded < len(asked):
            for process in crew:
                process.send_signal(signal.SIGTERM)
            forwarded += 1
            deadline = deadline or time.monotonic() + drain_s + KILL_SLACK_S
        if deadline and time.monotonic() > deadline:
            for process in crew:
                process.kill()
        time.sleep(POLL_S)
    status = status or next((process.returncode for process in crew if process.returncode), 0)
    # A signal's number becomes the status that a shell would give.
    return status if status >= 0 else 128 - status
