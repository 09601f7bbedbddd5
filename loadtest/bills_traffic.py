"""What a household does with its bills over HTTP: makes, pays, edits, cancels, deletes them. Then psql, behind it."""

import datetime as dt
import os
import random
import re
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
from pydantic import PostgresDsn

CATEGORIES: Final = ("home", "food", "health", "transport", "café & more")
CURRENCIES: Final = ("BRL", "BRL", "BRL", "USD")
INSTALLMENTS: Final = (1, 1, 3, 6)
BILLS_A_TENANT: Final = 16
DAYS: Final = 60  # due dates begin this far around today
PSQL_TIMEOUT_S: Final = 30.0

# By hand and past the API: the triggers, the constraints and CDC do not ask who writes.
BY_HAND: Final = """\
BEGIN;
SET LOCAL afluente.tenant_id = :'tenant';
INSERT INTO bills (tenant_id, id, user_id, description, category, amount, currency, due_date, installments)
VALUES (:'tenant', :'first', 'psql', 'typed by hand', 'by hand', 100.01, 'BRL', current_date + 10, 2),
       (:'tenant', :'second', 'psql', 'typed by hand, then deleted', 'by hand', 5.00, 'BRL', current_date, 1);
INSERT INTO bill_occurrences (tenant_id, bill_id, user_id, number, installments, category, amount, currency, due_date)
VALUES (:'tenant', :'first', 'psql', 1, 2, 'by hand', 50.01, 'BRL', current_date + 10),
       (:'tenant', :'first', 'psql', 2, 2, 'by hand', 50.00, 'BRL', current_date + 41),
       (:'tenant', :'second', 'psql', 1, 1, 'by hand', 5.00, 'BRL', current_date);
COMMIT;
BEGIN;
SET LOCAL afluente.tenant_id = :'tenant';
UPDATE bill_occurrences SET due_date = due_date + 35, amount = amount + 0.09
WHERE tenant_id = :'tenant' AND bill_id = :'first' AND number = 2;
DELETE FROM bills WHERE tenant_id = :'tenant' AND id = :'second';
COMMIT;
"""
CHANGES: Final = re.compile(r"^(?:INSERT|UPDATE|DELETE) ", re.MULTILINE)


class RefusedByEdge(RuntimeError):  # noqa: N818 - what happened
    """The edge said no to something that is right."""


@dataclass(slots=True)
class Household:
    """One tenant. `done` counts what was done, by kind."""

    name: str
    tenant_id: str
    client: httpx.AsyncClient
    key: str
    chance: random.Random
    done: Counter[str] = field(default_factory=Counter)
    bills: list[dict[str, Any]] = field(default_factory=list)

    async def live(self) -> None:
        """Everything that can happen to a bill."""
        for _ in range(BILLS_A_TENANT):
            self.bills.append(await self._create())
        for bill in self.bills[:8]:
            await self._pay(bill["occurrences"][0]["id"])
        await self._ask("POST", f"/occurrences/{self.bills[0]['occurrences'][0]['id']}/unpay")
        self.done["payment taken back"] += 1
        for bill in self.bills[8:11]:
            later = dt.date.fromisoformat(bill["due_date"]) + dt.timedelta(days=45)
            await self._edit(bill, {"amount": "321.07", "due_date": later.isoformat(), "category": "edited"})
        await self._edit(self.bills[11], {"status": "cancelled"}, "bill cancelled")
        for bill in self.bills[12:14]:
            await self._ask("DELETE", f"/bills/{bill['id']}", headers={"If-Match": f'"{bill["version"]}"'})
            self.done["bill deleted"] += 1

    async def _create(self) -> dict[str, Any]:
        day = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=self.chance.randint(-DAYS, DAYS))
        wanted: dict[str, Any] = {
            "user_id": f"{self.name}-{self.chance.randint(1, 3)}",
            "description": "água, luz & 'aluguel'",
            "category": self.chance.choice(CATEGORIES),
            "amount": f"{self.chance.randint(1_00, 9_999_99) / 100:.2f}",
            "currency": self.chance.choice(CURRENCIES),
            "due_date": day.isoformat(),
        }
        if self.chance.random() < 0.2:
            wanted |= {"recurrence": "monthly", "count": 6}
        else:
            wanted["installments"] = self.chance.choice(INSTALLMENTS)
        made = await self._ask("POST", "/bills", wanted)
        self.done["bill created"] += 1
        self.done["occurrence created"] += len(made["occurrences"])
        return made

    async def _pay(self, occurrence_id: str) -> None:
        # Twice with one key, as after a lost answer: paid once.
        for _ in range(2):
            await self._ask("POST", f"/occurrences/{occurrence_id}/pay", headers={"Idempotency-Key": occurrence_id})
        self.done["occurrence paid"] += 1

    async def _edit(self, bill: dict[str, Any], changes: dict[str, str], what: str = "bill edited") -> None:
        seen = {"If-Match": f'"{bill["version"]}"'}
        bill["version"] = (await self._ask("PATCH", f"/bills/{bill['id']}", changes, seen))["version"]
        self.done[what] += 1

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        whole = {"Authorization": f"Bearer {self.key}", **(headers or {})}
        answer = await self.client.request(method, path, json=body, headers=whole)
        if answer.is_error:
            raise RefusedByEdge(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        found: dict[str, Any] = answer.json()
        return found


def by_hand(psql: Path, url: str, tenant_id: str) -> int:
    """A few rows straight into Postgres with psql, as the application's role. Returns how many statements changed."""
    place = PostgresDsn(url).hosts()[0]
    environ = {
        "PATH": os.environ.get("PATH", ""),
        "PGHOST": str(place["host"]),
        "PGPORT": str(place["port"]),
        "PGUSER": str(place["username"]),
        "PGPASSWORD": str(place["password"]),
        "PGDATABASE": (PostgresDsn(url).path or "/afluente")[1:],
    }
    given = {"tenant": tenant_id, "first": str(uuid4()), "second": str(uuid4())}
    command = [
        str(psql),
        "-X",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        *(f"--set={name}={text}" for name, text in given.items()),
    ]
    done = subprocess.run(
        command, input=BY_HAND, env=environ, capture_output=True, text=True, timeout=PSQL_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise RefusedByEdge(f"psql: {done.stderr[:500]}")
    return len(CHANGES.findall(BY_HAND))
