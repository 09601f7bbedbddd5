"""The checker is tested, too: a loop that breaks one rule, under the fault that this rule is for, must be caught.

Each repeats the fault of another case of the suite, which is named: what catches it here catches it there. One has
a case of its own, since its window lies behind the last step.
"""

import signal

import pytest

from tests.fault.case import LATE_POINT, Case
from tests.fault.test_state import bounds, carry_one_batch
from tests.support.children import poll

ROWS, OTHER_ROWS = 150, 60

# Variant of tests/fault/mutants.py, the failpoint it is killed at, what the checker must see, and the case that it is.
KILLED = {
    "commits_before_insert": ("5_process", "missing", "killed_steps/killed_at[5_process]"),
    "no_dedupe": ("6_insert", "duplicates", "killed_steps/killed_at[6_insert]"),
    "no_pending_range": ("6_insert", "duplicates", "killed_steps/killed_at[6_insert]"),
    "range_cut_anew": ("6_insert", "duplicates", "killed_steps/killed_three_times_in_the_same_range"),
    "drops_its_own_redelivery": ("5_process", "missing", "killed_steps/killed_at[5_process]"),
}


@pytest.mark.parametrize("variant", KILLED)
def test_killed_mutant(case: Case, variant: str) -> None:
    """The mutant is killed at a step and started again, with another cut: the checker reports what went wrong."""
    step, wrong, like = KILLED[variant]
    case.fleet.kill_all()
    case.traffic.burst(450, poisons=0)
    worker = case.start_variant(variant, wait=False, failpoints=f"{step}=kill@2", batch_rows_max=ROWS)
    assert worker.await_exit() == -signal.SIGKILL
    assert case.fleet.fired(step)
    case.fired = f"killed at {step}"
    case.lifted()
    case.start_variant(variant, wait=False, batch_rows_max=OTHER_ROWS)
    assert getattr(case.finding(variant, like), wrong) > 0


def test_mutant_writes_dead_letters_after_the_commit(case: Case) -> None:
    """Committed, then killed with poison on its way to the DLQ: the checker reports the poison that is nowhere."""
    case.fleet.kill_all()
    case.traffic.burst(100, poisons=6)
    variant = "dead_letters_after_commit"
    worker = case.start_variant(variant, wait=False, failpoints=f"{LATE_POINT}=kill")
    assert worker.await_exit() == -signal.SIGKILL
    assert case.fleet.fired(LATE_POINT)
    case.fired = "killed between commit and DLQ"
    case.lifted()
    case.start_variant(variant, wait=False)
    assert case.finding(variant, case.id).dead_missing > 0


def test_mutant_forgets_the_topic_id(case: Case) -> None:
    """Equal ranges of two topics of one name: the checker reports what ClickHouse took for a retry."""
    del case.traffic.tenants[1:]
    variant = "token_without_topic_id"
    carry_one_batch(case, variant)
    before = bounds(case.fleet.workers["w0"])
    case.traffic.forget()
    carry_one_batch(case, variant)
    poll(lambda: bounds(case.fleet.workers["w0"]) == before, "the same bounds again")
    case.fired = "topic made again"
    assert case.finding(variant, "state/topic_recreated").missing > 0
