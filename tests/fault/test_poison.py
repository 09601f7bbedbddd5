"""Records that cannot be processed, or must not be: each goes to the DLQ alone, and its neighbours go on in order."""

import signal
import time
import uuid

import httpx
import pytest

from app import quarantine
from loadtest.history import Stream
from loadtest.traffic import TRACKING
from tests.fault.case import Case
from tests.fault.pills import PILL
from tests.support.children import poll

NEIGHBOURS, POISONS = 10_000, 40
DEATHS_MAX = 6  # three deliveries that die, and a margin for a start that is killed on its way


def test_poison_among_ten_thousand(case: Case) -> None:
    """Only the poison goes to the DLQ, and what is around it arrives in the order it was sent."""
    case.fleet.ensure(batch_rows_max=1_000)
    case.traffic.burst(NEIGHBOURS, poisons=POISONS)
    case.lifted()
    case.fired = f"{POISONS} of 4 kinds"
    assert case.settle().dead == POISONS
    for tenant in case.traffic.tenants:
        times = case.oracle.in_offset_order(Stream(tenant, TRACKING))
        assert times == sorted(times), "each copy is sent with a later time than the one before it"


def test_pill_that_kills_the_process(case: Case) -> None:
    """A record that every process dies of is set aside after some deaths, and its neighbours are rows."""
    case.fleet.kill_all()
    case.traffic.burst(200, poisons=0)
    case.traffic.deadly(PILL)
    case.traffic.burst(200, poisons=0)
    case.traffic.deadly(PILL)
    deaths = restart_until_it_lives(case, "dies_of_pills")
    case.fired = f"{deaths} deaths"
    case.lifted()
    assert case.settle().dead == 2
    assert deaths <= DEATHS_MAX
    assert len(case.fleet.workers["w0"].lines("a record kills the process: it goes to the DLQ")) == 2


def restart_until_it_lives(case: Case, variant: str) -> int:
    """Start it again, as a supervisor would, until it has finished everything. How often it died."""
    for deaths in range(DEATHS_MAX + 1):
        worker = case.start_variant(variant, wait=False, batch_rows_max=1_000)
        poll(lambda one=worker: not one.alive or not case.oracle.behind(), "it dies or it is done", every_s=0.2)
        if worker.alive:
            return deaths
        assert worker.process.returncode == -signal.SIGSEGV, worker.tail()
    raise AssertionError(f"it still dies\n{worker.tail()}")


@pytest.mark.full
def test_killed_from_outside_and_nobody_is_blamed(case: Case) -> None:
    """However often a machine kills us over a range, no record of it goes to the DLQ for that."""
    case.fleet.kill_all()
    case.traffic.burst(300)
    deaths = quarantine.DELIVERIES_MAX + 1
    for _ in range(deaths):
        case.fleet.rearm()
        worker = case.fleet.start(failpoints="6_insert=kill", wait=False)
        assert worker.await_exit() == -signal.SIGKILL
    assert max(span.deliveries for span in case.oracle.pending()) == deaths
    case.fired = f"{deaths} kills in one range"
    case.lifted()
    case.fleet.start(wait=False)
    case.settle()


def test_tenant_that_contradicts_its_credential(case: Case) -> None:
    """A tenant named in the body or in a record counts for nothing: the credential's tenant has the row, or nobody."""
    worker = case.fleet.ensure()
    edge = case.start_edge()
    mine, victim = case.hire(2)
    before = time.monotonic()
    ids = [str(uuid.uuid4()) for _ in range(20)]
    for event_id in ids:
        body = {"event_id": event_id, "tenant_id": victim.tenant_id, "properties": {"tenant_id": victim.tenant_id}}
        headers = {"Authorization": f"Bearer {mine.write_key}", "X-Tenant-Id": victim.tenant_id}
        answer = httpx.post(f"{edge.url}/track/click", json=body, headers=headers, trust_env=False)
        assert answer.status_code == 202, answer.text
        case.note_accepted(mine.tenant_id, [event_id])
    case.traffic.poisoned("tenant_mismatch", 5)
    case.fired = f"{len(ids)} bodies, 5 records"
    case.lifted_at = before
    assert case.settle().dead == 5
    assert read_all(case, edge.url, victim.tenant_id, victim.read_key) == {}
    assert set(read_all(case, edge.url, mine.tenant_id, mine.read_key)) == set(ids)
    assert worker.alive


def read_all(case: Case, url: str, tenant: str, read_key: str) -> dict[str, int]:
    """What the public API shows to a key."""
    return case.oracle.read_back(url, Stream(tenant, TRACKING), read_key)
