"""One embedded stack as an object: what the command line, the demo and the tests use to start, break and stop it."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from app.settings import Settings
from infra.local import ports
from infra.local.environment import current_environ, load_settings, process_environ, write_env_file
from infra.local.faults import Fault
from infra.local.home import ROOT, Home, locked
from infra.local.parts import BY_NAME, PARTS, PROBE_TIMEOUT_S, SERVICES, STEPS, USUAL, Part, steps_of
from infra.local.record import (
    PartRecord,
    Wish,
    changing_wishes,
    is_alive,
    leftovers,
    living_supervisor,
    read_state,
    rss_bytes,
)

POLL_S = 0.05
UP_TIMEOUT_S = 240.0  # everything at once on a busy machine, with three attempts a part
STOP_SLACK_S = 60.0  # on top of the worker's drain: what the other parts may take to end
SUPERVISOR_START_S = 20.0
KILL_TIMEOUT_S = 10.0
LOG_TAIL_LINES = 25
LOG_WIDTH = 300  # of a line in a fault: a JSON log line with its trace can have pages
LINE_BYTES_MAX = 8 << 10  # read from the end for each line that is shown


class StackError(Fault):
    """The stack is not as it was asked to be. The text says which part, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One part has come up (or was up already)."""

    name: str
    title: str
    seconds: float
    address: str
    was_up: bool = False


Report = Callable[[Progress], None]


def _silent(_progress: Progress) -> None:
    pass


class Stack:
    """The stack of one home. All its truth is in the home's files: two of these objects never disagree."""

    def __init__(self, home: Path | None = None, environ: Mapping[str, str] | None = None) -> None:
        """`environ` (AFLUENTE_* names: ports above all) is laid over the process environment."""
        self._overlay = dict(environ or {})
        self.home = Home(home.absolute()) if home else Home.here()

    @property
    def environ(self) -> dict[str, str]:
        """The environment in which `./afluente` and every client of this stack find it."""
        return {**current_environ(), **self._overlay, "AFLUENTE_HOME": str(self.home.root)}

    @property
    def settings(self) -> Settings:
        """What a process of this stack reads. After the first `up` ports and secrets come from its local.env."""
        return load_settings(self.home, self.environ)

    # -- up

    def prepare(self) -> Settings:
        """The home, its secrets, and the settings, which are checked here before anything starts."""
        self.home.create()
        with locked(self.home.logs):
            write_env_file(self.home, self.environ)
        settings = self.settings
        if settings.worker_port == 0:
            raise StackError("AFLUENTE_WORKER_PORT is 0 (any port); the embedded stack needs a fixed one.")
        return settings

    def chosen_cdc(self, choice: bool | None) -> bool:
        """Whether this home runs change data capture: as chosen now, else as chosen last.

        It is remembered because of the slot: without its reader Postgres keeps the log for it.
        """
        self.home.create()
        mark = self.home.root / "cdc"
        if choice is True:
            mark.touch()
        elif choice is False:
            mark.unlink(missing_ok=True)
        return mark.exists()

    def up(self, only: Iterable[str] = USUAL, report: Report = _silent, timeout_s: float = UP_TIMEOUT_S) -> None:
        """Starts these parts (and the steps between them) and returns when they are ready. Idempotent."""
        names = self._checked(only)
        settings = self.prepare()
        running = self._running()
        ended = 0
        if not running:
            ended = self._end_leftovers()
            self.home.wanted_file.unlink(missing_ok=True)
        up_already = [part.name for part in PARTS if part.name in names and _runs(running.get(part.name))]
        occupied = {name for name, record in running.items() if record.state not in {"stopped", "failed"}}
        needs = [part.need(settings) for part in PARTS if part.name in names and part.name not in occupied]
        if ended:
            ports.await_release(needs, KILL_TIMEOUT_S)
        ports.check(needs)
        with changing_wishes(self.home) as wishes:
            for name in names:
                _ask(wishes, name, run=True)
            steps = steps_of({name for name, wish in wishes.items() if wish.run})
            for name in steps:
                _ask(wishes, name, run=True)
            asked = {name: wishes[name].nonce for name in (*names, *steps)}
        self._ensure_supervisor()
        for name in up_already:
            report(Progress(name, BY_NAME[name].title, 0.0, BY_NAME[name].address(settings), was_up=True))
        self._await_up(asked, up_already, report, timeout_s)

    def _await_up(self, asked: dict[str, int], reported: list[str], report: Report, timeout_s: float) -> None:
        settings = self.settings
        began = time.monotonic()
        left = [part for part in PARTS if part.name in asked and part.name not in reported]
        while left:
            supervisor, records = read_state(self.home)
            for part in list(left):
                record = records.get(part.name, PartRecord(part.name))
                if record.asked < asked[part.name]:
                    continue  # the outcome of an earlier request
                if record.state == "failed":
                    raise StackError(self._failure_text(part, record))
                if record.state in {"running", "done"}:
                    left.remove(part)
                    report(Progress(part.name, part.title, record.ready_s or 0.0, part.address(settings)))
            if supervisor and not supervisor.process() and left:
                raise StackError(f"The supervisor has died: see {self.home.log_file('supervisor')}.")
            if time.monotonic() - began > timeout_s:
                part = left[0]
                raise StackError(self._failure_text(part, records.get(part.name, PartRecord(part.name, "starting"))))
            time.sleep(POLL_S)

    def _ensure_supervisor(self) -> None:
        if living_supervisor(self.home):
            return
        with self.home.log_file("supervisor").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "infra.local.supervisor"], stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, env=process_environ(self.home, self.environ), cwd=ROOT, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + SUPERVISOR_START_S
        # It forks when all is well, so its first process has an end of its own.
        while process.poll() is None or not living_supervisor(self.home):
            if process.returncode or time.monotonic() > deadline:
                raise StackError("The supervisor did not start:\n" + self.tail("supervisor"))
            time.sleep(POLL_S)

    def _failure_text(self, part: Part, record: PartRecord) -> str:
        return (
            f"{part.title} did not start: {record.reason or record.state}.\n"
            f"The end of {self.home.log_file(part.name)}:\n{self.tail(part.name, width=LOG_WIDTH)}\n"
            f"The other parts are left as they are. Look with `./afluente status` and `./afluente logs {part.name}`, "
            "run `./afluente up` again after the fix, or `./afluente down` to stop."
        )

    # -- down

    def down(self, report: Callable[[str], None] = lambda _: None) -> int:
        """Stops everything and leaves no process and no lock. Returns how many had to be killed."""
        supervisor = living_supervisor(self.home)
        if supervisor:
            with contextlib.suppress(psutil.Error):
                supervisor.terminate()
            self._await_down(supervisor, report)
        killed = self._end_leftovers()
        shutil.rmtree(self.home.run, ignore_errors=True)
        return killed

    def _await_down(self, supervisor: psutil.Process, report: Callable[[str], None]) -> None:
        deadline = time.monotonic() + self.settings.drain_timeout_s + STOP_SLACK_S
        told: set[str] = set()
        was_up = {name for name, record in read_state(self.home)[1].items() if record.pid}
        while time.monotonic() < deadline:
            _, records = read_state(self.home)
            alive = living_supervisor(self.home)
            for name in sorted(was_up - told):
                if not alive or (name in records and records[name].state == "stopped"):
                    told.add(name)
                    report(name)
            if not is_alive(supervisor):
                return
            time.sleep(POLL_S)

    def _end_leftovers(self) -> int:
        """Kills what a dead supervisor has left. There is nobody to ask nicely: their pipes and peers are gone."""
        found = leftovers(self.home)
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        alive = _await_ends(found)
        if alive:
            pids = ", ".join(str(process.pid) for process in alive)
            raise StackError(f"These processes of the stack cannot be ended: {pids}.")
        self.home.state_file.unlink(missing_ok=True)
        return len(found)

    # -- single parts

    def start(self, name: str, environ: Mapping[str, str] | None = None, timeout_s: float = UP_TIMEOUT_S) -> None:
        """Starts one part of a running stack; `environ` is laid over its environment until it is started anew."""
        (name,) = self._checked([name])
        self._require_running()
        with changing_wishes(self.home) as wishes:
            asked = _ask(wishes, name, run=True, environ=dict(environ or {}))
        self._await_state(name, "running", asked, timeout_s)

    def stop(self, name: str, timeout_s: float = UP_TIMEOUT_S) -> None:
        """Stops one part in its own way; the others stay and must cope."""
        (name,) = self._checked([name])
        self._require_running()
        with changing_wishes(self.home) as wishes:
            asked = _ask(wishes, name, run=False)
        self._await_state(name, "stopped", asked, timeout_s)

    def kill(self, name: str, which: signal.Signals = signal.SIGKILL) -> int:
        """Sends a signal to a part's process (to break it: the supervisor will notice). Returns its pid."""
        record = self.records().get(name)
        process = record.identity.process() if record and record.identity else None
        if process is None:
            raise StackError(f"{name} does not run, so it cannot be killed.")
        process.send_signal(which)
        return process.pid

    def kill_everything(self) -> None:
        """As a crash of the machine would, for the processes: SIGKILL to the supervisor first, then to all parts."""
        supervisor = living_supervisor(self.home)
        found = ([supervisor] if supervisor else []) + leftovers(self.home)
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        _await_ends(found)

    def wait(self, name: str, restarts: int, timeout_s: float = UP_TIMEOUT_S) -> PartRecord:
        """Waits until a part runs again after so many restarts in all."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            record = self.records().get(name)
            if record and record.state == "running" and record.restarts >= restarts:
                return record
            time.sleep(POLL_S)
        raise StackError(f"{name} is not back after {timeout_s:.0f} s.\n{self.tail(name)}")

    def _await_state(self, name: str, state: str, asked: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            record = self.records().get(name, PartRecord(name))
            is_current = record.asked >= asked
            if is_current and record.state == state:
                return
            if (is_current and record.state == "failed") or time.monotonic() > deadline:
                raise StackError(self._failure_text(BY_NAME[name], record))
            time.sleep(POLL_S)

    # -- looking

    def records(self) -> dict[str, PartRecord]:
        """Every part as the supervisor last wrote it."""
        return read_state(self.home)[1]

    def status(self) -> dict[str, Any]:
        """What `./afluente status --json` prints."""
        settings = self.settings
        supervisor = living_supervisor(self.home)
        records = self.records()
        services = []
        ready = asyncio.run(_probe_all(settings))
        for part in PARTS:
            if part.is_step:
                continue
            record = records.get(part.name, PartRecord(part.name))
            process = record.identity.process() if record.identity else None
            services.append({
                "name": part.name,
                "state": record.state if supervisor else ("orphaned" if process else "stopped"),
                "ready": bool(process) and ready[part.name],
                "pid": process.pid if process else None,
                "url": part.address(settings),
                "rss_mb": round(rss_bytes(process) / 2**20, 1) if process else 0.0,
                "restarts": record.restarts,
                "reason": record.reason,
                "since": record.since if process else None,
                "log": str(self.home.log_file(part.name)),
            })  # fmt: skip
        return {
            "home": str(self.home.root),
            "supervisor": {
                "pid": supervisor.pid if supervisor else None,
                "rss_mb": round(rss_bytes_alone(supervisor) / 2**20, 1) if supervisor else 0.0,
            },
            "services": services,
            "steps": [
                {"name": name, "state": records[name].state, "reason": records[name].reason}
                for name in STEPS
                if name in records
            ],
        }

    def tail(self, name: str, lines: int = LOG_TAIL_LINES, width: int | None = None) -> str:
        """The last lines of a part's log; with a width, the beginning of each."""
        try:
            with self.home.log_file(name).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - lines * LINE_BYTES_MAX))
                text = file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return "(nothing was logged)"
        return "\n".join(each[:width] for each in text.splitlines()[-lines:])

    # -- small rules

    def _running(self) -> dict[str, PartRecord]:
        return self.records() if living_supervisor(self.home) else {}

    def _require_running(self) -> None:
        if not living_supervisor(self.home):
            raise StackError(f"No stack runs in {self.home.root}: start it with `./afluente up`.")

    def _checked(self, names: Iterable[str]) -> list[str]:
        names = list(names)
        unknown = [name for name in names if name not in SERVICES]
        if unknown or not names:
            raise StackError(f"No part is named {', '.join(unknown) or '(nothing)'}: there are {', '.join(SERVICES)}.")
        return names


def _ask(wishes: dict[str, Wish], name: str, *, run: bool, environ: dict[str, str] | None = None) -> int:
    """Asks once more for a part to run or not. Returns the number by which the answer is known."""
    former = wishes.get(name, Wish())
    wishes[name] = Wish(run, former.nonce + 1, former.environ if environ is None else environ)
    return wishes[name].nonce


def _await_ends(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Waits until all of them have ended. Returns those that have not."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while (alive := [each for each in processes if is_alive(each)]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return alive


def _runs(record: PartRecord | None) -> bool:
    return record is not None and record.state == "running"


def rss_bytes_alone(process: psutil.Process) -> int:
    """Resident memory of one process without its children, which are counted as parts of their own."""
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


async def _probe_all(settings: Settings) -> dict[str, bool]:
    async def probe(part: Part) -> bool:
        assert part.probe is not None
        with contextlib.suppress(Exception):  # any fault of a probe means: not ready
            return await asyncio.wait_for(part.probe(settings), PROBE_TIMEOUT_S)
        return False

    answers = await asyncio.gather(*(probe(BY_NAME[name]) for name in SERVICES))
    return dict(zip(SERVICES, answers, strict=True))
