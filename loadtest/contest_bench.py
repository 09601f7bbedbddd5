"""The worker's way, from a topic full of records to rows in ClickHouse: Afluente and what people would use instead.

Slow contestants carry fewer records of the same kind: a rate counts, not a total.
"""

import statistics
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.local.home import ROOT
from infra.local.stack import Stack
from loadtest import corpus
from loadtest.arena import Arena, Run
from loadtest.corpus import Corpus, Shape
from schemas.topics import TRACKING_COLLECTED

RECORDS = 600_000  # the first and the last batch, when not all parts are at work, are a tenth of it
SLOW_RECORDS = 20_000
SIZES = (1_024, 350)
PARTITIONS = 8
QUIX_FOLDER = ROOT / ".venv-quix"
QUIX_REQUIREMENTS = Path(__file__).with_name("contestants") / "requirements-quix.txt"
# What is compared at the first size is not all repeated at the second.
ALWAYS = ("afluente", "hand_loop", "floor", "stock_faust")

Tell = Callable[[str], None]


def quix_python() -> str:
    """The interpreter of Quix Streams' own environment, made at the first run: its pins are older than the stack's."""
    python = QUIX_FOLDER / "bin" / "python"
    mark = QUIX_FOLDER / ".installed"
    if not mark.exists() or mark.read_text() != QUIX_REQUIREMENTS.read_text():
        venv.create(QUIX_FOLDER, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r"]
        subprocess.run([*install, str(QUIX_REQUIREMENTS)], check=True)
        mark.write_text(QUIX_REQUIREMENTS.read_text())
    return str(python)


def contestants(arena: Arena, avro: Corpus, plain: Corpus, slow: Corpus) -> dict[str, Callable[[], Run]]:
    """Each contestant's run by name, in the order in which they take turns."""
    python, faust = sys.executable, str(Path(sys.executable).with_name("faust"))
    folder = "loadtest.contestants"
    floor = [python, "-m", f"{folder}.floor"]
    stock, events = ([faust, "-A", f"{folder}.{name}", "worker", "-l", "warn"] for name in ("stock_faust", "events"))
    events[2] = f"{folder}.stock_faust_events"
    return {
        "afluente": lambda: arena.afluente(avro),
        "hand_loop": lambda: arena.compete([python, "-m", f"{folder}.hand_loop"], plain),
        "floor": lambda: arena.compete([*floor, "both"], avro),
        "stock_faust": lambda: arena.compete(stock, slow),
        "afluente_two_workers": lambda: arena.afluente(avro, workers=2),
        "afluente_processes_2": lambda: arena.afluente(avro, processes=2),
        "consume_alone": lambda: arena.compete([*floor, "consume"], avro, inserts=False),
        "insert_alone": lambda: arena.compete([*floor, "insert"], avro),
        "stock_faust_events": lambda: arena.compete(events, slow, inserts=False),
        "quix": lambda: arena.compete([quix_python(), "-m", f"{folder}.quix"], slow),
    }


def measure(stack: Stack, rounds: int, tell: Tell) -> dict[str, Any]:
    """Every size: a warm-up of Afluente and the floor, then the rounds."""
    stack.stop("worker")
    quix_python()
    arena = Arena(stack)
    return {str(size): _measure_size(arena, size, rounds, tell) for size in SIZES}


def _measure_size(arena: Arena, size: int, rounds: int, tell: Tell) -> dict[str, Any]:
    """All contestants at the first size, the main ones at the others."""
    settings = arena.settings
    tell(f"records of {size} bytes")
    corpus.create(settings, TRACKING_COLLECTED.name, PARTITIONS)
    avro = corpus.fill(settings, TRACKING_COLLECTED.name, Shape(RECORDS, size))
    plain_topic, slow_topic = f"bench.json.{size}", f"bench.slow.{size}"
    for topic in (plain_topic, slow_topic):
        corpus.create(settings, topic, PARTITIONS)
    plain = corpus.fill(settings, plain_topic, Shape(RECORDS, size, as_json=True))
    slow = corpus.fill(settings, slow_topic, Shape(SLOW_RECORDS, size, as_json=True))
    chosen = contestants(arena, avro, plain, slow)
    if size != SIZES[0]:
        chosen = {name: chosen[name] for name in ALWAYS}
    for name in ("afluente", "floor"):
        chosen[name]()
    runs: dict[str, list[Run]] = {name: [] for name in chosen}
    for number in range(rounds):
        for name, once in chosen.items():
            run = once()
            runs[name].append(run)
            tell(f"round {number + 1}  {name:22} {run.rate:9,.0f} events/s  lost {run.lost}  doubled {run.doubled}")
    return {"records": RECORDS, "event_bytes": size, "contestants": {n: summary(found) for n, found in runs.items()}}


def summary(runs: list[Run]) -> dict[str, Any]:
    """Median and spread, and what became of the rows."""
    rates = [round(run.rate) for run in runs]
    return {
        "records": runs[0].records,
        "events_per_s": rates,
        "median_events_per_s": round(statistics.median(rates)),
        "spread": round((max(rates) - min(rates)) / statistics.median(rates), 2),
        "cpu_us_per_event": round(statistics.median(run.cpu_us for run in runs), 1),
        "server_cpu_us_per_event": runs[-1].server_cpu_us,
        "rss_mb_max": round(max(run.rss_mb for run in runs)),
        "lost": [run.lost for run in runs],
        "doubled": [run.doubled for run in runs],
    }
