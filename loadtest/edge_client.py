"""Clients that send as fast as they are answered: wrk where it is installed, else a thin one of our own, in a process.

A client shares the cores with what it measures. wrk takes little of them; ours takes as much as the edge, so its rates
are lower: compare figures of one kind of client only.
"""

import asyncio
import multiprocessing
import os
import re
import shutil
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import orjson

SCRIPT = Path(__file__).with_name("edge_load.lua")
MISSING = "wrk is not installed (Debian package `wrk`): a built-in client sends instead, and takes a core for itself"
ACCEPTED = 202
REFUSED_SHARE_MAX = 0.05  # a busy machine stalls the broker now and then, and the edge says so; more is no measurement
WRK_SLACK_S = 30.0  # to start, and to wait for the last answers
_DONE = re.compile(r"(\d+) requests in ")
_REFUSED = re.compile(r"Non-2xx or 3xx responses: (\d+)")


@dataclass(slots=True)
class Answers:
    """What came back on all connections, and how long each took."""

    statuses: dict[int, int] = field(default_factory=dict)
    accepted_s: list[float] = field(default_factory=list)

    def note(self, status: int, seconds: float) -> None:
        """One answer."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == ACCEPTED:
            self.accepted_s.append(seconds)


def wrk_is_here() -> bool:
    """Whether wrk can be run."""
    return shutil.which("wrk") is not None


def flood(port: int, key: str, events: int, connections: int, seconds: float) -> int:
    """Sends for so long on so many connections; how many requests were accepted."""
    if wrk_is_here():
        accepted, refused = _wrk(port, key, events, connections, seconds)
    else:
        statuses = together(port, key, events, connections, seconds).statuses
        accepted, refused = statuses.pop(ACCEPTED, 0), sum(statuses.values())
    if refused > accepted * REFUSED_SHARE_MAX:
        raise RuntimeError(f"{refused} requests were not accepted, {accepted} were")
    return accepted


def wrk_process(port: int, key: str, events: int, connections: int, seconds: float) -> "subprocess.Popen[str]":
    """wrk, started."""
    environ = {**os.environ, "AFLUENTE_BENCH_KEY": key, "AFLUENTE_BENCH_EVENTS": str(events)}
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "-s", str(SCRIPT), f"http://127.0.0.1:{port}"]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _wrk(port: int, key: str, events: int, connections: int, seconds: float) -> tuple[int, int]:
    printed, _ = wrk_process(port, key, events, connections, seconds).communicate(timeout=seconds + WRK_SLACK_S)
    done, refused = _DONE.search(printed), _REFUSED.search(printed)
    if done is None:
        raise RuntimeError(f"wrk did not finish: {printed[-500:]}")
    bad = int(refused[1]) if refused else 0
    return int(done[1]) - bad, bad


def together(  # noqa: PLR0917 - what `_run` takes, through a pool
    port: int, key: str, events: int, connections: int, seconds: float, pause_s: float = 0.0
) -> Answers:
    """The built-in client, in a process of its own. `pause_s` is waited between two requests of a connection."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_client, (port, key, events, connections, seconds, pause_s))


def _client(  # noqa: PLR0917
    port: int, key: str, events: int, connections: int, seconds: float, pause_s: float
) -> Answers:
    return asyncio.run(_run(port, key, events, connections, seconds, pause_s))


async def _run(  # noqa: PLR0917
    port: int, key: str, events: int, connections: int, seconds: float, pause_s: float
) -> Answers:
    answers, stop = Answers(), time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(_connection(port, key, events, stop, pause_s, answers))
    return answers


async def _connection(  # noqa: PLR0917
    port: int, key: str, events: int, stop: float, pause_s: float, answers: Answers
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    path = "/track/click" if events == 1 else "/track/batch"
    try:
        while time.monotonic() < stop:
            body = _body(events)
            head = (
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Write-Key: {key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            began = time.monotonic()
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            answers.note(int(answer.split(b" ", 2)[1]), time.monotonic() - began)
            if pause_s:
                await asyncio.sleep(pause_s)
    finally:
        writer.close()


def _body(events: int) -> bytes:
    made = [
        {
            "event_type": "click",
            "event_id": str(uuid.uuid4()),
            "url": "https://shop.example/p/1?utm_source=meta",
            "session_id": "s1",
            "utm_source": "meta",
            "properties": {"position": 3},
        }
        for _ in range(events)
    ]
    return orjson.dumps(made[0] if events == 1 else made)
