"""The repair: what Postgres says of a row that differs, sent through the topic once more, as Debezium would.

A row of Postgres goes as a snapshot's read (op "r"), a row that only ClickHouse shows as a delete (op "d") of exactly
that row, so that its tombstone lands on the day where it stands. Both carry the LSN of their writing, which is
behind every change that the row has had and, since the row is locked until Kafka has confirmed, before every change
that it will have: so a later change wins, and an earlier one that is still on its way does not. Sending twice is
harmless: the second has the same effect and a higher LSN.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson

from app import audit
from app.producer import Producer, Record
from app.reconciling import postgres
from app.reconciling.compare import Sides
from app.reconciling.differences import EXTRA, GHOST, Difference, differences
from app.reconciling.postgres import LSN, Connection
from app.reconciling.rows import Key, MirrorRow
from app.reconciling.spool import NO_STAMP, Candidate, Spool
from schemas.mirrors import Kind, Mirror

CHUNK_ROWS: Final = 200  # locked together, for as long as Kafka needs to confirm them
PRODUCE_TIMEOUT_MS: Final = 20_000
CLIENT_ID: Final = "afluente-reconcile"
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
HUNDREDTHS: Final = 100
LSN_STEP: Final = 8


@dataclass(slots=True)
class Repaired:
    """What a repair sent."""

    rows: int = 0
    tombstones: int = 0
    held: int = 0  # somebody holds the row: left for the next run
    agreed: int = 0  # equal by now
    ahead: int = 0  # ClickHouse has an LSN that Postgres has not reached: nothing written now wins over it


def lsn_fields(mirror: Mirror, lsn: int) -> dict[str, Any]:
    """The part of Debezium's envelope that says where a change comes from. A snapshot's rows are no events."""
    return {
        "connector": "postgresql",
        "name": CLIENT_ID,
        "schema": "public",
        "table": mirror.table,
        "snapshot": "incremental",
        "lsn": lsn,
        "sequence": f'["{lsn}","{lsn}"]',  # what a mirror's version is made of: the last commit before, and the change
        "ts_ms": time.time_ns() // 1_000_000,
    }


def debezium_row(mirror: Mirror, row: MirrorRow) -> dict[str, Any]:
    """A row as Debezium writes it here: money as text, days as a number, moments in ISO 8601."""
    return {column.name: _written(column.kind, row.values[column.name]) for column in mirror.columns}


def _written(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind is Kind.MONEY:
        sign, hundredths = "-" if value < 0 else "", abs(value)
        return f"{sign}{hundredths // HUNDREDTHS}.{hundredths % HUNDREDTHS:02}"
    if kind is Kind.MOMENT:
        return (EPOCH + timedelta(microseconds=value)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value


def record_of(topic: str, mirror: Mirror, found: Difference, lsn: int) -> Record:
    """The record that mends one difference."""
    gone = found.kind in {EXTRA, GHOST}
    row = found.clickhouse if gone else found.postgres
    assert row is not None
    written = debezium_row(mirror, row)
    change = {
        "op": "d" if gone else "r",
        "before": written if gone else None,
        "after": None if gone else written,
        "source": lsn_fields(mirror, lsn),
        "ts_ms": time.time_ns() // 1_000_000,
    }
    return Record(topic, found.key.tenant_id.encode(), orjson.dumps(change), [])


def records_of(topic: str, mirror: Mirror, found: Sequence[Difference], lsn: int) -> list[Record]:
    """The records that mend some differences."""
    tombstones: Counter[Key] = Counter()
    records = []
    for one in found:
        # A change is known by key, LSN and op, so each ghost of one row needs an LSN of its own. Records of the WAL
        # begin eight bytes apart, so none of the numbers just below this one belongs to a change.
        records.append(record_of(topic, mirror, one, lsn - min(tombstones[one.key], LSN_STEP - 1)))
        tombstones[one.key] += one.kind in {EXTRA, GHOST}
    return records


async def repair(sides: Sides, wrong: Spool, producer: Producer, report: Callable[[int, int], None]) -> Repaired:
    """Mend what a comparison found. Each row is looked at again under its lock, so what is sent is what is so."""
    done, repaired = 0, Repaired()
    async with postgres.connected(sides.owner_url) as connection:
        for chunk in wrong.chunks(CHUNK_ROWS):
            await _mend(sides, connection, chunk, producer, repaired)
            done += len(chunk)
            report(done, wrong.count)
    return repaired


async def _mend(
    sides: Sides, connection: Connection, chunk: Sequence[Candidate], producer: Producer, repaired: Repaired
) -> None:
    table, tenant_id = chunk[0].key[:2]
    mirror, ids = sides.mirror(table), list(dict.fromkeys(one.key.id for one in chunk))
    async with connection.transaction():
        # Nobody is waited for: a transaction that holds the row may be about to mend it.
        locked = await postgres.rows_of(connection, mirror, tenant_id, ids, "FOR SHARE SKIP LOCKED")
        existing = await postgres.rows_of(connection, mirror, tenant_id, ids)
        lsn = int(await connection.fetchval(f"SELECT {LSN}"))
        free = [one for one in ids if one in locked or one not in existing]
        mirrored = await sides.mirrored.rows(mirror, tenant_id, free)
        stamps = await sides.mirrored.stamps(mirror, tenant_id, free)
        past = [one for one in free if stamps.get(one, NO_STAMP) < lsn]
        repaired.held += len(ids) - len(free)
        repaired.ahead += len(free) - len(past)
        found = [
            difference
            for one in past
            for difference in differences(Key(table, tenant_id, one), locked.get(one), mirrored.get(one, ()))
        ]
        repaired.agreed += len(past) - len({one.key.id for one in found})
        await producer.send_many(records_of(sides.topic, mirror, found, lsn))
        tombstones = sum(one.kind in {EXTRA, GHOST} for one in found)
        repaired.tombstones += tombstones
        repaired.rows += len(found) - tombstones
        if found:
            await _audit(connection, table, tenant_id, lsn, found)


async def _audit(connection: Connection, table: str, tenant_id: str, lsn: int, found: Sequence[Difference]) -> None:
    """In the transaction that locks the rows; it is committed once Kafka has the records."""
    detail = {"lsn": lsn, "kinds": Counter(one.kind for one in found), "ids": [one.key.id for one in found]}
    await audit.record(connection, "reconcile.repair", tenant_id=UUID(tenant_id), target=table, detail=detail)
