"""Several workers carry bills at once, are killed and joined by others: both databases are equal to the cent."""

import pytest

from tests.fault.bills.case import BillsCase

BILLS = 80
STATE_S = 1.5  # of load in each state of the group


@pytest.mark.full
def test_workers_killed_and_joined_during_a_load_leave_both_databases_equal(bills_case: BillsCase) -> None:
    """Two workers; one killed, a third joins, the second killed and back: equal to the cent, and no row differs."""
    workers = bills_case.fleet
    first, second = workers.start("w0"), workers.start("w1")
    for tenant in bills_case.tenants:
        bills_case.bills.fill(tenant, BILLS)
    with bills_case.load.flowing():
        second.run_for(STATE_S)
        first.kill()
        second.run_for(STATE_S)
        third = workers.start("w2")
        third.run_for(STATE_S)
        second.kill()
        third.run_for(STATE_S)
        workers.start("w1").run_for(STATE_S)
    bills_case.lifted()
    bills_case.fired = "2 kills, 2 joined"
    bills_case.settle()
    verdict = bills_case.bills.afluente("reconcile", "bills", "--json")
    assert (verdict["equal"], verdict["differences"]) == (True, 0)
