"""Secrets and people stay where they belong: canaries in every setting and input are found in no log, metric, trace,
answer, header of a dead letter, or representation, whatever goes wrong.
"""

import base64
from collections.abc import Iterator
from typing import Any

import asyncpg
import httpx
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.credentials import Credential, WebhookSecrets
from app.dlq import PREFIX
from app.lifecycle import EXIT_UNKNOWN_FAILURE
from app.settings import Settings
from tests.security.test_tenants import OPERATIONS
from tests.support.bills import as_owner
from tests.support.canaries import Canaries, sung, written
from tests.support.children import poll
from tests.support.collector import Collector
from tests.support.edge_parts import Parts
from tests.support.edges import Edge
from tests.support.provocations import Provocations
from tests.support.workers import Worker

TOPICS = ("tracking.collected", "gateway.received", "bills.changes")
# A batch of poison alone ends a worker; these few are below the limit at which it looks.
DEAD_LETTERS_MIN = 9


@pytest.fixture(scope="module")
def provoked(parts: Parts, worker: Worker, canaries: Canaries) -> Iterator[Provocations]:
    """Everything that can go wrong has gone wrong."""
    done = Provocations(parts, canaries)
    with_keys = [operation for operation in OPERATIONS if operation.kind]
    for operation in with_keys:
        done.wrong_credentials(operation)
        done.wrong_bodies(operation)
    signed_out = {"Sec-Fetch-Site": "same-origin"}
    done.ask("sign-in", "post", "/app/session", headers=signed_out, data={"key": canaries.new("page-key")})
    done.webhooks()
    done.event_of_a_person()
    done.poison()
    poll(lambda: len(dead_letters(parts)) >= DEAD_LETTERS_MIN, f"dead letters\n{worker.tail()}")
    done.parts_away(with_keys)
    done.statuses.add(-done.dying_worker())
    yield done
    done.close()


def dead_letters(parts: Parts) -> list[Any]:
    return [record for topic in TOPICS for record in parts.records(f"{topic}.dlq")]


def test_everything_went_wrong(provoked: Provocations, worker: Worker) -> None:
    """The errors that the scans below are about have happened."""
    assert {400, 401, 403, 404, 413, 415, 422, 503, -EXIT_UNKNOWN_FAILURE} <= provoked.statuses
    assert 500 not in provoked.statuses
    assert worker.alive, worker.tail()


def test_answers_repeat_nothing(provoked: Provocations, canaries: Canaries) -> None:
    """No answer of the edge holds a secret or a person that the request carried."""
    answers = {name: text for name, text in provoked.said.items() if name.startswith("answer")}
    assert canaries.found_in(answers) == []


def test_processes_that_do_not_start_say_why_and_no_more(provoked: Provocations, canaries: Canaries) -> None:
    """A setting that is wrong ends the process with a text that names the setting and not its value."""
    ended = provoked.wrong_settings()
    assert all(status != 0 for status in ended.values()), ended
    outputs = {name: text for name, text in provoked.said.items() if name.startswith("output")}
    assert all(outputs.values()), "each of them says something"
    assert canaries.found_in(outputs) == []


def test_logs_hold_nothing(provoked: Provocations, canaries: Canaries, parts: Parts) -> None:
    """No log of any process, ours at level DEBUG, Kafka's and Postgres' own, holds a canary."""
    root = parts.home.root
    # A segment of Kafka and the write-ahead log of RocksDB, which are named by numbers, keep records as they came.
    paths = [path for path in root.rglob("*.log") if not path.stem.isdigit()]
    assert {"edge.log", "worker.log", "dying-worker.log", "postgres.log", "clickhouse.log"} <= {p.name for p in paths}
    logs = {str(path.relative_to(root)): path.read_bytes() for path in paths}
    assert all(text for name, text in logs.items() if name.endswith(("edge.log", "worker.log")))
    assert canaries.found_in(logs) == []


def test_metrics_and_traces_hold_nothing(
    provoked: Provocations, canaries: Canaries, parts: Parts, worker: Worker
) -> None:
    """Labels and spans name routes, pipelines and statuses."""
    poll(lambda: Collector.received, "spans were exported")
    assert any(b"edge.webhook" in spans for spans in Collector.received)
    urls = {"edge": parts.edge_url, "worker": f"http://127.0.0.1:{worker.port}"}
    metrics = {
        f"metrics of the {name}": httpx.get(f"{url}/metrics", trust_env=False).content for name, url in urls.items()
    }
    health = {
        f"health of the {name}": httpx.get(f"{url}/health/ready", trust_env=False).content for name, url in urls.items()
    }
    assert canaries.found_in({**metrics, **health, "traces": b"\n".join(Collector.received)}) == []


def test_reasons_of_dead_letters_hold_nothing(provoked: Provocations, canaries: Canaries, parts: Parts) -> None:
    """The DLQ keeps the record as it was, and what is added to it (reason, error, place) names fields and limits."""
    added = {
        f"dead letter {number}": b"\n".join(value for name, value in record.headers() if name.startswith(PREFIX))
        for number, record in enumerate(dead_letters(parts))
    }
    assert len(added) >= DEAD_LETTERS_MIN
    assert canaries.found_in(added) == []


def test_people_are_hashes_behind_the_edge(provoked: Provocations, canaries: Canaries, parts: Parts) -> None:
    """E-mail, phone and what a gateway tells of a buyer are in no row, and those of an event in no record either."""
    events = {
        f"record {number}": record.value() or b""
        for number, record in enumerate(parts.records("tracking.collected"))
        if dict(record.headers() or ()).get("ce_id") == b"of-a-person"
    }
    assert events
    tables = ("tracking_events", "gateway_events")
    rows = {name: parts.clickhouse(f"SELECT * FROM afluente.{name} FORMAT JSONEachRow") for name in tables}
    assert canaries.found_in({**events, **rows}) == []


def test_keys_and_secrets_are_not_stored(provoked: Provocations, canaries: Canaries, parts: Parts) -> None:
    """Postgres holds hashes of keys and sealed secrets: a stolen dump opens nothing."""

    async def dump(connection: "asyncpg.Connection[Any]") -> dict[str, str]:
        names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        query = "SELECT coalesce(string_agg(r::text, E'\\n'), '') FROM {} AS r"
        return {name: await connection.fetchval(query.format(name)) for (name,) in names}

    tables = as_owner(parts, dump)
    assert tables["webhook_secrets"]
    assert canaries.found_in(tables) == []


def test_command_lines_hold_nothing(provoked: Provocations, canaries: Canaries, parts: Parts, worker: Worker) -> None:
    """What every user of the machine can list names no secret."""
    processes = {**parts.processes, "worker": worker.process}
    lines = {name: "\n".join(psutil.Process(one.pid).cmdline()) for name, one in processes.items()}
    assert all(lines.values())
    assert canaries.found_in(lines) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("postgres_url", "postgresql://u:{}@bad host/db"),
        ("postgres_owner_url", "mysql://u:{}@h/db"),
        ("postgres_cdc_url", "{}"),
        ("master_key", "{}"),
        ("cache_url", "memcached://u:{}@h"),
        ("clickhouse_url", "http://u:{}@h:8123"),
        ("kafka_url", "u:{}@h:9092"),
        ("connect_url", "http://u:{}@h:8083"),
        ("otlp_endpoint", "http://u:{}@h:4318"),
    ],
)
def test_a_refused_setting_is_named_and_not_shown(name: str, text: str) -> None:
    """What is wrong is said by name, with what is allowed, and without the secret that is in it."""
    canaries = Canaries()
    with pytest.raises(ValidationError, match=f"(?i){name}") as raised:
        Settings(**{name: text.format(canaries.new(name))})
    assert canaries.found_in({"text": f"{raised.value!s} {raised.value!r}"}) == []


def test_representations_hold_nothing(parts: Parts, canaries: Canaries) -> None:
    """Settings and credentials end up in tracebacks and consoles."""
    secrets = WebhookSecrets((canaries.new("secret-in-memory").encode(),))
    registry = f"http://u:{canaries.new('registry-in-settings')}@registry.example"
    settings = [parts.settings, Settings(schema_registry_url=registry)]
    shown = {str(type(one)): f"{one!r} {one!s} {one:}" for one in (*settings, secrets, Credential("t", "read"))}
    shown["dumped"] = "".join(one.model_dump_json() + repr(one.model_dump()) for one in settings)
    assert canaries.found_in(shown) == []


@given(before=st.binary(max_size=5), after=st.binary(max_size=5), turned=st.integers(0, 3))
def test_the_scanner_finds_what_is_written_in_another_way(before: bytes, after: bytes, turned: int) -> None:
    """As it is, in hex, in Base64 at any alignment, and quoted for a URL."""
    canaries = Canaries()
    value = canaries.new("planted")
    whole = before + value.encode() + after
    ways = (whole, whole.hex().upper().encode(), base64.b64encode(whole), base64.urlsafe_b64encode(whole))
    assert canaries.found_in({"log": b"... " + ways[turned] + b" ..."}) == ["planted in log"]
    assert canaries.found_in({"log": sung("planted")}) == []
    assert all(len(form) > len(value) / 2 for form in written(value))
    assert canaries.new("planted") == value


def test_a_planted_leak_is_found(broken_edge: Edge) -> None:
    """An edge that logs the headers of its requests fails the scan of its log."""
    canaries = Canaries()
    key = canaries.new("key")
    httpx.get(f"{broken_edge.url}/bills", headers={"Authorization": f"Bearer {key}"}, trust_env=False)
    poll(lambda: canaries.found_in({"log": broken_edge.log.read_bytes()}) == ["key in log"], "the scanner finds it")
