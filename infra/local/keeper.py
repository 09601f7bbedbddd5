"""Keeps one part of the embedded stack as wanted: starts it, waits until it is ready, starts it again when it dies."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable

import psutil

from app.settings import Settings
from infra.local.environment import process_environ
from infra.local.home import Home
from infra.local.parts import PROBE_TIMEOUT_S, READY_TIMEOUT_S, Part
from infra.local.record import Identity, PartRecord, State, Wish

PROBE_INTERVAL_S = 0.1
BACKOFF_FIRST_S = 0.25
BACKOFF_MAX_S = 15.0  # long enough not to burn a core, short enough that nobody waits for a recovery
STABLE_S = 5.0  # ready for this long: the next death counts as the first one again
NEVER_READY_MAX = 3  # a part that has never been ready and dies this often is broken, not unlucky


def backoff_s(failures: int) -> float:
    """How long to wait before the next start, after so many failures in a row (at least one)."""
    # The exponent is capped as well: a part that fails for weeks must not overflow a float.
    return float(min(BACKOFF_FIRST_S * 2 ** min(failures - 1, 16), BACKOFF_MAX_S))


def log(text: str) -> None:
    """A line in supervisor.log."""
    sys.stdout.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}\n")
    sys.stdout.flush()


class Keeper:
    """One part. `run` is its whole life; `wish` is told from outside; everything else is read from `record`."""

    def __init__(self, part: Part, home: Home, settings: Settings, changed: Callable[[], None]) -> None:
        self.part = part
        self.home = home
        self.settings = settings
        self.record = PartRecord(part.name)
        self.requirements: list[Keeper] = []
        self._changed = changed
        self._wish = Wish()
        self._wished = asyncio.Event()  # set whenever the wish has changed and was not looked at yet
        # Set for good once this part was ready: an edge that dies while ClickHouse is away must still come back.
        self.first_ready = asyncio.Event()
        self._failures = 0

    @property
    def is_wanted(self) -> bool:
        """Whether this part should run. A step is wanted when all that it works on is."""
        return self._wish.run

    def wish(self, wish: Wish) -> None:
        """Takes note of what the command line asks for."""
        former, self._wish = self._wish, wish
        asked_again = wish.nonce != former.nonce and (self.part.is_step or self.record.state in {"backoff", "failed"})
        if wish.run != former.run or wish.environ != former.environ or asked_again:
            self._wished.set()
            if wish.run:
                self.record.state = "starting"  # at once: who asked must not read the former outcome as this one
        if wish.nonce != self.record.asked:
            self.record.asked = wish.nonce
            self._changed()

    async def run(self) -> None:
        """Until cancelled. Cancel only what is stopped: the process would be left alone."""
        while True:
            self._wished.clear()
            wish = self._wish
            if not wish.run:
                self._note("stopped")
                await self._wished.wait()
            elif missing := self._missing():
                self._note("starting", reason="after " + ", ".join(each.part.name for each in missing))
                await self._wait_for(missing[0])
            elif self.part.is_step:
                await self._run_step(wish)
            else:
                await self._run_service(wish)

    # -- what it waits for, the first time

    def _missing(self) -> list["Keeper"]:
        return [each for each in self.requirements if each.is_wanted and not each.first_ready.is_set()]

    async def _wait_for(self, requirement: "Keeper") -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._wished, requirement.first_ready)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()

    # -- a step: once to its end for each request

    async def _run_step(self, wish: Wish) -> None:
        self._note("starting")
        process = await self._launch(wish)
        code: int | None = None
        if process:
            code = await self._exit_or_wish(process)
            if code is None:
                await self._end(process)
                return
        if code == 0:
            self._failures = 0
            self._note("done", ready=True)
            await self._wished.wait()
            return
        self._failures += 1
        if self._failures < NEVER_READY_MAX:
            await self._back_off(self._ended_text(code))
            return
        self._failures = 0
        self._note("failed", reason=self._ended_text(code))
        await self._wished.wait()

    # -- a service: started again until it is unwanted

    async def _run_service(self, wish: Wish) -> None:
        self._note("starting")
        began = time.monotonic()
        process = await self._launch(wish)
        fault = self.record.reason
        ready_at: float | None = None
        if process:
            if await self._becomes_ready(process, began):
                ready_at = time.monotonic()
                self._note("running", ready=True)
                log(f"{self.part.name}: ready after {ready_at - began:.1f} s, pid {process.pid}")
            if process.returncode is None and not self._wished.is_set() and ready_at is None:
                fault = f"not ready after {READY_TIMEOUT_S:.0f} s"
            elif await self._exit_or_wish(process) is not None:
                fault = self._ended_text(process.returncode)
            await self._end(process)
            if self._wished.is_set():
                self._failures = 0
                return
        stable = ready_at is not None and time.monotonic() - ready_at >= STABLE_S
        self._failures = 1 if stable else self._failures + 1
        await self._after_failure(fault)

    async def _after_failure(self, fault: str) -> None:
        if not self.first_ready.is_set() and self._failures >= NEVER_READY_MAX:
            self._failures = 0
            self._note("failed", reason=fault)
            await self._wished.wait()
            return
        self.record.restarts += 1
        await self._back_off(fault)

    async def _back_off(self, fault: str) -> None:
        delay_s = backoff_s(self._failures)
        self._note("backoff", reason=f"{fault}; again in {delay_s:.2g} s")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wished.wait(), delay_s)

    async def _becomes_ready(self, process: Process, began: float) -> bool:
        probe = self.part.probe
        assert probe is not None
        while process.returncode is None and not self._wished.is_set():
            if time.monotonic() - began > READY_TIMEOUT_S:
                return False
            with contextlib.suppress(Exception):  # any fault of a probe means: not ready yet
                if await asyncio.wait_for(probe(self.settings), PROBE_TIMEOUT_S) and process.returncode is None:
                    return True
            await asyncio.sleep(PROBE_INTERVAL_S)
        return False

    # -- the process

    async def _launch(self, wish: Wish) -> Process | None:
        """The started process, or None with the reason in the record."""
        try:
            await asyncio.to_thread(self.part.prepare, self.home, self.settings)
            launch = self.part.launch(self.home, self.settings)
            environ = process_environ(self.home, dict(os.environ)) | dict(launch.environ) | wish.environ
            with self.home.log_file(self.part.name).open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *launch.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ,
                    cwd=launch.folder, start_new_session=True,
                )  # fmt: skip
        except Exception as fault:  # noqa: BLE001 - whatever it is, this part has failed and the others go on
            with self.home.log_file(self.part.name).open("a", encoding="utf-8") as output:
                output.write(f"{fault}\n")
            self.record.reason = f"{type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else ''}"
            return None
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended already: whoever waits for it will see
            identity = Identity.of(process.pid)
            self.record.pid, self.record.created = identity.pid, identity.created
        self._note("starting")
        return process

    async def _exit_or_wish(self, process: Process) -> int | None:
        """The exit status; None when the wish changed first."""
        exit_, wished = asyncio.ensure_future(process.wait()), asyncio.ensure_future(self._wished.wait())
        await asyncio.wait([exit_, wished], return_when=asyncio.FIRST_COMPLETED)
        wished.cancel()
        if exit_.done():
            return exit_.result()
        exit_.cancel()
        return None

    async def _end(self, process: Process) -> None:
        """Stops the process in its own way, then by force, and takes what it started along."""
        if process.returncode is None:
            _signal(process.pid, self.part.stop_signal)
            try:
                await asyncio.wait_for(process.wait(), self.part.stop_timeout_s(self.settings))
            except TimeoutError:
                log(f"{self.part.name}: did not end by itself, killed")
                _signal(process.pid, signal.SIGKILL)
                await process.wait()
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        self.record.pid = None

    def _ended_text(self, code: int | None) -> str:
        if code is None:
            return self.record.reason or "could not start"
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    def _note(self, state: State, *, reason: str = "", ready: bool = False) -> None:
        record = self.record
        if state != record.state and reason:
            log(f"{self.part.name}: {state}, {reason}")
        if state in {"stopped", "backoff", "failed", "done"}:
            record.pid = None
        if state == "starting":
            record.ready_s = None
        if ready:
            record.ready_s = round(time.time() - record.created, 2)
            self.first_ready.set()
        record.state, record.reason, record.since = state, reason, time.time()
        self._changed()


def _signal(pid: int, which: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        psutil.Process(pid).send_signal(which)
