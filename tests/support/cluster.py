"""A Kafka cluster of local processes for the fault suite: three brokers that are also the controllers' quorum.

Each broker has a second listener that is advertised at a proxy's port, so that clients of `proxied_url` reach every
broker through a line that a test can break, while the brokers speak to each other directly.
"""

import asyncio
import json
import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from app.settings import Settings
from infra.local import jvm, kafka
from infra.local import topics as declared
from infra.local.ports import free_port
from schemas.topics import TOPICS
from tests.support.children import Child, poll
from tests.support.proxy import Proxies, Proxy

ASK_S = 5.0
FORMAT_S = 60.0
REPLICAS = 3
# Half of what the stack's broker gets: three of them share the machine with everything else.
JVM = tuple("-Xmx256m" if flag.startswith("-Xmx") else flag for flag in kafka.JVM)
OF_A_CLUSTER = {
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT",
    "offsets.topic.replication.factor": str(REPLICAS),
    "transaction.state.log.replication.factor": str(REPLICAS),
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": str(REPLICAS),
    "share.coordinator.state.topic.min.isr": "2",
    "min.insync.replicas": "2",  # of the offsets topic too: a commit that is confirmed is on two brokers
    "replica.lag.time.max.ms": "4000",
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.fetch.timeout.ms": "1000",
}


@dataclass(slots=True)
class Broker:
    """One node. Its ports stay; its process comes and goes."""

    number: int
    folder: Path
    port: int
    controller_port: int
    behind_proxy_port: int
    proxy: Proxy
    child: Child | None = None

    @property
    def alive(self) -> bool:
        return self.child is not None and self.child.alive


class Cluster:
    """Brokers 1 to 3 and their proxies."""

    def __init__(self, home: Path, brokers: int = REPLICAS) -> None:
        self._home = home
        self._id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        self._started = 0
        self.brokers: list[Broker] = []
        for number in range(1, brokers + 1):
            behind = free_port()
            self.brokers.append(
                Broker(number, home / f"broker-{number}", free_port(), free_port(), behind, Proxy(behind, seed=number))
            )
        self.proxies = Proxies(*(one.proxy for one in self.brokers))

    @property
    def url(self) -> str:
        return ",".join(f"127.0.0.1:{one.port}" for one in self.brokers)

    @property
    def proxied_url(self) -> str:
        return ",".join(one.proxy.address for one in self.brokers)

    @cached_property
    def admin(self) -> AdminClient:
        # Kept: futures of one that is gone never end.
        return AdminClient({"bootstrap.servers": self.url})

    def start(self) -> "Cluster":
        """All brokers, then all topics of the project with three replicas each."""
        for broker in self.brokers:
            self.format(broker)
            self.start_broker(broker, wait=False)
        for broker in self.brokers:
            self.await_broker(broker)
        poll(lambda: len(self.describe().brokers) == len(self.brokers), "all brokers know each other")
        settings = Settings(kafka_url=self.url, replication_factor=len(self.brokers))
        changes = declared.plan(TOPICS, declared.read_cluster(self.admin, TOPICS), settings, force=False)
        declared.apply(self.admin, TOPICS, changes, settings)
        for topic in TOPICS:
            self.await_in_sync(topic.name)
        return self

    def format(self, broker: Broker) -> None:
        """An empty log folder; what was in it is gone, as with a new disk."""
        shutil.rmtree(broker.folder, ignore_errors=True)
        broker.folder.mkdir(parents=True)
        own = {
            "node.id": str(broker.number),
            "controller.quorum.voters": ",".join(f"{b.number}@127.0.0.1:{b.controller_port}" for b in self.brokers),
            "listeners": f"PLAINTEXT://127.0.0.1:{broker.port},CONTROLLER://127.0.0.1:{broker.controller_port},"
            f"PROXIED://127.0.0.1:{broker.behind_proxy_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{broker.port},PROXIED://{broker.proxy.address}",
            "log.dirs": str(broker.folder / "log"),
        }
        text = "".join(f"{name}={value}\n" for name, value in {**kafka.PROPERTIES, **OF_A_CLUSTER, **own}.items())
        (broker.folder / "server.properties").write_text(text, encoding="utf-8")
        command = jvm.command(
            "kafka", JVM, "kafka.tools.StorageTool", "format", "-t", self._id, "-c", str(self._properties(broker))
        )
        subprocess.run(command, check=True, capture_output=True, timeout=FORMAT_S)

    def start_broker(self, broker: Broker, *, wait: bool = True) -> None:
        """Its process, on the disk as it is."""
        self._started += 1
        flags = [*JVM, *jvm.start_up_cache("kafka", JVM)]
        command = jvm.command("kafka", flags, "kafka.Kafka", str(self._properties(broker)))
        log = self._home / f"broker-{broker.number}-{self._started}.log"
        broker.child = Child(f"broker-{broker.number}", command, {}, log)
        if wait:
            self.await_broker(broker)

    def await_broker(self, broker: Broker) -> None:
        """Until it answers."""
        poll(lambda: self._answers(broker), f"broker {broker.number} answers")

    def _answers(self, broker: Broker) -> bool:
        assert broker.child is not None
        assert broker.child.alive, broker.child.tail()
        try:
            return asyncio.run(kafka.probe(Settings(kafka_port=broker.port)))
        except (OSError, asyncio.IncompleteReadError):
            return False

    def describe(self) -> Any:
        """Brokers, topics and leaders as the cluster tells them now."""
        return self.admin.list_topics(timeout=ASK_S)

    def leader_of(self, topic: str, partition: int) -> Broker:
        """The broker that leads a partition."""
        found = self.describe().topics[topic].partitions[partition].leader
        return next(one for one in self.brokers if one.number == found)

    def controller(self) -> Broker:
        """The active controller of the quorum."""
        # Clients are told any broker as the controller; each voter writes down which one it follows.
        told = Counter(
            json.loads(path.read_text("utf-8"))["leaderId"]
            for path in (one.folder / "log" / "__cluster_metadata-0" / "quorum-state" for one in self.brokers)
        )
        leader = told.most_common(1)[0][0]
        return next(one for one in self.brokers if one.number == leader)

    def coordinator(self, group: str) -> Broker:
        """The broker that keeps the group's members and commits."""
        found = self.admin.describe_consumer_groups([group])[group].result(ASK_S).coordinator.id
        return next(one for one in self.brokers if one.number == found)

    def await_in_sync(self, topic: str) -> None:
        """Until every replica of a topic has caught up."""

        def in_sync() -> bool:
            try:
                parts = self.describe().topics[topic].partitions.values()
            except (KafkaException, KeyError):  # no leader to ask, or a topic that was made a moment ago
                return False
            return all(len(one.isrs) == len(self.brokers) for one in parts)

        poll(in_sync, f"all replicas of {topic} are in sync", every_s=0.3)

    def mend(self) -> None:
        """Every broker runs."""
        for broker in self.brokers:
            if not broker.alive:
                self.start_broker(broker)

    def kill_all(self) -> None:
        for broker in self.brokers:
            if broker.child is not None and broker.child.alive:
                broker.child.kill()
        self.proxies.close()

    @staticmethod
    def _properties(broker: Broker) -> Path:
        return broker.folder / "server.properties"
