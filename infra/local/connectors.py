"""Kafka Connect over its REST interface: one connector's settings, state, offsets, and the orders it takes."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

import httpx

from infra.local.faults import Fault

REQUEST_TIMEOUT_S: Final = 30.0  # a validation connects to Postgres; an order may wait for a rebalance
REBALANCE_TIMEOUT_S: Final = 60.0  # Connect answers 409 while its workers agree on who does what
POLL_S: Final = 0.25
LOOK_TIMEOUT_S: Final = 4.0  # a look at the state: who waits longer for it has its answer
TRACE_CHARS_MAX: Final = 600  # of a failed task's trace: its first lines name the cause
# Debezium prints its resolved settings into some of its exceptions, the password among them.
SECRET: Final = re.compile(r"((?:password|secret|token|key)[\w.]*\s*[=:]\s*)[^\s,}\]]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a connector. `trace` begins with the cause when it has failed."""

    number: int
    state: str
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Connector:
    """A connector as Connect sees it: RUNNING, PAUSED, STOPPED, FAILED or UNASSIGNED, and the same for its tasks."""

    state: str
    tasks: tuple[Task, ...]
    trace: str = ""

    @property
    def runs(self) -> bool:
        return self.state == "RUNNING" and bool(self.tasks) and all(task.state == "RUNNING" for task in self.tasks)

    @property
    def failure(self) -> str:
        """Why it has failed; empty when it has not."""
        traces = [task.trace or task.state for task in self.tasks if task.state == "FAILED"]
        return traces[0] if traces else self.trace if self.state == "FAILED" else ""


class ConnectAway(Fault):
    """Connect does not answer."""


class Connectors:
    """One Connect cluster. Every call says in a sentence what was refused."""

    def __init__(self, url: str, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.AsyncClient(base_url=self._url, timeout=timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def faults(self, config: Mapping[str, str]) -> list[str]:
        """What Connect and Debezium find wrong with these settings, as `setting: why`. Connects to the database."""
        kind = config["connector.class"].rsplit(".", 1)[-1]
        answer = await self._ask("PUT", f"/connector-plugins/{kind}/config/validate", {**config, "name": kind})
        checks = [check["value"] for check in answer["configs"]]
        return [f"{check['name']}: {error}" for check in checks for error in check["errors"]]

    async def config(self, name: str) -> dict[str, str]:
        """Its settings; none when there is no such connector."""
        return dict(await self._ask("GET", f"/connectors/{name}/config", missing={}))

    async def put(self, name: str, config: Mapping[str, str]) -> bool:
        """Makes or changes a connector. Says whether that changed anything."""
        if await self.config(name) == {**config, "name": name}:
            return False
        await self._ask("PUT", f"/connectors/{name}/config", config)
        return True

    async def state(self, name: str) -> Connector | None:
        """How it does; None when there is no such connector."""
        answer = await self._ask("GET", f"/connectors/{name}/status", missing=None)
        if answer is None:
            return None
        tasks = [Task(each["id"], each["state"], _cause(each.get("trace"))) for each in answer["tasks"]]
        return Connector(answer["connector"]["state"], tuple(tasks), _cause(answer["connector"].get("trace")))

    async def offset(self, name: str) -> dict[str, Any]:
        """The position in the source that is durable in Kafka; empty when there is none."""
        answer = await self._ask("GET", f"/connectors/{name}/offsets", missing=None)
        rows = answer["offsets"] if answer else []
        return dict(rows[0]["offset"] or {}) if rows else {}

    async def set_offset(self, name: str, partition: Mapping[str, str], offset: Mapping[str, int]) -> None:
        """Where a stopped connector begins when it is resumed."""
        await self._ask(
            "PATCH", f"/connectors/{name}/offsets", {"offsets": [{"partition": partition, "offset": offset}]}
        )

    async def restart_failed(self, name: str) -> None:
        """Starts again what has failed, and leaves the rest alone."""
        await self._ask("POST", f"/connectors/{name}/restart?includeTasks=true&onlyFailed=true")

    async def stop(self, name: str) -> None:
        """Ends its tasks; the settings and the position stay. Returns when it has stopped."""
        await self._ask("PUT", f"/connectors/{name}/stop")
        async with asyncio.timeout(REBALANCE_TIMEOUT_S):
            while (  # noqa: ASYNC110 - Connect tells nobody
                state := await self.state(name)
            ) and (state.state != "STOPPED" or state.tasks):
                await asyncio.sleep(POLL_S)

    async def resume(self, name: str) -> None:
        """Lets a paused or stopped connector go on."""
        await self._ask("PUT", f"/connectors/{name}/resume")

    async def _ask(self, verb: str, path: str, body: Any = None, missing: Any = ...) -> Any:
        deadline = asyncio.get_running_loop().time() + REBALANCE_TIMEOUT_S
        while True:
            try:
                answer = await self._client.request(verb, path, json=body)
            except httpx.HTTPError as error:
                raise ConnectAway(
                    f"Kafka Connect does not answer at {self._url} ({type(error).__name__}).\n"
                    "Start it with `./afluente up --cdc`, or set AFLUENTE_CONNECT_URL to yours."
                ) from None
            if answer.status_code == HTTPStatus.NOT_FOUND and missing is not ...:
                return missing
            # A rebalance ends by itself. The answer to an order given meanwhile may also be a plain 500.
            busy = answer.status_code in {HTTPStatus.CONFLICT, HTTPStatus.INTERNAL_SERVER_ERROR}
            if busy and asyncio.get_running_loop().time() < deadline and "rebalance" in answer.text.lower():
                await asyncio.sleep(POLL_S)
                continue
            if answer.is_error:
                raise Fault(f"Kafka Connect refused {verb} {path} ({answer.status_code}): {_said(answer)}")
            return answer.json() if answer.content else None


def _said(answer: httpx.Response) -> str:
    try:
        return without_secrets(str(answer.json()["message"]))
    except (json.JSONDecodeError, KeyError, TypeError):
        return without_secrets(answer.text)


def without_secrets(text: str) -> str:
    """The beginning of a text, with the values of whatever is named like a secret left out."""
    return SECRET.sub(r"\1***", text)[:TRACE_CHARS_MAX]


def _cause(trace: str | None) -> str:
    """The last `Caused by` of a Java trace, which is where it began; else its first line."""
    lines = [line.strip() for line in (trace or "").splitlines() if line.strip() and not line.startswith("\t")]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return without_secrets(([*lines[:1], *causes] or [""])[-1])
