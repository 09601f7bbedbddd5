"""The ClickHouse of the embedded stack as a child process, for tests that talk to it and kill it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from app.settings import Settings
from infra.local.home import ROOT
from infra.local.ports import free_port
from tests.support.edge_parts import wait_for

PASSWORD = "not a secret ' \\ é"  # characters that a careless client or server gets wrong
STOP_S = 30.0
KEY = {"X-ClickHouse-Key": "not a secret ' \\ é".encode()}


class ClickHouseServer:
    """One server on one home; the same port over all its lives."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.environ = {
            "AFLUENTE_HOME": str(home),
            "AFLUENTE_CLICKHOUSE_PORT": str(self.port),
            "AFLUENTE_CLICKHOUSE_PASSWORD": PASSWORD,
        }
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, headers=KEY, timeout=60)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> Settings:
        """What a client of this server reads."""
        return Settings(home=self.home, clickhouse_port=self.port, clickhouse_password=PASSWORD)

    def start(self) -> "ClickHouseServer":
        """Start and wait until it answers."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "clickhouse.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "infra.local.clickhouse"],
                cwd=ROOT,
                env={**os.environ, **self.environ},
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        wait_for(self.is_alive, "ClickHouse answers")
        return self

    def is_alive(self) -> bool:
        """Ask /ping; a server that ended instead of answering fails the test with its log."""
        assert self.process is not None
        assert self.process.poll() is None, (self.home / "clickhouse.log").read_text()
        return httpx.get(f"{self.url}/ping").text == "Ok.\n"

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it and give its exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        try:
            return self.process.wait(STOP_S)
        finally:
            self.process.kill()
            self.process = None

    def post(self, sql: str, rows: bytes = b"", **parameters: str) -> httpx.Response:
        """A statement in the URL with its rows in the body, as a worker inserts."""
        return self.http.post("/", params={"query": sql, **parameters}, content=rows)

    def query(self, sql: str, **parameters: str) -> str:
        """A statement in the body; it has to succeed."""
        answer = self.http.post("/", params=parameters, content=sql.encode())
        assert answer.status_code == 200, answer.text
        return answer.text.rstrip("\n")

    def insert(self, sql: str, rows: bytes, **parameters: str) -> httpx.Response:
        """An insert that has to succeed."""
        answer = self.post(sql, rows, **parameters)
        assert answer.status_code == 200, answer.text
        return answer
