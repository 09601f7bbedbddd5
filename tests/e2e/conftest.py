"""One whole stack for the end-to-end tests, with a tenant, and a receiver of the traces it exports."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from infra.local.home import ROOT
from infra.local.ports import free_port
from infra.local.stack import Stack

PORTS = ("EDGE", "KAFKA", "POSTGRES", "CLICKHOUSE", "WORKER")


class Traces:
    """An OTLP/HTTP receiver: keeps (trace id, span name) of every span it gets."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str]] = []
        spans = self.spans

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest()
                request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend((span.trace_id.hex(), span.name) for span in scope.spans)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Requests are not news."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture(scope="session")
def traces() -> Iterator[Traces]:
    receiver = Traces()
    yield receiver
    receiver.close()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, traces: Traces) -> Iterator[Stack]:
    environ = {f"AFLUENTE_{name}_PORT": str(free_port()) for name in PORTS}
    environ["AFLUENTE_OTLP_ENDPOINT"] = traces.url
    made = Stack(Path(tmp_path_factory.mktemp("e2e")) / "home", environ)
    made.up()
    yield made
    made.down()


class Cli:
    """`./afluente` as a user runs it against the stack."""

    def __init__(self, stack: Stack) -> None:
        self._environ = stack.environ

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "infra.local.cli", *arguments]
        return subprocess.run(
            command, env=self._environ, cwd=ROOT, input=given, capture_output=True, text=True, timeout=240, check=False
        )

    def json(self, *arguments: str, given: str = "") -> Any:
        done = self.run(*arguments, "--json", given=given)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def cli(stack: Stack) -> Cli:
    return Cli(stack)


@pytest.fixture(scope="session")
def tenant(cli: Cli) -> dict[str, str]:
    created: dict[str, str] = cli.json("tenant", "create", "e2e")
    return created
