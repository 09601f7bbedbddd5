"""docker-compose.yml and the Dockerfiles: valid by their schemas, hardened, and in step with the code."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
import yaml

from api.draining import LETTING_GO_S
from api.server import DRAIN_S
from app.settings import Settings
from infra.local import connect
from tests.contract import tree

COMPOSE: dict[str, Any] = yaml.safe_load(tree.read("docker-compose.yml"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILES = ("infra/docker/Dockerfile", "infra/docker/connect.Dockerfile")
OWN_IMAGE = re.compile(r"afluente-\w+:\d+\.\d+\.\d+")
ONE_SHOT = {"admin", "migrate", "topics", "cdc-apply"}
# Why each may write to its root file system stands beside it in docker-compose.yml.
WRITABLE = {"kafka-1", "kafka-2", "kafka-3", "connect", "clickhouse"}


def broken(service: dict[str, Any]) -> list[str]:
    """The rules a service does not keep."""
    rules = {
        "has a pinned image": re.fullmatch(r"[\w./-]+:v?\d+(\.\d+){1,3}", service.get("image", "")),
        "drops every capability": service.get("cap_drop") == ["ALL"],
        "gains no privileges": "no-new-privileges:true" in service.get("security_opt", []),
        "has a memory limit": service.get("mem_limit"),
        "has a CPU limit": service.get("cpus"),
        "bounds its logs": service.get("logging", {}).get("options", {}).get("max-size"),
        "publishes on loopback only": all(str(p).startswith("127.0.0.1:") for p in service.get("ports", [])),
        "is not privileged": not service.get("privileged"),
        "leaves the host's sockets alone": not any("docker.sock" in str(v) for v in service.get("volumes", [])),
    }
    return [rule for rule, kept in rules.items() if not kept]


def test_the_file_is_valid_by_the_compose_specification() -> None:
    """`docker compose` accepts the file: it follows the published schema, with nothing unknown in it."""
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.Draft7Validator(json.loads(schema.read_text())).validate(COMPOSE)


def test_docker_itself_accepts_the_file_where_it_is_installed(tmp_path: Path) -> None:
    """Where docker compose is at hand its own parser has the last word; elsewhere the schema above has it."""
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        return
    env = tmp_path / "env"
    text = tree.read(".env.example")
    env.write_text(re.sub(r"(?m)^(\w*(?:PASSWORD|MASTER_KEY|CLUSTER_ID))=$", r"\1=x", text))
    command = [
        docker,
        "compose",
        "--env-file",
        str(env),
        "--profile",
        "cdc",
        "config",
        "--quiet",
        "--no-env-resolution",
    ]
    done = subprocess.run(command, cwd=tree.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_hardened(name: str) -> None:
    """Nothing runs with more rights, memory or reach than it needs."""
    assert broken(SERVICES[name]) == []


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("has a pinned image", {"image": "postgres:latest"}),
        ("has a pinned image", {"image": "postgres"}),
        ("drops every capability", {"cap_drop": []}),
        ("gains no privileges", {"security_opt": []}),
        ("has a memory limit", {"mem_limit": None}),
        ("has a CPU limit", {"cpus": None}),
        ("bounds its logs", {"logging": {}}),
        ("publishes on loopback only", {"ports": ["8123:8123"]}),
        ("is not privileged", {"privileged": True}),
        ("leaves the host's sockets alone", {"volumes": ["/var/run/docker.sock:/var/run/docker.sock"]}),
    ],
)
def test_each_hardening_rule_sees_its_planted_fault(rule: str, change: dict[str, Any]) -> None:
    """A check that cannot fail protects nothing."""
    assert broken(SERVICES["postgres"] | change) == [rule]


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_runs_without_root_and_read_only_where_it_can(name: str) -> None:
    """A process that is taken over owns neither the host nor its own program."""
    service = SERVICES[name]
    if not OWN_IMAGE.fullmatch(service["image"]):
        assert str(service["user"]).split(":")[0].isdigit()
        assert not str(service["user"]).startswith("0")
    assert service.get("read_only", False) is (name not in WRITABLE)


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONE_SHOT))
def test_each_lasting_service_says_when_it_is_well(name: str) -> None:
    """What runs on has a health check and comes back by itself."""
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_the_parts_of_the_product_are_all_there() -> None:
    """Three brokers, two workers, and everything around them start from one file; CDC by its profile."""
    expected = {"kafka-1", "kafka-2", "kafka-3", "connect", "postgres", "clickhouse", "edge", "worker-0", "worker-1"}
    capture = {"connect", "cdc-apply", "cdc-watch", "reconcile"}
    assert expected | capture | {"migrate", "topics", "admin", "prometheus", "grafana"} == set(SERVICES)
    assert all(SERVICES[name]["profiles"] == ["cdc"] for name in capture)


def connector() -> dict[str, str]:
    """The settings file of the bills connector."""
    settings: dict[str, str] = json.loads(tree.read("infra/debezium/bills.json"))["config"]
    return settings


def test_the_connector_names_only_secrets_that_connect_is_given() -> None:
    """Whatever infra/debezium names as a secret is in Connect's environment, in compose, Kubernetes and embedded."""
    named = set(re.findall(r"\$\{env:(\w+)\}", tree.read("infra/debezium/bills.json")))
    assert named
    assert named == set(SERVICES["connect"]["environment"]) - {"KAFKA_HEAP_OPTS"}
    assert named == set(connect.secrets(Settings(postgres_cdc_url="postgresql://u:p@h:1/d")))  # type: ignore[arg-type]
    assert named == set(re.findall(r"CONNECT_SECRET_\w+(?=: )", tree.read("infra/k8s/11-secret.example.yaml")))
    allowed = connect.read_properties(connect.PRODUCTION)["config.providers.env.param.allowlist.pattern"]
    assert all(re.fullmatch(allowed, name) for name in named)
    assert SERVICES["connect"]["environment"]["CONNECT_SECRET_POSTGRES_USER"] == "afluente_cdc"


def test_the_connector_captures_what_the_migration_publishes() -> None:
    """Publication, slot and tables are the same in the settings and in the SQL, and nothing makes its own."""
    published = re.search(r"CREATE PUBLICATION (\w+) FOR TABLE ([\w, ]+);", tree.read("schemas/postgres/0005_cdc.sql"))
    assert published
    found = connector()
    assert found["publication.name"] == published[1]
    tables = {f"public.{table}" for table in published[2].split(", ")}
    assert tables == {*found["table.include.list"].split(","), found["signal.data.collection"]}
    assert found["publication.autocreate.mode"] == "disabled"
    pattern = found["predicates.changes.pattern"]
    assert all(re.fullmatch(pattern, f"{found['topic.prefix']}.{t}") for t in found["table.include.list"].split(","))
    assert not re.fullmatch(pattern, f"{found['topic.prefix']}.{found['signal.data.collection']}")


def test_the_embedded_connect_differs_where_it_says_so() -> None:
    """One settings file for both: what one node changes is a setting of the file, or explained beside it."""
    shared = connect.read_properties(connect.PRODUCTION)
    own = connect.properties(Settings())
    changed = {name for name in own if own[name] != shared.get(name)}
    places = {"bootstrap.servers", "listeners", "rest.advertised.host.name", "rest.advertised.port"}
    assert changed == set(connect.ONE_NODE) | places
    assert set(shared) - set(own) == connect.NOT_HERE


def test_debezium_is_one_version_everywhere() -> None:
    """What the tests ran on is what the image is built from."""
    embedded = re.findall(r"debezium-connector-postgres:([\w.]+)", tree.read("infra/local/jars.toml"))
    assert embedded == re.findall(r"<version>([\w.]+\.Final)</version>", tree.read("infra/kafka/pom.xml"))


def test_settings_in_the_file_are_settings_of_the_code() -> None:
    """A setting renamed in the code is renamed here, or a container silently runs on a default."""
    known = {f"AFLUENTE_{name.upper()}" for name in Settings.model_fields}
    used = set(re.findall(r"AFLUENTE_[A-Z_]+", tree.read("docker-compose.yml") + tree.read(DOCKERFILES[0])))
    assert used <= known


def test_workers_are_told_apart_and_given_time_to_drain() -> None:
    """Each worker is its own static member with its own state, and is not killed while it finishes a batch."""
    workers = [service for name, service in SERVICES.items() if name.startswith("worker-")]
    assert len({worker["environment"]["AFLUENTE_WORKER_ID"] for worker in workers}) == len(workers)
    assert len({str(worker["volumes"]) for worker in workers}) == len(workers)
    drain_s = Settings.model_fields["drain_timeout_s"].default
    assert all(int(worker["stop_grace_period"].removesuffix("s")) > drain_s for worker in workers)


def test_an_edge_is_given_time_to_leave_its_balancer() -> None:
    """It is not killed before it has told, let go of its connections and answered."""
    needed_s = Settings.model_fields["edge_drain_s"].default + LETTING_GO_S + DRAIN_S
    assert int(SERVICES["edge"]["stop_grace_period"].removesuffix("s")) > needed_s


def test_only_what_serves_nobody_is_the_owner_of_the_tables() -> None:
    """Row-level security holds for the edge because its role owns nothing; the comparison crosses tenants by nature."""
    owners = {n for n, s in SERVICES.items() if "AFLUENTE_POSTGRES_OWNER_URL" in s.get("environment", {})}
    assert owners == {"migrate", "reconcile"}
    assert SERVICES["edge"]["environment"]["AFLUENTE_POSTGRES_URL"].startswith("postgresql://afluente:")
    # Made by the image as a superuser, for whom row-level security does not hold at all.
    assert SERVICES["postgres"]["environment"]["POSTGRES_USER"] == "postgres"


def test_nothing_secret_stands_in_the_file() -> None:
    """Every password comes from .env, which is not part of the repository."""
    for name, value in re.findall(r"(\w*(?:PASSWORD|MASTER_KEY|SECRET)\w*): (.+)", tree.read("docker-compose.yml")):
        if name.endswith(("_HOST", "_PORT", "_DATABASE", "_USER")):
            continue  # Connect gets the whole address under names of secrets
        assert value.startswith(("${", '""')), name
    assert ".env" in tree.read(".gitignore").split()


def test_every_mounted_file_exists() -> None:
    """A bind mount of a missing file makes Docker create a folder of that name instead."""
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = str(volume).split(":")[0]
            assert not source.startswith(".") or (tree.ROOT / source).exists(), source


@pytest.mark.parametrize("path", DOCKERFILES)
def test_dockerfiles_are_clean_by_hadolint(path: str) -> None:
    """Multi-stage, pinned, without root: what the linter of Dockerfiles knows is kept."""
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, "--no-color", path], cwd=tree.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES)
def test_dockerfiles_copy_only_what_exists_and_is_let_in(path: str) -> None:
    """Every COPY finds its file, and .dockerignore, a list of what is let in, lets it in."""
    allowed = {line[1:] for line in tree.read(".dockerignore").splitlines() if line.startswith("!")}
    for source in re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", tree.read(path)):
        for name in source.split():
            assert (tree.ROOT / name).exists(), name
            assert any(name == entry or name.startswith(f"{entry}/") for entry in allowed), name


def test_dockerfiles_end_as_an_unprivileged_user() -> None:
    """No target runs as root, whoever starts it and however."""
    for path in DOCKERFILES:
        users = re.findall(r"(?m)^USER (\S+)$", tree.read(path))
        assert users
        assert all(not user.startswith(("0", "root")) for user in users)


def test_brokers_keep_what_the_guarantees_rest_on() -> None:
    """Three copies, two before an answer, no unclean election, no topic by accident, room for the pending range."""
    lines = [line for line in tree.read("infra/kafka/server.properties").splitlines() if "=" in line]
    kept = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert (kept["default.replication.factor"], kept["min.insync.replicas"]) == ("3", "2")
    assert kept["unclean.leader.election.enable"] == kept["auto.create.topics.enable"] == "false"
    assert int(kept["offset.metadata.max.bytes"]) >= 4096


def test_the_embedded_kafka_is_the_one_of_the_images() -> None:
    """What the tests ran on is what is deployed: one version of Kafka in the jars and the images."""
    embedded = set(re.findall(r"org\.apache\.kafka:[\w.-]+:([\d.]+)", tree.read("infra/local/jars.toml")))
    images = {SERVICES[name]["image"].split(":")[1] for name in SERVICES if name.startswith("kafka-")}
    images |= set(re.findall(r"(?m)^FROM apache/kafka:([\d.]+)", tree.read("infra/docker/connect.Dockerfile")))
    assert embedded == images


def test_clickhouse_and_maven_files_are_well_formed() -> None:
    """ClickHouse starts with its settings, and never inserts asynchronously."""
    for path in tree.files():
        if path.startswith("infra/") and path.endswith(".xml"):
            ET.fromstring(tree.read(path))
    users = ET.fromstring(tree.read("infra/clickhouse/users.d/afluente.xml"))
    assert users.findtext("profiles/default/async_insert") == "0"
    assert users.findtext("profiles/default/insert_deduplicate") == "1"


def of_the_embedded_stack() -> set[str]:
    """Import names of what requirements-local.in adds: the images do not have it."""
    named = {
        re.split(r"[\[=<>~ ]", line)[0].lower()
        for line in tree.read("requirements-local.in").splitlines()
        if line and line[0] not in "#-"
    }
    return {
        module
        for module, distributions in packages_distributions().items()
        if named & {distribution.lower().replace("_", "-") for distribution in distributions}
    }


@pytest.mark.parametrize("entry", ["api.main", "agents.worker", "infra.local.cli"])
def test_each_image_starts_with_the_production_requirements_alone(entry: str) -> None:
    """Edge, worker and command line are imported without the embedded stack's packages, as in their images."""
    blocked = of_the_embedded_stack()
    assert {"chdb", "jgo"} <= blocked
    program = (
        "import base64, os, sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(blocked)!r}))\n"
        "os.environ['AFLUENTE_MASTER_KEY'] = base64.b64encode(bytes(32)).decode()\n"
        f"import {entry}\n"
    )
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tree.ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tree.ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
