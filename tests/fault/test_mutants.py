"""The checker is tested, too: a loop that breaks one rule, under the fault that this rule is for, must be caught."""

import signal

from tests.fault.case import Case
from tests.fault.test_state import bounds, carry_one_batch

ROWS, OTHER_ROWS = 150, 60


def kill_variant(case: Case, variant: str, step: str) -> None:
    """The mutant is killed at a step and started again, with another cut."""
    case.fleet.kill_all()
    case.traffic.burst(450, poisons=0)
    worker = case.start_variant(variant, wait=False, failpoints=f"{step}=kill@2", batch_rows_max=ROWS)
    assert worker.await_exit() == -signal.SIGKILL
    assert case.fleet.fired(step)
    case.fired = f"killed at {step}"
    case.lifted()
    case.start_variant(variant, wait=False, batch_rows_max=OTHER_ROWS)


def test_mutant_commits_before_insert(case: Case) -> None:
    """Committed and not inserted, then killed: the checker reports what is missing."""
    kill_variant(case, "commits_before_insert", "5_process")
    assert case.finding().missing > 0


def test_mutant_does_not_dedupe(case: Case) -> None:
    """Every copy is a row: the checker reports what is there twice."""
    kill_variant(case, "no_dedupe", "6_insert")
    assert case.finding().duplicates > 0


def test_mutant_opens_no_range(case: Case) -> None:
    """Inserted, killed, and cut anew under another token: the checker reports what is there twice."""
    kill_variant(case, "no_pending_range", "6_insert")
    assert case.finding().duplicates > 0


def test_mutant_forgets_the_topic_id(case: Case) -> None:
    """Equal ranges of two topics of one name: the checker reports what ClickHouse took for a retry."""
    del case.traffic.tenants[1:]
    variant = "token_without_topic_id"
    carry_one_batch(case, variant)
    before = bounds(case.fleet.workers["w0"])
    case.traffic.forget()
    carry_one_batch(case, variant)
    assert bounds(case.fleet.workers["w0"]) == before
    case.fired = "topic made again"
    assert case.finding().missing > 0
