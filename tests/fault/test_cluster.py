"""Three brokers under load: a leader dies, the controller dies, a disk is lost, the lines are slow. No ack is lost."""

import uuid
from collections.abc import Callable

import httpx
import pytest

from app.batch import TP
from app.settings import GROUP_ID
from schemas.topics import TRACKING_COLLECTED
from tests.fault.case import Case, short_or_full
from tests.support.children import poll
from tests.support.cluster import Broker, Cluster
from tests.support.proxy import Fault

EVENTS_A_SECOND = 200
BEFORE_S, AWAY_S = 2.0, 5.0
EDGE_ANSWER_S = 3.0  # its promise is 2; a machine that runs six Java processes gets one more
SLOW = Fault(latency_s=0.5, jitter_s=0.3)
TOPIC = TRACKING_COLLECTED.name


def leader(case: Case, cluster: Cluster) -> Broker:
    """The broker that leads the partition with the most records of this case's traffic."""
    ends: dict[TP, int] = case.oracle.ends(TOPIC)
    return cluster.leader_of(TOPIC, max(ends, key=lambda tp: ends[tp]).partition)


def lose_a_broker(case: Case, cluster: Cluster, which: Callable[[], Broker], *, disk: bool = False) -> None:
    """Kill it under load, go on with two, bring it back (empty, when its disk is lost), and kill another one then."""
    worker = case.fleet.ensure()
    case.traffic.burst(300)
    with case.traffic.flowing(EVENTS_A_SECOND):
        worker.run_for(BEFORE_S)
        broker = which()
        assert broker.child is not None
        broker.child.kill()
        worker.run_for(AWAY_S)
        if disk:
            cluster.format(broker)
        cluster.start_broker(broker)
        case.lifted()
    case.fired = f"broker {broker.number} of 3 killed"
    try:
        cluster.await_in_sync(TOPIC)
        case.settle()
    finally:
        cluster.mend()
    assert worker.alive


def test_leader_killed(cluster_case: Case, cluster: Cluster) -> None:
    """The leader of a busy partition dies: what was confirmed is on another broker, which goes on."""
    lose_a_broker(cluster_case, cluster, lambda: leader(cluster_case, cluster))


@pytest.mark.full
def test_controller_killed(cluster_case: Case, cluster: Cluster) -> None:
    """The active controller dies: another one is elected, and the partitions it led go on."""
    lose_a_broker(cluster_case, cluster, cluster.controller)


@pytest.mark.full
def test_coordinator_killed(cluster_case: Case, cluster: Cluster) -> None:
    """The broker that keeps the group's commits dies under them: another one has every commit that was confirmed."""
    lose_a_broker(cluster_case, cluster, lambda: cluster.coordinator(GROUP_ID))


@pytest.mark.full
def test_disk_of_a_broker_lost(cluster_case: Case, cluster: Cluster) -> None:
    """A broker comes back with an empty disk: it copies what the others have, and nothing confirmed is missing."""
    lose_a_broker(cluster_case, cluster, lambda: leader(cluster_case, cluster), disk=True)


@pytest.mark.full
def test_kafka_slow(cluster_case: Case) -> None:
    """With half a second on every packet the edge answers in time, and a no becomes a yes on a good line."""
    case = cluster_case
    case.fleet.ensure()
    (tenant,) = case.hire(1)
    edge = case.start_edge(kafka_url=case.proxied_url)
    slow, refused = 0.0, 0
    headers = {"Authorization": f"Bearer {tenant.write_key}"}
    with httpx.Client(base_url=edge.url, headers=headers, timeout=10, trust_env=False) as client:

        def click(event_id: str) -> httpx.Response:
            answer = client.post("/track/click", json={"event_id": event_id})
            note = case.note_accepted if answer.status_code == 202 else case.note_unknown
            note(tenant.tenant_id, [event_id])
            return answer

        assert click(str(uuid.uuid4())).status_code == 202
        asked = [str(uuid.uuid4()) for _ in range(6)]
        with case.proxies.broken(SLOW):
            for event_id in asked:
                answer = click(event_id)
                slow = max(slow, answer.elapsed.total_seconds())
                refused += answer.status_code == 503
        case.lifted()
        for event_id in asked:
            poll(lambda one=event_id: click(one).status_code == 202, "a yes on a line that is well", every_s=0.3)
    case.fired = f"slowest answer {slow:.1f} s, {refused} of {len(asked)} refused"
    case.settle()
    assert slow < EDGE_ANSWER_S


LINES = {
    "slow": SLOW,
    "narrow": Fault(bytes_a_second=64 << 10),
    "sliced": Fault(slice_bytes=7),
    "half_open": Fault(half_open=True),
}


@pytest.mark.parametrize("line", short_or_full(LINES, ["slow", "half_open"]))
def test_worker_on_a_bad_line(cluster_case: Case, line: str) -> None:
    """The way to Kafka is slow, narrow, in crumbs or dead one way: the worker waits or joins anew."""
    case = cluster_case
    case.fleet.kill_all()
    worker = case.fleet.start(kafka_url=case.proxied_url)
    case.traffic.burst(200)
    with case.traffic.flowing(EVENTS_A_SECOND / 4):
        with case.proxies.broken(LINES[line]):
            worker.run_for(AWAY_S)
        if line == "half_open":
            case.fired = f"{sum(one.reset_all() for one in case.proxies.all)} lines reset"
        case.lifted()
    case.fired = case.fired or f"{AWAY_S:.0f} s"
    case.settle()
    case.fleet.kill_all()
