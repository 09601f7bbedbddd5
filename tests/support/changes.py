"""Changes of bills as Debezium writes them, from a table that is kept in memory: the oracle of every mirror."""

import random
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from app.batch import TP
from app.producer import Record
from schemas.bills import BILLS, HEARTBEATS, KEYS, OCCURRENCES
from schemas.topics import BILLS_CHANGES
from tests.support.records import TENANT, PlainRecord

CHANGES = TP(BILLS_CHANGES.name, 3)
NOVEMBER = 20_765  # 2026-11-08, in days since 1970
COMMITTED_MS = 1_795_000_000_000
TIME = "2026-11-25T04:16:48.147623Z"
STATUSES = ("open", "paid", "overdue", "cancelled")


def bill(row_id: str, tenant: str = TENANT, **columns: Any) -> dict[str, Any]:
    """A row of bills, as JSON holds it."""
    row = {
        "tenant_id": tenant, "id": row_id, "user_id": "u-1", "description": "rent", "category": "home",
        "amount": "1234.50", "currency": "BRL", "due_date": NOVEMBER, "recurrence": "none", "installments": 1,
        "status": "open", "paid_at": None, "actor": "key:1", "created_at": TIME, "updated_at": TIME, "version": 1,
    }  # fmt: skip
    return row | columns


def occurrence(row_id: str, tenant: str = TENANT, **columns: Any) -> dict[str, Any]:
    """A row of bill_occurrences, as JSON holds it."""
    row = bill(row_id, tenant, bill_id=str(uuid.UUID(int=1)), number=1) | columns
    del row["description"]
    return row


MAKE = {BILLS: bill, OCCURRENCES: occurrence}


def written(
    table: str, op: str, before: dict[str, Any] | None, after: dict[str, Any] | None, lsn: int, /, **source: Any
) -> dict[str, Any]:
    """Debezium's envelope of one change; `source` replaces fields of its own."""
    place = {
        "version": "3.3.1.Final", "connector": "postgresql", "name": "afluente", "ts_ms": COMMITTED_MS + lsn,
        "snapshot": "false", "db": "afluente", "sequence": f'["{lsn - 8}","{lsn}"]', "schema": "public",
        "table": table, "txId": 700 + lsn, "lsn": lsn, "xmin": None,
    }  # fmt: skip
    return {"before": before, "after": after, "source": place | source, "op": op, "ts_ms": COMMITTED_MS + lsn + 5}


def heartbeat(tenant: str, lsn: int, at: str = TIME, op: str = "u") -> dict[str, Any]:
    """A heartbeat's change."""
    row = {"tenant_id": tenant, "at": at}
    return written(HEARTBEATS, op, row if op == "u" else None, row, lsn)


def tenant_of(change: dict[str, Any]) -> str:
    """Whose row it is."""
    return str((change["after"] or change["before"])["tenant_id"])


def record(offset: int, change: dict[str, Any] | bytes | None, key: str | None = None) -> PlainRecord:
    """A record of bills.changes as the transport hands it over."""
    value = orjson.dumps(change) if isinstance(change, dict) else change
    owner = key if key is not None else tenant_of(change) if isinstance(change, dict) else TENANT
    return PlainRecord(offset, value, owner.encode(), (), CHANGES.topic, CHANGES.partition)


def produced(change: dict[str, Any]) -> Record:
    """The same, to be produced."""
    return Record(BILLS_CHANGES.name, tenant_of(change).encode(), orjson.dumps(change), [])


class Database:
    """Rows of one tenant. Each act gives the change that Debezium would write of it."""

    def __init__(self, tenant: str = TENANT, lsn: int = 1_000) -> None:
        self.tenant = tenant
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self.changes: list[dict[str, Any]] = []
        self._lsn = lsn

    def insert(self, table: str, row_id: str, **columns: Any) -> None:
        """A new row."""
        row = MAKE[table](row_id, self.tenant, **columns)
        self.rows[table, row_id] = row
        self._note(table, "c", None, row)

    def update(self, table: str, row_id: str, **columns: Any) -> None:
        """Other values for some columns; the version rises as the trigger makes it."""
        before = self.rows[table, row_id]
        after = before | columns | {"version": before["version"] + 1}
        self.rows[table, row_id] = after
        self._note(table, "u", before, after)

    def delete(self, table: str, row_id: str) -> None:
        """The row goes."""
        self._note(table, "d", self.rows.pop((table, row_id)), None)

    def rename(self, table: str, row_id: str, other_id: str) -> None:
        """Another primary key: Debezium writes a delete and a create of one LSN."""
        before = self.rows.pop((table, row_id))
        after = before | {"id": other_id, "version": before["version"] + 1}
        self.rows[table, other_id] = after
        self._note(table, "d", before, None)
        self._lsn -= 8
        self._note(table, "c", None, after)

    def read(self) -> None:
        """An incremental snapshot of everything: no LSN of its own."""
        for (table, _), row in self.rows.items():
            self._note(table, "r", None, row, lsn=None, snapshot="incremental")

    def wander(self, steps: int, seed: int) -> None:
        """So many acts by chance, over a few rows and months."""
        chance = random.Random(seed)
        for _ in range(steps):
            table = chance.choice((BILLS, OCCURRENCES))
            row_id = str(uuid.UUID(int=chance.randrange(8)))
            if (table, row_id) not in self.rows:
                self.insert(table, row_id, due_date=NOVEMBER + chance.randrange(90))
            elif chance.random() < 0.2:
                self.delete(table, row_id)
            else:
                self.update(table, row_id, **self._other(chance))

    @staticmethod
    def _other(chance: random.Random) -> dict[str, Any]:
        act = chance.randrange(4)
        if act == 0:
            return {"due_date": NOVEMBER + chance.randrange(90)}
        if act == 1:
            return {"amount": f"{chance.randrange(100_000)}.{chance.randrange(100):02}"}
        if act == 2:
            return {"status": "paid", "paid_at": TIME}
        return {"status": chance.choice(("open", "overdue", "cancelled")), "paid_at": None}

    def _note(
        self, table: str, op: str, before: dict[str, Any] | None, after: dict[str, Any] | None, **source: Any
    ) -> None:
        self._lsn += 8
        self.changes.append(written(table, op, before, after, self._lsn, **source))


def alive(rows: Sequence[dict[str, Any]], table: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What a reader with FINAL sees of inserted versions, by sorting key: the highest, of equal ones the last."""
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        place = (*(row[name] for name in KEYS[table]), row["due_date"])
        if place not in newest or row["_version"] >= newest[place]["_version"]:
            newest[place] = row
    return {place: row for place, row in newest.items() if not row["is_deleted"]}


def ids(count: int) -> Iterator[str]:
    """So many ids of rows."""
    return (str(uuid.UUID(int=number)) for number in range(1, count + 1))
