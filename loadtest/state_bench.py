"""Dedupe state at scale: speed and memory with many known ids, a restart with them on disk, a rebuild without.

The known ids are written into the worker's RocksDB by the worker's own table, before it starts; none of them comes
again, which is the common case and the dear one: absence has to be proved. A start is told apart from what follows:
until its Bloom filters are made, a worker asks RocksDB for every id.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from infra.local.home import ROOT
from infra.local.stack import Stack
from loadtest import corpus
from loadtest.arena import Arena, rss_mb
from loadtest.corpus import Shape
from schemas.topics import TRACKING_COLLECTED

RECORDS = 200_000
FULL_RECORDS = 1_000_000  # more than ten seconds of them
KNOWN = (200_000, 1_000_000)
FULL_KNOWN = (1_000_000, 10_000_000, 50_000_000)
WARM_RECORDS = 200_000  # carried before the first clock starts: connections, caches, the first compaction
STARTING_RECORDS = 200_000  # that filters of the known ids may take to be made
FULL_STARTING_RECORDS = 2_000_000
FILTER = b'"event":"bloom filter made"'
MORE_RECORDS = 2_000  # what the restarted worker finds
START_TIMEOUT_S = 120.0
POLL_S = 0.02
ROWS_POLL_S = 0.1  # each look is a query

Tell = Callable[[str], None]


def measure(stack: Stack, tell: Tell, *, full: bool) -> dict[str, Any]:
    """Each number of known ids, a restart and a rebuild with it."""
    stack.stop("worker")
    arena = Arena(stack)
    known = FULL_KNOWN if full else KNOWN
    records = FULL_RECORDS if full else RECORDS
    starting = FULL_STARTING_RECORDS if full else STARTING_RECORDS
    found: dict[str, Any] = {"records": records, "known": {}}
    for count in known:
        found["known"][str(count)] = one = _with_known(arena, count, starting, records)
        tell(f"{count:,} known ids: {one}")
    rates = [one["events_per_s"] for one in found["known"].values()]
    found["ratio_last_to_first"] = round(rates[-1] / rates[0], 2)
    return found


def _with_known(arena: Arena, count: int, starting: int, records: int) -> dict[str, Any]:
    name = f"known-{os.getpid()}-{count}"
    corpus.create(arena.settings, TRACKING_COLLECTED.name, TRACKING_COLLECTED.partitions)
    environ = {**arena.stack.environ, "AFLUENTE_WORKER_ID": name, "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "loadtest.known_ids", str(count)], env=environ, cwd=ROOT, check=True)
    filled_s = time.monotonic() - began
    full = corpus.fill(arena.settings, TRACKING_COLLECTED.name, Shape(WARM_RECORDS + starting + records))
    group = f"afluente-{name}"
    with arena.ground() as database:
        with arena.workers(database, 1, 1, {"worker_id": name, "group_id": group}) as crew:
            arena.drain(database, WARM_RECORDS, crew)
            start = _until_filtered(arena, database, WARM_RECORDS + starting)
            run = arena.drain(database, full.distinct, crew)
            rss = rss_mb(crew)
        restart_s = _first_row_s(arena, database, {"worker_id": name, "group_id": group})
        lost_s, rebuilt = _rebuild(arena, database, {"worker_id": f"{name}-lost", "group_id": group})
    return {
        "events_per_s": round(run.rate * full.records / full.distinct),
        "measured_rows": run.records,
        **start,
        "rss_mb": round(rss),
        "ids_written_per_s": round(count / filled_s),
        "restart_to_first_row_s": round(restart_s, 2),
        "rebuilt_records": rebuilt,
        "rebuilt_ids_per_s": round(rebuilt / lost_s) if lost_s else None,
    }


def _until_filtered(arena: Arena, database: str, rows_max: int) -> dict[str, Any]:
    """Wait for the filters of all partitions: how long that takes from here on, and how fast the worker is meanwhile.

    Raises RuntimeError when they are not made before the records of the start are carried.
    """
    began, before = time.monotonic(), arena.rows(database)
    log = arena.newest_log()
    while True:
        made = {json.loads(line)["partition"] for line in log.read_bytes().splitlines() if FILTER in line}
        seconds, rows = time.monotonic() - began, arena.rows(database)
        if len(made) == TRACKING_COLLECTED.partitions:
            break
        if rows > rows_max:
            raise RuntimeError(f"filters of {len(made)} partitions after {rows:,} rows; see {log}")
        time.sleep(ROWS_POLL_S)
    starting = {"filters_made_s": round(seconds, 1)}
    return starting | ({"starting_rows_per_s": round((rows - before) / seconds)} if rows > before else {})


def _first_row_s(arena: Arena, database: str, settings: dict[str, str]) -> float:
    """From the start of the process to the first new row, the state being on disk."""
    before = arena.rows(database)
    corpus.fill(arena.settings, TRACKING_COLLECTED.name, Shape(MORE_RECORDS))
    began = time.monotonic()
    with arena.workers(database, 1, 1, settings):
        while arena.rows(database) == before:
            if time.monotonic() - began > START_TIMEOUT_S:
                raise RuntimeError("the restarted worker inserts nothing")
            time.sleep(POLL_S)
        return time.monotonic() - began


def _rebuild(arena: Arena, database: str, settings: dict[str, str]) -> tuple[float, int]:
    """A worker without state, in the same group: seconds of its rebuilds, side by side, and the records they read."""
    with arena.workers(database, 1, 1, settings):
        log = arena.newest_log()
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
            ready = [line for line in lines if line["event"] == "partition ready"]
            if sum(line["topic"] == TRACKING_COLLECTED.name for line in ready) == TRACKING_COLLECTED.partitions:
                break
            time.sleep(POLL_S)
        rebuilt = [line for line in lines if line["event"] == "dedupe state rebuilt"]
    began = next(line["time"] for line in lines if line["event"] == "partitions assigned")
    if not rebuilt:
        return 0.0, 0
    return _seconds_between(began, rebuilt[-1]["time"]), sum(line["records"] for line in rebuilt)


def _seconds_between(first: str, last: str) -> float:
    stamps = [time.mktime(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) + float(text[19:-1]) for text in (first, last)]
    return stamps[1] - stamps[0]
