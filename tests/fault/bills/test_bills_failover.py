"""The primary freezes and a standby takes over, with a copy of the slot: nothing that was confirmed is gone."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from infra.local.cdc_state import definition
from tests.fault.bills.case import BillsCase
from tests.fault.conftest import named, run_case
from tests.fault.results import Results
from tests.support.bills_stack import BillsStack
from tests.support.children import poll
from tests.support.proxy import Proxy
from tests.support.standby import Standby, family, server_pid
from tests.support.workers import Fleet

PARTS = ("kafka", "postgres", "clickhouse", "connect")
BACK_WITHIN_S = 30.0
TRIES = 3  # at the old primary, each up to the edge's deadline
BILL = {"user_id": "ana", "amount": "100.00", "currency": "BRL", "due_date": "2090-01-31"}


@pytest.fixture
def address() -> Iterator[Proxy]:
    """Where the primary is found: the address that moves, as a name or a virtual address does."""
    line = Proxy(0)
    yield line
    line.close()


@pytest.fixture
def site(address: Proxy) -> Iterator[tuple[BillsStack, Standby, Fleet]]:
    """A stack of its own, its clients at that address, and a standby that has a copy of the slot."""
    home = Path(tempfile.mkdtemp(prefix="afluente-failover-")) / "home"
    with BillsStack.running(home, PARTS) as bills:
        address.port_behind = bills.settings.postgres_port
        bills.primary_port = address.port
        bills.stack.start("connect", {"CONNECT_SECRET_POSTGRES_PORT": str(address.port)})
        standby = Standby(bills.stack.home.root, bills.settings)
        fleet = Fleet(bills.stack.environ, bills.stack.home.root)
        try:
            standby.start().await_slot(definition().slot)
            yield bills, standby, fleet
        finally:
            fleet.kill_all()
            standby.kill()
    shutil.rmtree(home.parent, ignore_errors=True)


@pytest.fixture
def failover_case(
    request: pytest.FixtureRequest, site: tuple[BillsStack, Standby, Fleet], results: Results
) -> Iterator[BillsCase]:
    bills, _, fleet = site
    yield from run_case(request, BillsCase(bills, fleet, results, *named(request)))


def posted(url: str, key: str) -> httpx.Response:
    """A new bill."""
    return httpx.post(f"{url}/bills", json=BILL, headers={"X-App-Key": key}, timeout=20, trust_env=False)


@pytest.mark.full
def test_failover_to_a_standby_with_the_slot(
    failover_case: BillsCase, site: tuple[BillsStack, Standby, Fleet], address: Proxy
) -> None:
    """Frozen, replaced, then back unaware: no confirmed row is gone, no event, and the old one confirms none."""
    bills, standby, _ = site
    failover_case.worker()
    (tenant,) = failover_case.hire(1)
    failover_case.tenants.append(tenant.tenant_id)
    role = bills.settings.postgres_url.get_secret_value()
    edge = failover_case.edge(postgres_url=bills.at_primary(role), credential_cache_s=0)
    stale = failover_case.edge(postgres_url=role, credential_cache_s=0)
    assert (posted(edge.url, tenant.app_key).status_code, posted(stale.url, tenant.app_key).status_code) == (201, 201)
    old = server_pid(standby.primary)
    with failover_case.load.flowing() as load:
        load.await_more(20)
        load.await_inside()
        for process in family(old):
            process.suspend()
        standby.promote()
        address.port_behind = standby.port
        failover_case.lifted()
        back_s = failover_case.until(lambda: posted(edge.url, tenant.app_key).status_code == 201)
        restarts = bills.stack.records()["postgres"].restarts
        for process in family(old):
            process.kill()
        load.await_more(10)
        # It is started again by its supervisor, and takes itself for the primary.
        bills.stack.wait("postgres", restarts + 1)
        poll(lambda: posted(stale.url, tenant.app_key).headers.get("retry-after"), "it is asked for bills")
        refused = [posted(stale.url, tenant.app_key).status_code for _ in range(TRIES)]
        load.await_more(10)
    doubt = load.ledger.errors
    failover_case.fired = (
        f"{doubt} transactions in doubt, edge back after {back_s:.1f} s, {refused.count(503)} of {TRIES} writes refused"
        " by the old primary"
    )
    failover_case.settle()
    assert refused == [503] * TRIES
    assert back_s < BACK_WITHIN_S
