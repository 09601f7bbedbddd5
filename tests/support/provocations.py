"""Errors of every kind with canaries in whatever carries a secret or a person: bad keys and bodies, parts that are
away, poison, settings that are wrong. What the processes then say is for the scanner.
"""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from confluent_kafka import Producer

from app.codec import PREFIX_BYTES, Codec
from infra.local.home import ROOT
from infra.local.ports import free_port
from schemas import envelope
from tests.support.belongings import KEY_OF, hired
from tests.support.canaries import Canaries
from tests.support.edge_parts import Parts
from tests.support.foreign import ANSWER_S, Operation
from tests.support.workers import DEFAULTS, MODULE, Worker

STARTS_AT_ONCE = 3
START_S = 40.0
KEY_CHARACTERS = 43
HUGE = 40_000  # times a short text: above every limit of a body
PURCHASE = ROOT / "tests/fixtures/webhooks/hotmart/purchase.json"
EDGE = [sys.executable, "-m", "api.main"]
FAUST = [str(Path(sys.executable).with_name("faust")), "-A", MODULE, "worker", "-l", "info"]
COMMAND = [sys.executable, "-m", "infra.local.cli"]


class Provocations:
    """Sends, breaks and starts things, and keeps every answer and every output."""

    def __init__(self, parts: Parts, canaries: Canaries) -> None:
        self.parts = parts
        self.canaries = canaries
        self.webhook_secret = canaries.new("webhook-secret")
        self.tenant = hired(parts, {"hotmart": self.webhook_secret})
        for kind in KEY_OF.values():
            canaries.add(f"the tenant's {kind}", self.tenant[kind])
        self.said: dict[str, bytes] = {}
        self.statuses: set[int] = set()
        self._client = httpx.Client(base_url=parts.edge_url, timeout=ANSWER_S, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def ask(self, what: str, method: str, path: str, **given: Any) -> int:
        """One request; its whole answer is kept."""
        answer = self._client.request(method, path, **given)
        self.statuses.add(answer.status_code)
        headers = b"\n".join(name + b": " + value for name, value in answer.headers.raw)
        self.said[f"answer {len(self.said)} to {what}"] = headers + b"\n\n" + answer.content
        return answer.status_code

    def wrong_credentials(self, operation: Operation) -> None:
        """Keys that are none, in every place that a key may be, and one of another kind."""
        path = operation.path.format(bill_id="x", occurrence_id="x", gateway="hotmart")
        basic = base64.b64encode(f"user:{self.canaries.new('basic')}".encode()).decode()
        shaped = {
            kind: prefix + self._key(kind) for kind, prefix in (("write", "afw_"), ("read", "afr_"), ("app", "afa_"))
        }
        for headers, query in (
            ({"Authorization": f"Bearer {shaped['app']}"}, {}),
            ({"Authorization": f"Basic {basic}"}, {}),
            ({"X-Write-Key": shaped["write"], "X-App-Key": shaped["app"], "X-Read-Key": shaped["read"]}, {}),
            ({"Cookie": f"afluente={self.canaries.new('cookie')}"}, {"k": shaped["write"], "key": shaped["write"]}),
            ({"Authorization": f"Bearer {self.tenant['read_key' if operation.kind != 'read' else 'app_key']}"}, {}),
        ):
            self.ask(operation.name, operation.method, path, headers=headers, params=query, content=b"{}")

    def _key(self, kind: str) -> str:
        return self.canaries.new(f"{kind}-key").ljust(KEY_CHARACTERS, "x")[:KEY_CHARACTERS]

    def wrong_bodies(self, operation: Operation) -> None:
        """Right keys, and people in bodies that cannot be read or taken, in parameters and in paths."""
        key = KEY_OF[operation.kind]
        person = self.canaries.new("person")
        path = operation.path.format(bill_id=person, occurrence_id=person, gateway="hotmart")
        headers = {"Authorization": f"Bearer {self.tenant[key]}"}
        names = [name for where, name in operation.places if where == "query"]
        self.ask(operation.name, operation.method, path, headers=headers, params=dict.fromkeys(names, person))
        if not operation.has_body:
            return
        fields = {name: [person] for where, name in operation.places if where == "body"}
        for content, more in (
            (f'{{"email": "{person}", '.encode(), {}),
            (json.dumps({"email": [person], "phone": person, "value": person}).encode(), {}),
            (json.dumps(fields).encode(), {}),
            (json.dumps([{"email": person, "event_id": f" {person} "}]).encode(), {"Content-Type": "text/plain"}),
            (person.encode(), {"Content-Encoding": "gzip"}),
            (person.encode("utf-16"), {"Idempotency-Key": f"{person}é".encode("latin-1")}),
            (person.encode(), {"Content-Encoding": person[:8]}),
            (f'"{person}"'.encode() * (HUGE if operation.path == "/track/batch" else 1), {}),
        ):
            self.ask(operation.name, operation.method, path, headers={**headers, **more}, content=content)

    def webhooks(self) -> None:
        """Sales that are proved and cannot be normalised, and one that is not proved."""
        secret = self.webhook_secret
        url, people = "/webhooks/hotmart", self.people()
        whole = json.loads(PURCHASE.read_text("utf-8"))
        whole["data"]["buyer"] |= people
        broken = [
            {**whole, "event": people["name"]},
            {**whole, "data": {**whole["data"], "purchase": people["document"]}},
        ]
        broken.append({**whole, "data": {**whole["data"], "buyer": people["email"]}})
        price = {**whole["data"]["purchase"], "price": {"value": people["phone"], "currency_value": people["name"]}}
        broken.append({**whole, "data": {**whole["data"], "purchase": price}})
        query = {"key": self.tenant["write_key"]}
        for number, body in enumerate([whole, *broken]):
            content = json.dumps({**body, "id": f"provoked-{number}"}).encode()
            status = self.ask(url, "post", url, params=query, headers={"X-HOTMART-HOTTOK": secret}, content=content)
            assert status == 200, self.said.popitem()
        for wrong in (self.canaries.new("hottok"), ""):
            self.ask(url, "post", url, params=query, headers={"X-HOTMART-HOTTOK": wrong}, content=json.dumps(whole))
        self.ask(url, "post", url, params=query, headers={"X-HOTMART-HOTTOK": secret}, content=f"{people['email']}{{")

    def people(self) -> dict[str, str]:
        """A person, in the fields of a gateway."""
        made = {name: self.canaries.new(f"buyer-{name}") for name in ("name", "document", "phone")}
        return {**made, "email": f"{self.canaries.new('buyer-email')}@example.com"}

    def event_of_a_person(self) -> str:
        """An event with an e-mail and a phone number, accepted. Its id."""
        phone = self.canaries.add("phone", "+5511987123456")
        sent = {"event_id": "of-a-person", "email": f"{self.canaries.new('email')}@example.com", "phone": phone}
        headers = {"X-Write-Key": self.tenant["write_key"]}
        assert self.ask("a person", "post", "/track/click", headers=headers, json=sent) == 202
        return sent["event_id"]

    def poison(self) -> int:
        """Records that no edge would write, into each topic. How many."""
        producer = Producer({"bootstrap.servers": self.parts.settings.kafka_url})
        tenant, person = self.tenant["tenant_id"], self.canaries.new("poison")
        schema = Codec.load().schema("tracking-event")
        event = {"tenant_id": tenant, "event_id": "p", "event_type": "click", "occurred_at": 1, "received_at": 1}
        value = schema.encode({**event, "session_id": person, "url": person})
        headers = envelope.headers("p", tenant, "click", schema.name)
        of_other = [(name, person.encode() if name == envelope.HEADER_TENANT else text) for name, text in headers]
        cut = value[: PREFIX_BYTES + 37] + person.encode() + b"\xff" * 40
        change = json.dumps(
            {"op": person, "source": {"table": person, "sequence": person}, "after": {"user_id": person}}
        )
        sent = [
            ("tracking.collected", cut, headers), ("tracking.collected", person.encode(), headers),
            ("tracking.collected", value, of_other), ("tracking.collected", value, []),
            ("gateway.received", person.encode(), headers), ("bills.changes", f"{{{person}".encode(), []),
            ("bills.changes", change.encode(), []),
        ]  # fmt: skip
        for topic, content, found in sent:
            producer.produce(topic, content, tenant.encode(), headers=found)
        assert producer.flush(ANSWER_S) == 0
        return len(sent)

    def parts_away(self, operations: list[Operation]) -> None:
        """Requests with right and wrong keys while each part is away in turn."""
        self._questions(operations, "all is well")
        self.parts.stop("postgres", signal.SIGINT)
        self._questions(operations, "postgres away")
        self.parts.start_postgres(migrate=False)
        self.parts.stop("clickhouse", signal.SIGKILL)
        self._questions([one for one in operations if one.kind == "read" or "analytics" in one.path], "clickhouse away")
        self.parts.start_clickhouse()
        kafka = self.parts.processes["kafka"]
        kafka.send_signal(signal.SIGSTOP)
        try:
            headers = {"X-Write-Key": self.tenant["write_key"]}
            sent = {
                "event_id": "unconfirmed",
                "email": f"{self.canaries.new('waiting')}@example.com",
            }
            assert self.ask("kafka away", "post", "/track/click", headers=headers, json=sent) == 503
        finally:
            kafka.send_signal(signal.SIGCONT)
        self.parts.wait_ready()

    def _questions(self, operations: list[Operation], what: str) -> None:
        for operation in operations:
            if operation.kind:
                key = self.tenant[KEY_OF[operation.kind]]
                person = self.canaries.new("person")
                path = operation.path.format(bill_id=person, occurrence_id=person, gateway="hotmart")
                body = json.dumps({"email": f"{person}@example.com"}).encode()
                self.ask(what, operation.method, path, headers={"Authorization": f"Bearer {key}"}, content=body)

    def wrong_settings(self) -> dict[str, int]:
        """Processes that cannot start, or cannot go on, with a secret in what is wrong. Their exit statuses by name."""
        new = self.canaries.new
        nowhere = f"127.0.0.1:{free_port()}"
        wrong_host = {"AFLUENTE_POSTGRES_URL": f"postgresql://u:{new('pg-password')}@bad host/db"}
        registry = {"AFLUENTE_SCHEMA_REGISTRY_URL": f"http://u:{new('registry-password')}@{nowhere}"}
        clickhouse = {"AFLUENTE_CLICKHOUSE_URL": f"http://u:{new('clickhouse-url')}@{nowhere}"}
        unreachable = {"AFLUENTE_POSTGRES_URL": f"postgresql://afluente:{new('pg-unreachable')}@{nowhere}/afluente"}
        starts = [
            ("edge: postgres host", EDGE, wrong_host),
            ("edge: registry", EDGE, registry),
            ("worker: clickhouse", FAUST, clickhouse),
            ("afluente: master key", [*COMMAND, "bills", "overdue"], {"AFLUENTE_MASTER_KEY": new("weak-master-key")}),
            ("afluente: unreachable", [*COMMAND, "bills", "overdue"], unreachable),
            (
                "afluente: denied",
                [*COMMAND, "tenant", "list"],
                {"AFLUENTE_POSTGRES_URL": self._denied(new("pg-denied"))},
            ),
        ]
        with ThreadPoolExecutor(STARTS_AT_ONCE) as pool:
            done = list(pool.map(lambda start: self._started(*start), starts))
        return dict(done)

    def _denied(self, password: str) -> str:
        return f"postgresql://afluente:{password}@127.0.0.1:{self.parts.settings.postgres_port}/afluente"

    def _started(self, name: str, argv: list[str], environ: Mapping[str, str]) -> tuple[str, int]:
        free = {"AFLUENTE_EDGE_PORT": str(free_port()), "AFLUENTE_WORKER_PORT": str(free_port())}
        done = subprocess.run(
            argv, cwd=ROOT, env={**os.environ, **self.parts.environ, **free, **environ}, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=START_S, check=False,
        )  # fmt: skip
        self.said[f"output of {name}"] = done.stdout + done.stderr
        return name, done.returncode

    def dying_worker(self) -> int:
        """A worker whose password ClickHouse refuses. Its exit status."""
        environ = {
            **os.environ, **self.parts.environ, **DEFAULTS, "AFLUENTE_WORKER_PORT": str(free_port()),
            "AFLUENTE_GROUP_ID": "dying", "AFLUENTE_WORKER_ID": "dying", "AFLUENTE_LINGER_MS": "0",
            "AFLUENTE_CLICKHOUSE_PASSWORD": self.canaries.new("wrong-clickhouse-password"),
        }  # fmt: skip
        worker = Worker("dying", environ, self.parts.home.root / "dying-worker.log", MODULE)
        try:
            return worker.await_exit()
        finally:
            if worker.alive:
                worker.kill()
