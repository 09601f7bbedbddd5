"""The Postgres side of change data capture: slot, publication, heartbeats and signals, all as the role afluente_cdc."""

import json
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from aiokafka.partitioner import murmur2
from asyncpg import Connection

from app.postgres import GONE
from app.settings import Settings
from infra.local.faults import Fault

CONNECT_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_S: Final = 30.0  # making a slot waits for the transactions that are open
HEARTBEATS: Final = "cdc_heartbeats"
SIGNALS: Final = "cdc_signals"
WHOLE_ORDER: Final = frozenset({"type", "data-collections"})  # a condition would be more than these
SIGNAL_BYTES_MAX: Final = 4096  # the table's own check
# Any fixed UUID will do: it makes the heartbeats' ids, which must be the same whoever writes them.
HEARTBEAT_NAMESPACE: Final = uuid.UUID("6f6c1d0e-6f0b-5a52-9a0f-3f6f2a3f9c11")
_POSITIVE: Final = 0x7FFFFFFF  # Java's toPositive, as in app/partition_key.py

_SLOT: Final = """
SELECT s.slot_name, s.active, s.wal_status, s.safe_wal_size, s.failover,
       coalesce(s.invalidation_reason, '') AS reason,
       (s.confirmed_flush_lsn - '0/0')::bigint AS confirmed,
       (s.restart_lsn - '0/0')::bigint AS restart,
       (pg_current_wal_lsn() - '0/0')::bigint AS now
FROM pg_replication_slots s WHERE s.slot_name = $1 AND s.database = current_database()
"""
_TABLES: Final = "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = $1"


def lsn_text(lsn: int | None) -> str:
    """An LSN as Postgres prints it."""
    return "-" if lsn is None else f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


@dataclass(frozen=True, slots=True)
class Slot:
    """The replication slot. `safe_bytes` is what may still be written before Postgres gives it up; None: no limit."""

    active: bool
    wal_status: str
    reason: str
    confirmed: int | None
    restart: int | None
    now: int
    safe_bytes: int | None
    failover: bool = True  # standbys keep a copy of it

    @property
    def is_lost(self) -> bool:
        """Postgres has removed log that its reader needs: it can never go on."""
        return self.wal_status == "lost" or self.reason != ""

    @property
    def lag_bytes(self) -> int:
        """Log that was written and that the reader has not confirmed."""
        return self.now - self.confirmed if self.confirmed is not None else 0

    @property
    def held_bytes(self) -> int:
        """Log that Postgres keeps on disk for it."""
        return self.now - self.restart if self.restart is not None else 0

    @property
    def document(self) -> dict[str, Any]:
        return {
            "active": self.active, "wal_status": self.wal_status, "invalidation_reason": self.reason or None,
            "confirmed_lsn": lsn_text(self.confirmed), "restart_lsn": lsn_text(self.restart),
            "current_lsn": lsn_text(self.now), "lag_bytes": self.lag_bytes, "held_bytes": self.held_bytes,
            "safe_bytes": self.safe_bytes, "failover": self.failover,
        }  # fmt: skip


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator["Connection[Any]"]:
    """A connection as the role of change data capture."""
    url = settings.postgres_cdc_url.get_secret_value()
    if not url:
        raise Fault(
            "AFLUENTE_POSTGRES_CDC_URL is not set: the URL of the role afluente_cdc.\n"
            "The embedded stack writes it to local.env (`./afluente up --cdc`); in production it comes with the others."
        )
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, command_timeout=STATEMENT_TIMEOUT_S)
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError):
        raise Fault(
            "Postgres does not let the role of AFLUENTE_POSTGRES_CDC_URL in.\n"
            "It is made with the cluster (infra/postgres/init); for an older cluster docs/cdc.md has the two lines."
        ) from None
    except (*GONE, asyncpg.PostgresError) as error:
        raise Fault(f"Postgres does not answer ({type(error).__name__}); `./afluente status` tells.") from None
    try:
        yield connection
    finally:
        await connection.close()


async def read_slot(connection: "Connection[Any]", name: str) -> Slot | None:
    """The slot as it is now; None when there is none."""
    row = await connection.fetchrow(_SLOT, name)
    if row is None:
        return None
    return Slot(
        row["active"], row["wal_status"] or "", row["reason"], row["confirmed"], row["restart"], row["now"],
        row["safe_wal_size"], failover=row["failover"],
    )  # fmt: skip


async def published(connection: "Connection[Any]", publication: str) -> set[str]:
    """The tables of a publication, with their schema."""
    return {row[0] for row in await connection.fetch(_TABLES, publication)}


async def faults(connection: "Connection[Any]", publication: str, tables: Iterable[str]) -> list[str]:
    """What Debezium would miss here, each with what to do."""
    found = []
    if await connection.fetchval("SHOW wal_level") != "logical":
        found.append("wal_level is not logical: set it in postgresql.conf and restart Postgres")
    if not await connection.fetchval("SELECT rolreplication FROM pg_roles WHERE rolname = current_user"):
        found.append("the role lacks REPLICATION: as a superuser, ALTER ROLE afluente_cdc REPLICATION")
    there = await published(connection, publication)
    wanted = {*tables, f"public.{SIGNALS}"}
    if missing := sorted(wanted - there):
        found.append(f"publication {publication} lacks {', '.join(missing)}: run `./afluente migrate`")
    for table in sorted(wanted & there):
        need = "INSERT" if table.endswith(SIGNALS) else "UPDATE" if table.endswith(HEARTBEATS) else "SELECT"
        if not await connection.fetchval("SELECT has_table_privilege($1, $2)", table, need):
            found.append(f"the role may not {need} {table}: run `./afluente migrate`")
    return found


def heartbeat_ids(partitions: int) -> list[uuid.UUID]:
    """One id a partition, in their order: the first of a fixed series whose key Kafka puts there."""
    found: dict[int, uuid.UUID] = {}
    number = 0
    while len(found) < partitions:
        candidate = uuid.uuid5(HEARTBEAT_NAMESPACE, str(number))
        found.setdefault((murmur2(str(candidate).encode()) & _POSITIVE) % partitions, candidate)
        number += 1
    return [found[partition] for partition in range(partitions)]


async def write_heartbeats(connection: "Connection[Any]", partitions: int) -> tuple[int, int]:
    """Makes the rows be one a partition. Returns how many were added and removed."""
    ids = heartbeat_ids(partitions)
    async with connection.transaction():
        removed = await connection.fetch(
            "DELETE FROM cdc_heartbeats WHERE tenant_id <> ALL($1) RETURNING tenant_id", ids
        )
        added = await connection.fetch(
            "INSERT INTO cdc_heartbeats (tenant_id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING RETURNING 1", ids
        )
    return len(added), len(removed)


async def heartbeat_age_s(connection: "Connection[Any]") -> float | None:
    """How long ago Debezium last gave a sign of life; None when there are no rows."""
    age = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp() - max(at)) FROM cdc_heartbeats")
    return None if age is None else max(0.0, float(age))


async def drop_slot(connection: "Connection[Any]", name: str) -> None:
    """Removes the slot, if it is there. Postgres refuses while somebody reads from it."""
    await connection.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", name
    )


async def make_slot(connection: "Connection[Any]", name: str, plugin: str) -> int:
    """A new slot in the place of the former, one that standbys copy. Returns the LSN from which it has everything."""
    await drop_slot(connection, name)
    lsn = await connection.fetchval(
        "SELECT (lsn - '0/0')::bigint FROM pg_create_logical_replication_slot($1, $2, failover => true)",
        name,
        plugin,
    )
    return int(lsn)


async def signal_snapshot(connection: "Connection[Any]", tables: Sequence[str], condition: str = "") -> tuple[str, int]:
    """Asks Debezium for an incremental snapshot. Returns the signal's id and an LSN behind it."""
    order: dict[str, Any] = {"type": "incremental", "data-collections": list(tables)}
    if condition:
        order["additional-conditions"] = [{"data-collection": table, "filter": condition} for table in tables]
    text = json.dumps(order)
    if len(text.encode()) > SIGNAL_BYTES_MAX:
        raise Fault(f"The condition is too long: the whole signal may have {SIGNAL_BYTES_MAX} bytes.")
    number = f"snapshot-{uuid.uuid4()}"
    await connection.execute(
        "INSERT INTO cdc_signals (id, type, data) VALUES ($1, 'execute-snapshot', $2)", number, text
    )
    return number, int(await connection.fetchval("SELECT (pg_current_wal_lsn() - '0/0')::bigint"))


def tables_of(order: str | None) -> set[str]:
    """The tables that an order for a snapshot takes whole: none when it has a condition, or cannot be read."""
    with suppress(ValueError, TypeError, AttributeError, KeyError):  # somebody wrote it by hand
        content = json.loads(order or "")
        return set(content["data-collections"]) if content.keys() <= WHOLE_ORDER else set()
    return set()


async def ordered_whole(connection: "Connection[Any]") -> set[str]:
    """The tables that some order takes whole. Orders stay in the table when they are read; watermarks do not."""
    rows = await connection.fetch("SELECT data FROM cdc_signals WHERE type = 'execute-snapshot'")
    return {table for row in rows for table in tables_of(row["data"])}


async def forget_orders(connection: "Connection[Any]") -> None:
    """Removes every order for a snapshot."""
    await connection.execute("DELETE FROM cdc_signals WHERE type = 'execute-snapshot'")
