"""Bills changed in Postgres and mirrored to ClickHouse as bills.mirror does it, for tests of what reads the mirror.

Every change is made in Postgres first; the rows that it gives (the new one, and a tombstone of the old one when it is
gone or has moved to another day) go to ClickHouse in batches, under a version that grows with every change.
"""

import random
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import orjson

from api.freshness import partition_of
from schemas.topics import BILLS_CHANGES
from tests.support.edge_parts import Parts

CATEGORIES = ("rent", "food", "energy", "internet", "health", "leisure")
CURRENCIES = ("BRL", "BRL", "BRL", "USD", "JPY")
OPERATIONS = ("bill", "pay", "pay", "pay", "unpay", "amount", "day", "month", "category", "cancel", "delete")
COLUMNS = (
    "tenant_id", "id", "bill_id", "user_id", "number", "installments", "recurrence", "category", "amount", "currency",
    "due_date", "status", "paid_at", "actor", "version", "created_at", "updated_at",
)  # fmt: skip
BILL_COLUMNS = (
    "tenant_id", "id", "user_id", "description", "category", "amount", "currency", "due_date", "recurrence",
    "installments", "status", "paid_at", "actor", "version", "created_at", "updated_at",
)  # fmt: skip
Row = dict[str, Any]


def _plain(row: Any, columns: Sequence[str]) -> Row:
    found: Row = {}
    for name in columns:
        value = row[name]
        if isinstance(value, datetime):
            value = value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        found[name] = value if value is None or isinstance(value, int) else str(value)
    return found


class Mirror:
    """Writes rows to ClickHouse as the pipeline does; `lsn` is the position of the latest change."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.lsn = 1 << 32
        self._rows: dict[str, list[Row]] = {"bills": [], "bill_occurrences": []}

    def change(self, table: str, before: Any, after: Any) -> None:
        """One change; it is written with the next `flush`."""
        columns = BILL_COLUMNS if table == "bills" else COLUMNS
        self.lsn += 8
        gone = before is not None and (after is None or before["due_date"] != after["due_date"])
        for row, is_deleted in ((before, 1),) * gone + ((after, 0),) * (after is not None):
            self._rows[table].append(
                {
                    **_plain(row, columns),
                    "is_deleted": is_deleted,
                    "_version": self.lsn,
                    "_changed_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
                    "_topic": BILLS_CHANGES.name,
                    "_partition": partition_of(str(row["tenant_id"]), BILLS_CHANGES.partitions),
                    "_offset": self.lsn,
                }
            )

    def flush(self, *, heartbeats: bool = True) -> None:
        """Insert what has gathered, then say in every partition how far this is."""
        for table, rows in self._rows.items():
            if rows:
                self._insert(table, rows)
                rows.clear()
        if heartbeats:
            at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
            self._insert("cdc_progress", [
                {"tenant_id": str(uuid.UUID(int=number)), "lsn": self.lsn, "at": at,
                 "_topic": BILLS_CHANGES.name, "_partition": number, "_offset": self.lsn}
                for number in range(BILLS_CHANGES.partitions)
            ])  # fmt: skip

    def _insert(self, table: str, rows: list[Row]) -> None:
        lines = b"\n".join(orjson.dumps(row) for row in rows).decode()
        self._parts.clickhouse(f"INSERT INTO afluente.{table} FORMAT JSONEachRow\n{lines}")


class Household:
    """A tenant whose bills change at random, the same way for the same seed."""

    def __init__(
        self, connection: "asyncpg.Connection[asyncpg.Record]", mirror: Mirror, tenant_id: str, seed: int, today: date
    ) -> None:
        self._connection = connection
        self._mirror = mirror
        self.tenant_id = uuid.UUID(tenant_id)
        self._random = random.Random(seed)
        self._today = today

    async def change(self) -> None:
        """One change of a random kind."""
        operation = self._random.choice(OPERATIONS)
        if operation == "bill":
            await self.bill()
            return
        row = await self._connection.fetchrow(
            "SELECT * FROM bill_occurrences WHERE tenant_id = $1 AND id >= $2 ORDER BY id LIMIT 1",
            self.tenant_id, uuid.UUID(int=self._random.getrandbits(128)),
        )  # fmt: skip
        if row is None:
            await self.bill()
        elif operation == "delete":
            await self.delete(row)
        else:
            await self.update(row, self._assignment(operation, row))

    def _assignment(self, operation: str, row: Any) -> Row:
        due: date = row["due_date"]
        if operation == "pay":
            return {"status": "paid", "paid_at": datetime.now(UTC)}
        if operation in {"unpay", "cancel"}:
            return {"status": "cancelled" if operation == "cancel" else "open", "paid_at": None}
        if operation == "amount":
            return {"amount": self._random.randrange(100, 500_000) / 100}
        if operation == "category":
            return {"category": self._random.choice(CATEGORIES)}
        return {
            "due_date": due + timedelta(days=self._random.choice((-2, -1, 1, 2) if operation == "day" else (-31, 31)))
        }

    async def bill(
        self, installments: int | None = None, due: date | None = None, category: str = "", currency: str = ""
    ) -> uuid.UUID:
        """A bill with its occurrences, a month apart."""
        count = installments or self._random.choice((1, 3, 12, 24))
        first = due or self._today + timedelta(days=self._random.randrange(-300, 200))
        recurrence = self._random.choice(("none", "monthly"))
        category = category or self._random.choice(CATEGORIES)
        currency = currency or self._random.choice(CURRENCIES)
        amount = self._random.randrange(100, 200_000) / (1 if currency == "JPY" else 100)
        bill = await self._connection.fetchrow(
            "INSERT INTO bills (tenant_id, user_id, description, category, amount, currency, due_date, recurrence,"
            " installments) VALUES ($1, 'ana', $8, $2, $3::float8::numeric(14, 2), $4, $5, $6, $7) RETURNING *",
            self.tenant_id, category, amount * count, currency, first, recurrence, count, category.title(),
        )  # fmt: skip
        self._mirror.change("bills", None, bill)
        for number in range(count):
            row = await self._connection.fetchrow(
                "INSERT INTO bill_occurrences (tenant_id, bill_id, user_id, number, installments, recurrence, category,"
                " amount, currency, due_date, status)"
                " VALUES ($1, $2, 'ana', $3, $4, $5, $6, $7::float8::numeric(14, 2), $8, $9, $10) RETURNING *",
                self.tenant_id, bill["id"], number + 1, count, recurrence, category, amount, currency,
                (day := first + timedelta(days=30 * number)), "overdue" if day < self._today else "open",
            )  # fmt: skip
            self._mirror.change("bill_occurrences", None, row)
        return uuid.UUID(str(bill["id"]))

    async def update(self, row: Any, assignment: Row) -> Any:
        """Change one occurrence; gives the row as it is now."""
        names = ", ".join(
            f"{name} = ${index}" + ("::float8::numeric(14, 2)" if name == "amount" else "")
            for index, name in enumerate(assignment, 3)
        )
        after = await self._connection.fetchrow(
            f"UPDATE bill_occurrences SET {names} WHERE tenant_id = $1 AND id = $2 RETURNING *",
            self.tenant_id, row["id"], *assignment.values(),
        )  # fmt: skip
        self._mirror.change("bill_occurrences", row, after)
        return after

    async def delete(self, row: Any) -> None:
        """Delete one occurrence."""
        await self._connection.execute(
            "DELETE FROM bill_occurrences WHERE tenant_id = $1 AND id = $2", self.tenant_id, row["id"]
        )
        self._mirror.change("bill_occurrences", row, None)
