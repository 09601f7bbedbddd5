"""Much at once: a tenant with a hundred times the traffic of another, a backlog that waits for a cold worker.

The last file of the folder: whoever rebuilds state after it reads a million records more.
"""

import shutil
import statistics
import time

import pytest

from loadtest.history import Stream
from loadtest.rows import Rows
from loadtest.traffic import TRACKING
from tests.fault.case import Case
from tests.support.children import poll

BATCH_ROWS = 50_000  # a release's, where the suite has small ones
PROBES = 100
LOOK_S = 0.01
NOISY_A_SECOND = 1_000  # the other tenant waits for each of its events, and so sends less than ten
NOISY_TIMES = 100
UNNOTICED_S = 1.0  # a p99 below this is no harm, whatever the baseline was
BACKLOG = 1_000_000
BURST = 5_000
DRAIN_S = 280.0
RSS_BYTES_MAX = 1 << 30  # what infra/k8s asks for a worker
SOURCES = 8


def waits(case: Case, rows: Rows, tenant: str) -> list[float]:
    """Seconds from Kafka's confirmation until a query finds an event, one event after the other."""
    found, alone = [], case.traffic.alone(tenant)
    for _ in range(PROBES):
        ((_, event_id),) = alone.burst(1, 0, duplicates=0)
        began = time.monotonic()
        poll(lambda one=event_id: rows.present(Stream(tenant, TRACKING), [one]), "the event is queryable", 30.0, LOOK_S)
        found.append(time.monotonic() - began)
    return found


@pytest.mark.full
def test_noisy_tenant(case: Case) -> None:
    """A tenant with a hundred times the events of another makes that one wait at most twice as long as before."""
    case.fleet.ensure(batch_rows_max=BATCH_ROWS)
    case.spread(2)
    quiet, noisy = case.traffic.tenants
    rows = Rows(case.stack.settings)
    try:
        before = waits(case, rows, quiet)
        began = time.monotonic()
        with case.traffic.alone(noisy).flowing(NOISY_A_SECOND):
            under = waits(case, rows, quiet)
        times = NOISY_A_SECOND / (PROBES / (time.monotonic() - began))
    finally:
        rows.close()
    base_s, under_s = (statistics.quantiles(one, n=100)[98] for one in (before, under))
    case.fired = f"{times:.0f} times the events, p99 of the other {base_s * 1000:.0f} -> {under_s * 1000:.0f} ms"
    case.lifted()
    case.settle()
    assert times > NOISY_TIMES
    assert under_s <= max(2 * base_s, UNNOTICED_S), case.fired


@pytest.mark.full
def test_cold_backlog(case: Case) -> None:
    """A worker without state finds a million records: all are there once, and its memory stays what it is."""
    case.fleet.kill_all()
    case.spread(SOURCES)
    for _ in range(BACKLOG // BURST):
        case.traffic.burst(BURST, 0)
        case.traffic.forget()
    shutil.rmtree(case.fleet.home / "worker" / "w0", ignore_errors=True)
    case.lifted()
    worker = case.fleet.start(batch_rows_max=BATCH_ROWS, wait=False)
    peak = 0

    def look() -> None:
        nonlocal peak
        assert worker.alive, worker.tail()
        peak = max(peak, worker.rss_bytes)

    case.settle(look, DRAIN_S)
    case.fired = f"{BACKLOG} waited for a worker without state, RSS {peak >> 20} MiB at most"
    case.told_in_row()
    assert peak < RSS_BYTES_MAX
