"""The process that stays: it keeps every part of one embedded stack as `wanted.json` says, and ends with all of them.

Started by `./afluente up` as `python -m infra.local.supervisor`; SIGTERM (from `./afluente down`) stops the stack.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

from app.settings import Settings
from infra.local.environment import current_environ, load_settings
from infra.local.home import Home, locked
from infra.local.keeper import Keeper, log
from infra.local.parts import PARTS, stop_waves
from infra.local.record import Identity, Wish, living_supervisor, read_wishes, write_state

LOCK_TIMEOUT_S = 10.0  # the former supervisor of this home may be on its last lines
TICK_S = 0.1  # how soon a wish of the command line is seen; one stat() each time
ROTATE_EVERY_TICKS = 50
LOG_BYTES_MAX = 10 << 20  # a log file is rotated above this
LOG_FILES_KEPT = 3


def rotate(path: Path, bytes_max: int = LOG_BYTES_MAX, kept: int = LOG_FILES_KEPT) -> bool:
    """Moves a full log aside. Copied and emptied in place, because the writer keeps its handle and appends."""
    if not path.exists() or path.stat().st_size <= bytes_max:
        return False
    for number in range(kept - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    os.truncate(path, 0)
    return True


class Supervisor:
    """All keepers of one home."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self._home = home
        self._identity = Identity.of(os.getpid())
        self._stopping = asyncio.Event()
        self._wanted_at = 0
        self._keepers = {part.name: Keeper(part, home, settings, self._write_state) for part in PARTS}
        for keeper in self._keepers.values():
            keeper.requirements = [self._keepers[name] for name in keeper.part.after]

    async def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for which in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(which, self._stopping.set)
        self._read_wishes()
        self._write_state()
        tasks = [asyncio.create_task(keeper.run(), name=name) for name, keeper in self._keepers.items()]
        try:
            await self._tick(tasks)
        finally:
            await self._stop_all()
            for task in tasks:
                task.cancel()
            self._home.state_file.unlink(missing_ok=True)

    async def _tick(self, tasks: list[asyncio.Task[None]]) -> None:
        ticks = 0
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), TICK_S)
            self._read_wishes()
            ticks += 1
            if ticks % ROTATE_EVERY_TICKS == 0:
                await asyncio.to_thread(self._rotate_logs)
            for task in tasks:
                if task.done():
                    task.result()  # a keeper never ends: this raises its fault, and the stack stops loudly

    def _rotate_logs(self) -> None:
        for path in self._home.logs.glob("*.log"):
            rotate(path)

    def _read_wishes(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            changed_at = self._home.wanted_file.stat().st_mtime_ns
            if changed_at != self._wanted_at:
                self._wanted_at = changed_at
                wishes = read_wishes(self._home)
                for name, keeper in self._keepers.items():
                    keeper.wish(wishes.get(name, Wish()))

    async def _stop_all(self) -> None:
        log("stopping")
        for wave in stop_waves():
            for name in wave:
                self._keepers[name].wish(Wish(nonce=self._keepers[name].record.asked))
            while any(  # noqa: ASYNC110 - the end of a process is no event of ours alone
                self._keepers[name].record.state != "stopped" for name in wave
            ):
                await asyncio.sleep(TICK_S)
        log("stopped")

    def _write_state(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # the home was removed under a running stack
            write_state(self._home, self._identity, (keeper.record for keeper in self._keepers.values()))


def main() -> int:
    """0 after an orderly stop, and when another supervisor has this home already."""
    home = Home.here()
    if living_supervisor(home):
        return 0
    with locked(home.run, deadline_s=LOCK_TIMEOUT_S) as mine:
        if not mine:
            log("another supervisor has this home")
            return 1
        settings = load_settings(home, current_environ())
        # The child goes on, with the lock: nobody's child, so that whoever called `up` need not wait for its end.
        if os.fork() != 0:
            os._exit(0)
        log(f"supervising {home.root}, pid {os.getpid()}")
        asyncio.run(Supervisor(home, settings).run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
