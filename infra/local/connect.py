"""Kafka Connect with Debezium, embedded: production's settings file with the changes that one node needs.

Between Postgres and the topic bills.changes. Started only when asked: `./afluente up --cdc`.
"""

from pathlib import Path

from pydantic import PostgresDsn

from app.settings import Settings
from infra.local import jvm
from infra.local.home import ROOT, Home
from infra.local.launch import Launch

LOG_CONFIG = Path(__file__).with_name("kafka-log4j2.xml")
PRODUCTION = ROOT / "infra" / "kafka" / "connect-distributed.properties"
JVM = (
    "-Xms48m",
    "-Xmx256m",  # Debezium's queue is bounded to 64 MiB, the producer's buffer to 32 MiB
    "-XX:+UseSerialGC",  # as Kafka's
    "-XX:MaxDirectMemorySize=64m",
    "-XX:ReservedCodeCacheSize=48m",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "-XX:+UnlockDiagnosticVMOptions",
    "-XX:-AOTAdapterCaching",
    f"-Dlog4j2.configurationFile={LOG_CONFIG}",
)
# What differs on one node. One line of reason each.
ONE_NODE = {
    "config.storage.replication.factor": "1",
    "offset.storage.replication.factor": "1",
    "status.storage.replication.factor": "1",
    "offset.storage.partitions": "1",  # one connector: files and threads for nothing
    "scheduled.rebalance.max.delay.ms": "0",  # nobody else could take the task over
    "session.timeout.ms": "6000",  # after a kill -9 the worker waits for its former self; the broker's least
    "heartbeat.interval.ms": "2000",
}
NOT_HERE = frozenset({"plugin.path"})  # Debezium is on the class path: see jars.toml
SECRETS = {"HOST": "host", "PORT": "port", "USER": "username", "PASSWORD": "password"}  # nosec B105 # their names


def read_properties(path: Path) -> dict[str, str]:
    """A Java properties file of the plain kind: `name=value`, comments, empty lines."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value for name, _, value in pairs}


def properties(settings: Settings) -> dict[str, str]:
    """Production's settings as one node on this machine needs them."""
    shared = {name: value for name, value in read_properties(PRODUCTION).items() if name not in NOT_HERE}
    return {
        **shared,
        **ONE_NODE,
        "bootstrap.servers": settings.kafka_url,
        "listeners": f"http://127.0.0.1:{settings.connect_port}",
        "rest.advertised.host.name": "127.0.0.1",
        "rest.advertised.port": str(settings.connect_port),
    }


def secrets(settings: Settings) -> dict[str, str]:
    """What infra/debezium/*.json names as ${env:CONNECT_SECRET_...}: where Postgres is, and who asks."""
    url = PostgresDsn(settings.postgres_cdc_url.get_secret_value())
    place = url.hosts()[0]
    values = {f"CONNECT_SECRET_POSTGRES_{name}": str(place.get(part) or "") for name, part in SECRETS.items()}
    return {**values, "CONNECT_SECRET_POSTGRES_DATABASE": (url.path or "/afluente").removeprefix("/")}


def _file(home: Home) -> Path:
    return home.root / "connect" / "connect.properties"


def prepare(home: Home, settings: Settings) -> None:
    """Writes the settings of this start."""
    _file(home).parent.mkdir(mode=0o700, exist_ok=True)
    text = "".join(f"{name}={value}\n" for name, value in properties(settings).items())
    _file(home).write_text(text, encoding="utf-8")


def launch(home: Home, settings: Settings) -> Launch:
    """The Connect worker. Secrets travel in its environment, not in a file or a command line."""
    flags = [*JVM, *jvm.start_up_cache("connect", JVM)]
    main = "org.apache.kafka.connect.cli.ConnectDistributed"
    return Launch(jvm.command("connect", flags, main, str(_file(home))), secrets(settings))
