"""How a worker ends: calmly when asked, at once when asked twice, loudly when it does not know what went wrong."""

import signal

import httpx
import pytest

from app.lifecycle import EXIT_NOT_DRAINED, EXIT_UNKNOWN_FAILURE
from loadtest.traffic import TRACKING
from schemas.topics import TRACKING_COLLECTED
from tests.fault.case import Case
from tests.support.children import poll

BROKEN_RECORDS = 200


def test_asked_to_stop(case: Case) -> None:
    """SIGTERM under traffic: what is in flight is finished and committed, and the status is 0."""
    worker = case.fleet.ensure()
    with case.traffic.flowing(400):
        done = len(worker.lines("batch"))
        poll(lambda: len(worker.lines("batch")) > done + 5, "batches flow")
        worker.signal(signal.SIGTERM)
        assert worker.await_exit() == 0
        positions = case.oracle.positions()
        assert not [span for _, span in positions.values() if span is not None]
        for line in worker.lines("batch"):
            at = max(at for tp, (at, _) in positions.items() if (tp.topic, tp.partition) == place(line))
            assert at > line["last"]
        case.fired = "exit 0, nothing open"
        case.lifted()
        case.fleet.start()
    case.settle()


@pytest.mark.parametrize("moment", ["(Re-)joining group", pytest.param("partitions assigned", marks=pytest.mark.full)])
def test_asked_to_stop_before_it_began(case: Case, moment: str) -> None:
    """SIGTERM while a worker joins, or prepares what it got: the status is 0, and its partitions go on elsewhere."""
    case.fleet.ensure()
    with case.traffic.flowing(200):
        spare = case.fleet.start("w1", wait=False)
        poll(lambda: any(moment in str(line.get("event", "")) for line in spare.lines()), f"it says: {moment}")
        spare.signal(signal.SIGTERM)
        assert spare.await_exit() == 0
        case.fired = "exit 0"
        case.lifted()
    case.settle()


def place(line: dict[str, object]) -> tuple[object, object]:
    """Topic and partition of a batch line; this suite's direct traffic has one source."""
    return TRACKING_COLLECTED.name, line["partition"]


def test_asked_twice_to_stop(case: Case) -> None:
    """A worker that cannot finish ends at the second SIGTERM and says that it did not drain."""
    worker = case.fleet.ensure()
    case.stack.kill("clickhouse", signal.SIGSTOP)
    try:
        case.traffic.burst(300)
        poll(case.oracle.pending, "a range is open")
        worker.signal(signal.SIGTERM)
        poll(lambda: stopping(case), "it has begun to stop")
        assert worker.alive
        worker.signal(signal.SIGTERM)
        assert worker.await_exit(10) == EXIT_NOT_DRAINED
        case.fired = f"exit {EXIT_NOT_DRAINED}, {len(case.oracle.pending())} ranges open"
        assert case.oracle.pending()
    finally:
        case.stack.kill("clickhouse", signal.SIGCONT)
    case.lifted()
    case.fleet.start(wait=False)
    case.settle()


def stopping(case: Case) -> bool:
    """Whether the worker has taken the first signal in."""
    return any(str(line.get("event", "")).endswith("-App]: Stopping...") for line in case.fleet.workers["w0"].lines())


def test_most_of_a_batch_is_poison(case: Case) -> None:
    """A broken deploy stops before it empties a topic into the DLQ; with the limit raised, the records go there."""
    case.fleet.ensure()
    case.traffic.burst(60, poisons=0)
    case.quiet()
    case.fleet.kill_all()
    before = case.oracle.positions()
    case.traffic.poisoned("missing_header", BROKEN_RECORDS)
    worker = case.fleet.start(wait=False, batch_rows_max=1_000)
    assert worker.await_exit() == EXIT_UNKNOWN_FAILURE
    assert {tp: at for tp, (at, _) in case.oracle.positions().items()} == {tp: at for tp, (at, _) in before.items()}
    case.fired = f"exit {EXIT_UNKNOWN_FAILURE}, nothing committed"
    case.traffic.burst(60, poisons=0)
    case.lifted()
    case.fleet.start(wait=False, batch_rows_max=1_000, dlq_ratio_max=1)
    assert case.settle().dead == BROKEN_RECORDS


def test_table_gone(case: Case) -> None:
    """What is in no row of the sink's table of codes stops the process without commit, and nothing is lost."""
    worker = case.fleet.ensure()
    before = case.oracle.positions()
    rename(case, TRACKING, "elsewhere")
    try:
        case.traffic.burst(300)
        assert worker.await_exit() == EXIT_UNKNOWN_FAILURE
        assert {tp: at for tp, (at, _) in case.oracle.positions().items()} == {tp: at for tp, (at, _) in before.items()}
        case.fired = f"exit {EXIT_UNKNOWN_FAILURE}, {len(case.oracle.pending())} ranges open"
    finally:
        rename(case, "elsewhere", TRACKING)
    case.lifted()
    case.fleet.start(wait=False)
    case.settle()


def rename(case: Case, before: str, after: str) -> None:
    """Rename a table of the sink, as an operator's mistake would."""
    database = case.stack.settings.clickhouse_database
    query = f"RENAME TABLE {database}.{before} TO {database}.{after}"
    answer = httpx.post(case.stack.settings.clickhouse_url, content=query, trust_env=False)
    assert answer.status_code == 200, answer.text
