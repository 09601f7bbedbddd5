"""One case on a stack with Connect: bills are written while something dies, then both databases are compared by row."""

import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from schemas.bills import BILL_CREATED, OCCURRENCE_CREATED
from tests.fault.results import RIGHT, WRONG, Results, Row
from tests.support.bills_load import Load
from tests.support.bills_stack import BillsStack
from tests.support.children import Child, poll
from tests.support.edges import Edge
from tests.support.mirrored import Mirrored
from tests.support.tenants import Tenant, hire
from tests.support.workers import Fleet, Worker

TENANTS = 3
QUIET_S = 120.0
TABLES = ("bills", "bill_occurrences")
CREATED = (BILL_CREATED, OCCURRENCE_CREATED)
# A row as both ends show it: id, version, amount in hundredths, day, status.
IN_CLICKHOUSE = """SELECT toString(id), toInt64(version), toInt64(amount * 100), toInt64(toUInt16(due_date)), status
    FROM afluente.{table} FINAL WHERE tenant_id = '{tenant}' FORMAT JSONCompactEachRow
    SETTINGS output_format_json_quote_64bit_integers = 0"""
IN_POSTGRES = """SELECT id::text, version, (amount * 100)::bigint, due_date - date '1970-01-01', status
    FROM {table} WHERE tenant_id = '{tenant}'"""


@dataclass(slots=True)
class Found:
    """What both ends hold in the end. `differences` names rows, at most a few, that are not equal."""

    accepted: int
    rows: int
    missing: int
    duplicates: int
    differences: list[str]

    @property
    def right(self) -> bool:
        return not (self.missing or self.duplicates or self.differences)


@dataclass(slots=True)
class BillsCase:
    """What a test works with. `fired` is its proof that the dangerous moment was reached."""

    bills: BillsStack
    fleet: Fleet
    results: Results
    id: str
    fault: str
    fired: str = ""
    untold: bool = False  # rows may have no event: they were made while nobody captured changes
    tenants: list[str] = field(init=False)
    load: Load = field(init=False)
    others: list[Child] = field(default_factory=list)
    _lifted_at: float = 0.0
    _recovered_at: float = 0.0

    def __post_init__(self) -> None:
        self.tenants = [self.bills.tenant() for _ in range(TENANTS)]
        self.load = Load(lambda: self.bills.owner_url, self.tenants, zlib.crc32(self.fault.encode()))
        self.fleet.kill_all()
        self.fleet.rearm()

    def worker(self, **settings: Any) -> Worker:
        """The worker of the case, ready."""
        return self.fleet.ensure(**settings)

    def edge(self, **settings: Any) -> Edge:
        """An edge of this case alone."""
        edge = Edge(self.fleet.environment("edge", settings), self.fleet.next_log("edge"))
        self.others.append(edge)
        return edge.await_ready()

    def hire(self, count: int) -> list[Tenant]:
        """Tenants with keys, for requests to an edge."""
        return hire(self.bills.settings, count)

    def end(self) -> None:
        """Nothing of this case alone is left."""
        for child in self.others:
            if child.alive:
                child.kill()

    def lifted(self) -> None:
        """The fault is over: what follows is recovery."""
        self._lifted_at = time.monotonic()

    def settle(self, quiet_s: float = QUIET_S) -> Found:
        """Wait until nothing differs any more, judge, and require that all is right."""
        self.marker(quiet_s)
        deadline = time.monotonic() + quiet_s
        found = self.judge()
        while not found.right and time.monotonic() < deadline:
            poll(self._is_quiet, "every change is durable", quiet_s)
            found = self.judge()
        drained_at = time.monotonic()
        poll(self._is_quiet, "every change is durable", quiet_s)  # rows are there before their events are
        found.differences += self._untold()
        times = [round(at - self._lifted_at, 1) if self._lifted_at else None for at in (self._recovered_at, drained_at)]
        counts = (found.accepted, found.rows, found.missing, found.duplicates, len(self.dead()))
        verdict = RIGHT if found.right else WRONG
        self.results.add(Row(self.id, self.fault, self.fired, verdict, *counts, times[0], times[1]))
        assert found.right, found
        return found

    def told(self, verdict: str = RIGHT, reason: str = "") -> None:
        """A row without counts."""
        self.results.add(Row(self.id, self.fault, reason or self.fired, verdict))

    def told_in_row(self) -> None:
        """What fired is known after the verdict only: into its row with it."""
        row = next(one for one in self.results.rows if one.id == self.id)
        self.results.add(replace(row, fired=self.fired))

    def judge(self) -> Found:
        """Each row at both ends, and against what writers were told."""
        theirs: dict[str, list[Any]] = {}
        ours: dict[str, list[Any]] = {}
        duplicates = 0
        for table in TABLES:
            for tenant in self.tenants:
                lines = self.bills.clickhouse_rows(IN_CLICKHOUSE.format(table=table, tenant=tenant))
                duplicates += len(lines) - len({line[0] for line in lines})
                theirs |= {line[0]: line[1:] for line in lines}
                rows = self.bills.postgres(IN_POSTGRES.format(table=table, tenant=tenant))
                ours |= {row[0]: list(row)[1:] for row in rows}
        ledger = self.load.ledger
        missing = (ours.keys() - theirs.keys()) | (ledger.kept - theirs.keys())
        differences = [f"{one}: {theirs[one]} instead of {ours[one]}" for one in ours.keys() & theirs.keys()
                       if theirs[one] != ours[one]]  # fmt: skip
        differences += [f"{one} should be gone" for one in theirs.keys() - ours.keys()]
        differences += [f"{one} was deleted and is in Postgres" for one in ledger.gone & ours.keys()]
        return Found(len(ledger.kept), len(theirs), len(missing), duplicates, differences[:5])

    def until(self, condition: Callable[[], Any]) -> float:
        """Seconds until it is true."""
        began = time.monotonic()
        poll(condition, "the edge takes requests again")
        return time.monotonic() - began

    def marker(self, quiet_s: float = QUIET_S) -> None:
        """Write a bill and see it at the other end: change data capture works. The first one tells recovery."""
        marker = str(uuid.uuid4())
        self.bills.postgres(
            "INSERT INTO bills (tenant_id, id, user_id, amount, currency, due_date)"
            " VALUES ($1, $2, 'marker', 1, 'BRL', '2026-02-02')", uuid.UUID(self.tenants[0]), uuid.UUID(marker),
        )  # fmt: skip
        sql = f"SELECT count() FROM afluente.bills FINAL WHERE tenant_id = '{self.tenants[0]}' AND id = '{marker}'"
        poll(lambda: self._asked(sql) == "1", "the marker is in ClickHouse", quiet_s)
        if self._lifted_at:
            self._recovered_at = self._recovered_at or time.monotonic()

    def events(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Id, type and value of every event of the case's tenants, by tenant in the order of the topic."""
        mirrored = Mirrored(self.bills.settings)
        return [one for tenant in self.tenants for one in mirrored.events(tenant)]

    def _asked(self, sql: str) -> str:
        try:
            return self.bills.clickhouse(sql)
        except httpx.TransportError:
            return ""

    def _is_quiet(self) -> bool:
        self._somebody_works()
        return not Mirrored(self.bills.settings).behind()

    def _somebody_works(self) -> None:
        workers = self.fleet.workers.values()
        assert any(worker.alive for worker in workers), "no worker is alive\n" + "\n".join(self.fleet.tails())

    def _untold(self) -> list[str]:
        """Rows of the load without the event of their making, and events that say two things under one id."""
        found = []
        values: dict[str, Any] = {}
        for event_id, _, value in self.events():
            if values.setdefault(event_id, value) != value:
                found.append(f"two events under the id {event_id}")
        told = Counter(str(value["data"]["id"]) for value in values.values() if value["event_type"] in CREATED)
        found += [f"{one}: made twice, say its events" for one, times in told.items() if times > 1]
        if not self.untold:
            found += [f"{one}: no event tells that it was made" for one in self.load.ledger.kept - told.keys()]
        return found[:5]

    def dead(self) -> dict[Any, str]:
        """Why changes of these tenants are in the DLQ."""
        return Mirrored(self.bills.settings).dead(self.tenants)
