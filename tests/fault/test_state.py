"""The dedupe state is a function of the source topic: lost, it is rebuilt; of another topic, it is dropped."""

import shutil
import signal
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from app.batch import TP
from app.lifecycle import EXIT_UNKNOWN_FAILURE
from infra.local import topics as cluster
from schemas.topics import TRACKING_COLLECTED
from tests.fault.case import Case
from tests.support.children import poll
from tests.support.failing_disk import FailingDisk
from tests.support.workers import Worker

REBUILT = "dedupe state rebuilt"
EVENTS = 200


def first_line(worker: Worker, event: str) -> int:
    """The number of its first log line of that event."""
    return next(number for number, line in enumerate(worker.lines()) if line.get("event") == event)


def test_state_deleted(case: Case) -> None:
    """Rebuilt before a record is taken: old ids are duplicates again, ids of poison are free for a replay."""
    fleet, traffic = case.fleet, case.traffic
    fleet.ensure()
    old = traffic.burst(450)
    freed = [*traffic.poisoned("bad_wire_format", 2), *traffic.poisoned("refused_by_clickhouse", 2)]
    case.quiet()
    fleet.kill_all()
    shutil.rmtree(fleet.home / "worker" / "w0")
    traffic.again(old)
    for event_id in freed:
        traffic.corrected(traffic.tenants[0], event_id)
    case.lifted()
    worker = fleet.start()
    rebuilt = worker.lines(REBUILT)
    case.fired = f"{len(rebuilt)} partitions rebuilt"
    case.settle()
    assert sum(line["records"] for line in rebuilt) >= len(old)
    assert first_line(worker, REBUILT) < first_line(worker, "batch")
    dropped = sum(line["duplicates"] for line in worker.lines("batch"))
    assert dropped == len(old), "every old id was known, and no id of poison"


@pytest.mark.full
def test_state_cannot_be_written(case: Case, tmp_path: Path) -> None:
    """Rows are in and their ids cannot be remembered: the worker stops loudly, its successor does nothing twice."""
    fleet = case.fleet
    fleet.kill_all()
    try:
        disk = FailingDisk(fleet.home / "worker", tmp_path)
    except LookupError as error:
        case.not_run(str(error))
        return
    worker = fleet.start(environ=disk.environ)
    case.traffic.burst(300)
    case.quiet()
    with disk.failing():
        case.traffic.burst(300)
        assert worker.await_exit() == EXIT_UNKNOWN_FAILURE
    case.fired = f"{disk.refused} writes refused; ended with {EXIT_UNKNOWN_FAILURE}"
    assert disk.refused
    case.lifted()
    fleet.start()
    case.settle()


def test_killed_while_rebuilding(case: Case) -> None:
    """Half a rebuild is no state: the next start goes on with it, and old ids are known before a record is taken."""
    fleet, traffic = case.fleet, case.traffic
    case.spread(6)
    traffic = case.traffic
    fleet.ensure()
    old = traffic.burst(600)
    case.quiet()
    fleet.kill_all()
    shutil.rmtree(fleet.home / "worker" / "w0")
    traffic.again(old)
    worker = fleet.start(failpoints="rebuild=kill@3", wait=False)
    assert worker.await_exit() == -signal.SIGKILL
    assert fleet.fired("rebuild")
    case.fired = "killed in the third partition"
    case.lifted()
    worker = fleet.start(wait=False)
    case.settle()
    assert sum(line["duplicates"] for line in worker.lines("batch")) == len(old)


def recreate(case: Case) -> None:
    """Delete the source topic and make it again: the same name and offsets, another topic."""
    admin = cluster.admin_client(case.stack.settings)
    delete(admin, TRACKING_COLLECTED.name)
    found = cluster.read_cluster(admin, [TRACKING_COLLECTED])
    changes = cluster.plan([TRACKING_COLLECTED], found, case.stack.settings, force=False)
    cluster.apply(admin, [TRACKING_COLLECTED], changes, case.stack.settings)


def delete(admin: AdminClient, name: str) -> None:
    """Delete a topic and wait until the cluster has forgotten it."""
    for future in admin.delete_topics([name]).values():
        future.result()

    def is_gone() -> bool:
        try:
            return name not in cluster.read_cluster(admin, [TRACKING_COLLECTED])
        except KafkaException:
            return False  # between two answers, the one knows it and the other does not

    poll(is_gone, "the topic is gone")


def carry_one_batch(case: Case, variant: str = "") -> None:
    """One tenant's records as one batch from offset 0 on: the same bounds in every incarnation of the topic."""
    case.fleet.kill_all()
    recreate(case)
    case.traffic.burst(EVENTS, poisons=0)
    if variant:
        case.start_variant(variant, wait=False, batch_rows_max=10 * EVENTS)
    else:
        case.fleet.start(wait=False, batch_rows_max=10 * EVENTS)
    case.quiet()


def bounds(worker: Worker) -> list[tuple[int, int, int]]:
    """Partition, first and last of each batch that it finished."""
    return [(line["partition"], line["first"], line["last"]) for line in worker.lines("batch")]


def test_topic_recreated_under_a_worker(case: Case) -> None:
    """A worker that reads on at its former positions notices and ends; what it skipped is carried by the next."""
    carry_one_batch(case)
    case.settle()
    worker = case.fleet.workers["w0"]
    worker.signal(signal.SIGSTOP)  # it must not see the moment in which there is no topic
    recreate(case)
    case.traffic.burst(2 * EVENTS, poisons=0, duplicates=0)
    worker.signal(signal.SIGCONT)
    assert worker.await_exit() == EXIT_UNKNOWN_FAILURE
    case.fired = "it ended by itself"
    case.lifted()
    case.fleet.start()  # until then, the former commits say that all is done
    case.settle()


def test_topic_recreated(case: Case) -> None:
    """The new topic's records arrive although former ones had the same offsets in the same batches."""
    del case.traffic.tenants[1:]
    carry_one_batch(case)
    before = bounds(case.fleet.workers["w0"])
    case.traffic.forget()  # another topic has another memory
    case.lifted()
    carry_one_batch(case)
    after = bounds(case.fleet.workers["w0"])
    assert before == after
    assert len(before) == 1
    case.fired = f"offsets {before[0][1]}-{before[0][2]} twice"
    case.settle()
    tp = TP(TRACKING_COLLECTED.name, before[0][0])
    assert case.oracle.positions()[tp] == (before[0][2] + 1, None)
