"""Kafka freezes, forgets and is told to start over: the worker waits, says what is gone, and does nothing twice."""

import shutil
import signal
from collections.abc import Mapping

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from app.batch import TP
from app.settings import GROUP_ID
from infra.local import topics as cluster
from loadtest.history import History
from schemas.topics import TRACKING_COLLECTED
from tests.fault.case import FULL, Case
from tests.support.children import poll
from tests.support.oracle import ASK_S
from tests.support.workers import Worker

FROZEN_S = 60.0 if FULL else 15.0
EVENTS_A_SECOND = 100
PASSED = "retention has passed the committed offset"


def assignments(worker: Worker) -> int:
    """How often it was given partitions."""
    return len(worker.lines("partitions assigned"))


def test_kafka_frozen(case: Case) -> None:
    """The broker stops answering, longer than the session, and wakes: nothing is lost, the group settles at once."""
    worker = case.fleet.ensure()
    case.traffic.burst(300)
    before = assignments(worker)
    with case.traffic.flowing(EVENTS_A_SECOND):
        case.stack.kill("kafka", signal.SIGSTOP)
        try:
            worker.run_for(FROZEN_S)
        finally:
            case.stack.kill("kafka", signal.SIGCONT)
        case.lifted()
        poll(case.oracle.answers, "Kafka answers again")
    case.fired = f"{FROZEN_S:.0f} s, {assignments(worker) - before} rebalances"
    case.settle()
    assert assignments(worker) - before <= 2, "no loop of rebalances"


def admin_of(case: Case) -> AdminClient:
    """An operator's hand in Kafka."""
    return cluster.admin_client(case.stack.settings)


def test_retention_passed_the_commit(case: Case) -> None:
    """Kafka deleted what nobody had read: the worker says how much, and carries on with the first record there is."""
    case.fleet.ensure()
    case.traffic.burst(150, poisons=0)
    case.quiet()
    case.fleet.kill_all()
    ends = case.oracle.ends(TRACKING_COLLECTED.name)
    gone_history, case.traffic.history = case.traffic.history, History()
    case.traffic.burst(300, poisons=0)
    later = case.oracle.ends(TRACKING_COLLECTED.name)
    lost = {tp: end for tp, end in later.items() if end > ends[tp]}
    gone = sum(end - ends[tp] for tp, end in lost.items())
    admin = admin_of(case)  # kept: without it its futures never end
    for future in admin.delete_records([TopicPartition(*tp, end) for tp, end in lost.items()]).values():
        future.result(ASK_S)
    # What is gone was never a row: this history begins behind it.
    case.traffic.history = gone_history
    case.traffic.forget()
    case.traffic.burst(150, poisons=0)
    case.lifted()
    worker = case.fleet.start(wait=False)
    case.settle()
    told = worker.lines(PASSED)
    case.fired = f"{gone} records deleted unread, {sum(line['records'] for line in told)} told"
    case.told_in_row()
    assert sum(line["records"] for line in told) == gone


def start_over(case: Case, offsets: Mapping[TP, int] | None = None) -> None:
    """What an operator does to read everything again: the group's offsets back to the first ones, or to these."""
    wanted = {tp: (offsets or {}).get(tp, 0) for tp in case.oracle.ends(TRACKING_COLLECTED.name)}
    parts = [TopicPartition(*tp, at) for tp, at in wanted.items()]
    admin, asked = admin_of(case), ConsumerGroupTopicPartitions(GROUP_ID, parts)

    def reset() -> bool:
        try:
            # Refused while the group has a member: a killed one is a member until its session ends.
            told = admin.alter_consumer_group_offsets([asked])[GROUP_ID].result(ASK_S)
        except KafkaException:
            return False
        return not any(one.error for one in told.topic_partitions)

    poll(reset, "the group takes its first offsets", every_s=0.5)
    assert {tp: at for tp, (at, _) in case.oracle.positions().items() if tp in wanted} == wanted


def test_offsets_reset_to_earliest(case: Case) -> None:
    """The group starts over with the state that it has: what was done is known, and no row comes twice."""
    case.fleet.ensure()
    case.traffic.burst(450)
    case.quiet()
    case.fleet.kill_all()
    ends = case.oracle.ends(TRACKING_COLLECTED.name)
    start_over(case)
    case.traffic.burst(150)
    case.lifted()
    case.fleet.start(wait=False)
    case.settle()
    case.fired = f"{sum(ends.values())} records offered again"
    case.told_in_row()


@pytest.mark.full
def test_offsets_reset_and_state_lost(case: Case) -> None:
    """The group starts over on a new machine: everything is done again, and no row comes twice."""
    case.fleet.ensure()
    case.traffic.burst(450)
    case.quiet()
    case.fleet.kill_all()
    start_over(case)
    case.again = set(case.oracle.dead({}).values())
    shutil.rmtree(case.fleet.home / "worker")
    case.traffic.burst(150)
    case.lifted()
    case.fleet.start(wait=False, batch_rows_max=1_000)
    case.settle()
    case.fired = "everything offered again to an empty state"
    case.told_in_row()


@pytest.mark.full
def test_offsets_reset_to_between_and_state_lost(case: Case) -> None:
    """The group goes back to somewhere on a new machine: who remembers nothing asks, and no row comes twice."""
    case.fleet.ensure()
    case.traffic.burst(300)
    case.quiet()
    between = case.oracle.ends(TRACKING_COLLECTED.name)
    case.traffic.burst(300)
    case.quiet()
    case.fleet.kill_all()
    ends = case.oracle.ends(TRACKING_COLLECTED.name)
    start_over(case, between)
    shutil.rmtree(case.fleet.home / "worker")
    case.traffic.burst(150)
    case.lifted()
    case.fleet.start(wait=False)
    case.settle()
    case.fired = f"{sum(ends.values()) - sum(between.values())} records offered again to an empty state"
    case.told_in_row()
