"""How change data capture does: connector, slot, publication and heartbeats in one report with one verdict."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal
from uuid import UUID

from app.settings import Settings
from infra.local.cdc_source import (
    Slot,
    connected,
    heartbeat_age_s,
    published,
    read_slot,
)
from infra.local.connectors import LOOK_TIMEOUT_S, ConnectAway, Connector, Connectors
from infra.local.home import ROOT

SETTINGS_FILE: Final = ROOT / "infra" / "debezium" / "bills.json"
DELAY_MAX_S: Final = 15.0  # heartbeats come each second: beyond this the stream stands or cannot follow
SAFE_SHARE_MIN: Final = 0.25  # of max_slot_wal_keep_size left: time to act, not yet lost
# Java writes a UUID as its lower and its upper half, behind the description of its class or a reference to that.
JAVA_UUID: Final = re.compile(rb"(?:mostSigBitsxp|sq\x00~\x00.)(.{8})(.{8})", re.DOTALL)
POSITION_GONE: Final = "no longer available on the server"  # Debezium, when the slot begins behind its position

Verdict = Literal[
    "running", "connect away", "not applied", "slot missing", "slot lost", "task failed", "paused", "starting",
    "slot in danger", "behind",
]  # fmt: skip
# In an alert and on the screen: what to do next.
ADVICE: Final[dict[str, str]] = {
    "running": "Nothing to do.",
    "connect away": "Postgres keeps the log meanwhile. `./afluente start connect`, or look at your Connect cluster.",
    "not applied": "`./afluente cdc apply` makes the connector, its slot and the first snapshot.",
    "slot missing": "Changes since then were not captured. `./afluente cdc mend` makes a new slot and closes the gap.",
    "slot lost": "Postgres removed log that was not read. `./afluente cdc mend` makes a new slot and closes the gap.",
    "task failed": "See the cause above; after its repair `./afluente cdc restart`.",
    "paused": "`./afluente cdc apply` lets it go on.",
    "starting": "Wait a few seconds and ask again.",
    "slot in danger": "Postgres soon drops the slot: get the connector to run, or raise max_slot_wal_keep_size.",
    "behind": "The connector does not follow: look at its log, at Kafka, and at the load on Postgres.",
}
IN_ORDER: Final = frozenset({"running", "starting"})
LOSS: Final = frozenset({"slot missing", "slot lost"})


@dataclass(frozen=True, slots=True)
class Definition:
    """The connector's settings file, and what else is read from it."""

    name: str
    config: dict[str, str]

    @property
    def slot(self) -> str:
        return self.config["slot.name"]

    @property
    def publication(self) -> str:
        return self.config["publication.name"]

    @property
    def topic(self) -> str:
        return self.config["transforms.route.replacement"]

    @property
    def tables(self) -> tuple[str, ...]:
        """With their schema, the heartbeats among them."""
        return tuple(self.config["table.include.list"].split(","))

    @property
    def partition(self) -> dict[str, str]:
        """The key of its position in Connect's offsets."""
        return {"server": self.config["topic.prefix"]}


@lru_cache(maxsize=1)
def definition() -> Definition:
    """infra/debezium/bills.json."""
    content = json.loads(SETTINGS_FILE.read_text(encoding="utf-8"))
    return Definition(content["name"], content["config"])


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a snapshot is: the tables that are left, of which the first is being read, up to a key."""

    tables: tuple[str, ...]
    key: tuple[str, ...] = ()  # the tenant and the id of the last row that was read; empty before the first chunk

    @property
    def text(self) -> str:
        reached = f", up to tenant {self.key[0]}, id {self.key[-1]}" if self.key else ""
        return (" then ".join(self.tables) or "the connector's own") + reached

    @property
    def document(self) -> dict[str, Any]:
        return {"tables": list(self.tables), "key": list(self.key) or None}


def progress_of(offset: Mapping[str, Any]) -> Progress | None:
    """What the position says about a snapshot; None when none is under way. `snapshot`: one of Debezium's own."""
    if orders := offset.get("incremental_snapshot_collections"):
        tables = tuple(str(order["incremental_snapshot_collections_id"]) for order in json.loads(orders))
        return Progress(tables, _java_uuids(offset.get("incremental_snapshot_primary_key") or ""))
    return Progress(()) if offset.get("snapshot") else None


def _java_uuids(text: str) -> tuple[str, ...]:
    """The UUIDs of a key as Debezium keeps it: a Java array, in hexadecimal digits; none of something else."""
    try:
        found = JAVA_UUID.findall(bytes.fromhex(text))
    except ValueError:
        return ()
    return tuple(str(UUID(bytes=upper + lower)) for lower, upper in found)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything `cdc status` shows and `cdc watch` counts."""

    connector: Connector | None
    connect_answers: bool
    slot: Slot | None
    tables: frozenset[str]
    heartbeat_age_s: float | None
    delay_s: float | None  # from a commit in Postgres to its record in Kafka, of the last one
    read_lsn: int | None  # the position that is durable in Kafka
    snapshot: Progress | None = None  # None: no snapshot is under way

    @property
    def missing_tables(self) -> list[str]:
        return sorted({*definition().tables, "public.cdc_signals"} - self.tables)

    @property
    def is_in_danger(self) -> bool:
        """Whether Postgres is near to dropping the slot."""
        if self.slot is None or self.slot.safe_bytes is None:
            return False
        return self.slot.safe_bytes < SAFE_SHARE_MIN * (self.slot.safe_bytes + self.slot.held_bytes)

    @property
    def verdict(self) -> Verdict:  # noqa: PLR0911 - one line a cause, the gravest first
        """The one thing to say. Loss comes before everything: nothing else heals it."""
        applied = self.read_lsn is not None or (self.connector is not None and not self.connect_answers)
        if self.slot is not None and self.slot.is_lost:
            return "slot lost"
        failure = self.connector.failure if self.connector else ""
        if (self.slot is None and applied) or POSITION_GONE in failure:
            return "slot missing"
        if self.is_in_danger:
            return "slot in danger"
        if not self.connect_answers:
            # Without Connect nobody knows whether there was ever a connector; heartbeats tell.
            return "slot missing" if self.slot is None and self.heartbeat_age_s is not None else "connect away"
        if self.connector is None:
            return "not applied"
        if failure:
            return "task failed"
        if self.connector.state in {"PAUSED", "STOPPED"}:
            return "paused"
        if not self.connector.runs or self.slot is None or self.read_lsn is None:
            return "starting"
        return "behind" if self.delay_s is not None and self.delay_s > DELAY_MAX_S else "running"

    @property
    def document(self) -> dict[str, Any]:
        tasks = [{"id": t.number, "state": t.state, "cause": t.trace or None} for t in self.tasks]
        return {
            "verdict": self.verdict, "advice": ADVICE[self.verdict],
            "connector": {
                "name": definition().name, "state": self.connector.state if self.connector else None, "tasks": tasks,
                "last_error": (self.connector.failure if self.connector else "") or None,
            },
            "slot": {"name": definition().slot, **(self.slot.document if self.slot else {"wal_status": None})},
            "publication": {"name": definition().publication, "missing": self.missing_tables},
            "snapshot_running": self.snapshot is not None,
            "snapshot": self.snapshot.document if self.snapshot else None,
            "heartbeat_age_s": self.heartbeat_age_s, "delay_s": self.delay_s,
        }  # fmt: skip

    @property
    def tasks(self) -> tuple[Any, ...]:
        return self.connector.tasks if self.connector else ()


async def report(settings: Settings) -> Report:
    """Asks Postgres and Connect. Postgres must answer; that Connect does not is part of the report."""
    name = definition().name
    async with connected(settings) as connection:
        slot = await read_slot(connection, definition().slot)
        tables = await published(connection, definition().publication)
        age = await heartbeat_age_s(connection) if "public.cdc_heartbeats" in tables else None
    state, offset, answers = None, {}, True
    try:
        async with Connectors(settings.connect_url, LOOK_TIMEOUT_S) as connectors:
            state = await connectors.state(name)
            offset = await connectors.offset(name) if state else {}
    except ConnectAway:
        answers = False
    # While Debezium makes a snapshot of its own, the position's time is that of the snapshot.
    committed_us = None if offset.get("snapshot") else offset.get("ts_usec")
    return Report(
        connector=state,
        connect_answers=answers,
        slot=slot,
        tables=frozenset(tables),
        heartbeat_age_s=age,
        delay_s=max(0.0, time.time() - committed_us / 1e6) if committed_us else None,
        read_lsn=offset.get("lsn"),
        snapshot=progress_of(offset),
    )
