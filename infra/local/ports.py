"""Ports of the embedded stack: checked before anything starts, so that a taken one is a sentence and not a trace."""

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from infra.local.faults import Fault

POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Need:
    """A part needs this port, and this is the name that moves it."""

    title: str
    host: str
    port: int
    setting: str


class PortTaken(Fault):
    """Somebody else listens there. The text names the part, the port, the holder and what to set."""


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a connection of the previous run that lingers in TIME_WAIT is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def holder(port: int) -> str:
    """Who listens there, as far as this user may know."""
    try:
        found = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
        pid = next((each.pid for each in found if each.laddr and each.laddr.port == port and each.pid), None)
        return f"{psutil.Process(pid).name()} (pid {pid})" if pid else "another process"
    except psutil.Error:
        return "another process"


def await_release(needs: Sequence[Need], timeout_s: float) -> None:
    """Gives processes that were just killed the time to let go: threads of a dead process hold its sockets a while."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and not all(is_free(need.host, need.port) for need in needs):
        time.sleep(POLL_S)


def check(needs: Sequence[Need]) -> None:
    """Raises PortTaken for every port that two parts share or that somebody holds already, all in one go."""
    faults = []
    seen: dict[int, Need] = {}
    for need in needs:
        other = seen.setdefault(need.port, need)
        if other is not need:
            faults.append(f"{other.setting} and {need.setting} are both {need.port}: give each part a port of its own.")
        elif not is_free(need.host, need.port):
            faults.append(
                f"{need.title} needs port {need.port}, which {holder(need.port)} listens on already. "
                f"Stop it, or set {need.setting} to another port (a free one now: {free_port()})."
            )
    if faults:
        raise PortTaken("\n".join(faults))
