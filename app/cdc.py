"""Changes of a database as Debezium writes them: the second record format of the spine, beside our own envelope.

Steps 3 and 5 of the loop. The value is Debezium's JSON envelope without schemas, the key the tenant; no header is
ours. A change is one of a kind by table, primary key, LSN and op: Connect may write it again at another offset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

from app import dlq
from app.batch import Record
from app.dedup import event_key
from app.errors import Poison
from app.inspection import TENANT_BYTES, Inspected
from schemas.envelope import Headers

SCHEMA: Final = "debezium"  # what the DLQ calls the schema of such a record
TENANT_COLUMN: Final = "tenant_id"
VALUE_BYTES_MAX: Final = 2 << 20  # record_bytes_max of the topics that carry changes
LSN_MAX: Final = (1 << 63) - 1
TIME_MS_MAX: Final = 10_413_792_000_000  # the year 2300, where DateTime64 ends
UNAVAILABLE: Final = "__debezium_unavailable_value"  # of a TOASTed column that an update did not touch
NO_SNAPSHOT: Final = (None, False, "false")
KEY_TYPES: Final = (str, int)
SEQUENCE_CHARACTERS_MAX: Final = 64  # two LSNs of 20 digits, in quotes
SEQUENCES_CACHED: Final = 1_024  # a snapshot's reads all have the same

CREATE: Final = "c"
UPDATE: Final = "u"
DELETE: Final = "d"
READ: Final = "r"
TRUNCATE: Final = "t"
OPS: Final = (CREATE, UPDATE, DELETE, READ, TRUNCATE)

Columns = Mapping[str, Any]


class Change(NamedTuple):
    """One change of one row. `key` is the row's primary key after it, or before it for a delete.

    `lsn` tells changes apart. `position` orders those of one row as they were committed: a transaction that was open
    during a snapshot has lower LSNs than the snapshot's stale reads. Changes of one transaction may share it, and
    then the later record counts.
    """

    table: str
    op: str
    key: tuple[str, ...]
    before: Columns | None
    after: Columns | None
    lsn: int
    position: int
    tx_id: int | None
    committed_at_ms: int
    snapshot: bool

    @property
    def row(self) -> Columns:
        """What the change leaves, or takes away."""
        row = self.before if self.op == DELETE else self.after
        return row if row is not None else {}

    @property
    def tenant_id(self) -> str:
        return str(self.row[TENANT_COLUMN])

    @property
    def identity(self) -> str:
        """The name of this change, the same however often it is written."""
        return f"{self.table}/{','.join(self.key)}/{self.lsn}/{self.op}"


class Changed(NamedTuple):
    """A change and the record that brought it: what a process of changes is called with, one after the other."""

    record: Record
    change: Change


@dataclass(frozen=True, slots=True)
class Captured:
    """The format of a topic of changes. `keys` names the tables it may carry, each with its primary key's columns."""

    keys: Mapping[str, tuple[str, ...]]

    def inspect(self, records: Sequence[Record]) -> tuple[list[Inspected], list[dlq.Dead]]:
        good: list[Inspected] = []
        dead: list[dlq.Dead] = []
        for record in records:
            try:
                change, owner = self._read(record.key, record.value)
            except Poison as poison:
                dead.append(dlq.Dead(record, poison, 3, self.tenant(record)))
            else:
                good.append(Inspected(record, event_key(owner, change.identity.encode()), change))
        return good, dead

    def events(self, kept: Sequence[Inspected]) -> list[Changed]:
        return [Changed(one.record, one.content) for one in kept]

    def identify(self, key: bytes | None, value: bytes | None, _headers: Headers) -> bytes | None:
        try:
            change, owner = self._read(key, value)
        except Poison:
            return None
        return event_key(owner, change.identity.encode())

    def tenant(self, record: Record) -> str:
        return (record.key or b"").decode("ascii", "replace")[:TENANT_BYTES]

    def describe(self, record: Record) -> list[tuple[str, bytes]]:
        found = [(dlq.TENANT, self.tenant(record).encode()), (dlq.SCHEMA, SCHEMA.encode())]
        try:
            change = parse(record.value, self.keys)
        except Poison:
            return found
        names = ((dlq.EVENT_ID, change.identity), (dlq.EVENT_TYPE, f"{change.table}/{change.op}"))
        return [*found, *((name, text.encode()) for name, text in names)]

    def _read(self, key: bytes | None, value: bytes | None) -> tuple[Change, bytes]:
        change = parse(value, self.keys)
        if change.op == TRUNCATE:
            raise Poison(
                "truncated", f"{change.table} was truncated, which says nothing of its rows: reconcile and repair"
            )
        owner = change.tenant_id.encode()
        if key != owner:
            raise Poison("tenant_mismatch", f"the record's key is not the {TENANT_COLUMN} of the row")
        return change, owner


def parse(value: bytes | None, keys: Mapping[str, tuple[str, ...]]) -> Change:
    """The change in a record's value. Raises Poison for anything but a whole change of one of the tables `keys`."""
    envelope = _envelope(value)
    source = envelope.get("source")
    if not isinstance(source, dict):
        raise Poison("not_a_change", "source is missing")
    table, op = source.get("table"), envelope.get("op")
    if not isinstance(table, str) or table not in keys:
        raise Poison("unknown_table", f"source.table is none of {', '.join(keys)}")
    if op not in OPS:
        raise Poison("unknown_op", f"op is none of {', '.join(OPS)}")
    before, after = _columns(envelope, "before"), _columns(envelope, "after")
    if after is not None and op == UPDATE:
        after = _available(table, before, after)
    lsn, position = _places(source)
    tx_id = source.get("txId")
    change = Change(
        table=table,
        op=op,
        key=() if op == TRUNCATE else _key(table, keys[table], before if op == DELETE else after),
        before=before,
        after=after,
        lsn=lsn,
        position=position,
        tx_id=None if tx_id is None else _whole(source, "txId"),
        committed_at_ms=_whole(source, "ts_ms", TIME_MS_MAX),
        snapshot=source.get("snapshot") not in NO_SNAPSHOT,
    )
    if op != TRUNCATE and len(change.tenant_id) != TENANT_BYTES:
        raise Poison("bad_tenant", f"{TENANT_COLUMN} is a UUID of {TENANT_BYTES} characters")
    return change


def _envelope(value: bytes | None) -> dict[str, Any]:
    if value is None:
        raise Poison("empty_value", "a record of this topic has a value")
    if len(value) > VALUE_BYTES_MAX:
        raise Poison("too_large", f"{len(value)} bytes, {VALUE_BYTES_MAX} are allowed")
    try:
        envelope = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise Poison("bad_json", f"position {error.pos}: {error.msg}") from error
    if not isinstance(envelope, dict) or "op" not in envelope:
        raise Poison("not_a_change", "the value is no change envelope of Debezium (schemas must be off)")
    return envelope


def _columns(envelope: Mapping[str, Any], name: str) -> Columns | None:
    columns = envelope.get(name)
    if columns is not None and not isinstance(columns, dict):
        raise Poison("not_a_change", f"{name} is neither an object nor null")
    return columns


def _key(table: str, names: tuple[str, ...], row: Columns | None) -> tuple[str, ...]:
    if row is None:
        raise Poison("missing_row", f"{table}: the row itself is missing; a delete needs REPLICA IDENTITY FULL")
    for name in (*names, TENANT_COLUMN):
        if not isinstance(row.get(name), KEY_TYPES):
            raise Poison("missing_column", f"{table}.{name} is missing, and identifies the row")
    return tuple(str(row[name]) for name in names)


def _available(table: str, before: Columns | None, after: Columns) -> Columns:
    """The row with the values that Debezium did not get taken from the former row, since they have not changed."""
    if UNAVAILABLE not in after.values():
        return after
    whole = dict(after)
    for name, held in after.items():
        if held == UNAVAILABLE:
            if before is None or before.get(name, UNAVAILABLE) == UNAVAILABLE:
                raise Poison("unavailable_value", f"{table}.{name} was not sent; the table needs REPLICA IDENTITY FULL")
            whole[name] = before[name]
    return whole


def _places(source: Mapping[str, Any]) -> tuple[int, int]:
    """LSN and position of a change: from `sequence`, the last commit's end and its own LSN, else from `lsn` alone.

    An incremental snapshot's reads have no `lsn`, an initial one's no last commit.
    """
    text = source.get("sequence")
    if text is None:
        lsn = _whole(source, "lsn")
        return lsn, lsn
    try:
        if len(text) > SEQUENCE_CHARACTERS_MAX:
            raise ValueError
        committed, own = _sequence(text)
    except (TypeError, ValueError):
        raise Poison("not_a_change", "source.sequence is no pair of LSNs") from None
    if own is None:
        own = _whole(source, "lsn")
    position = max(own, committed or 0)
    if not (own >= 0 and position <= LSN_MAX):
        raise Poison("not_a_change", "source.sequence is no pair of LSNs")
    return own, position


@lru_cache(maxsize=SEQUENCES_CACHED)
def _sequence(text: str) -> tuple[int | None, int | None]:
    committed, own = (None if one is None else int(one) for one in orjson.loads(text))
    return committed, own


def _whole(source: Mapping[str, Any], name: str, limit: int = LSN_MAX) -> int:
    number = source.get(name)
    if type(number) is not int or not 0 <= number <= limit:
        raise Poison("not_a_change", f"source.{name} is no whole number from 0 to {limit}")
    return number
