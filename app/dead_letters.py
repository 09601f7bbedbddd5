"""The DLQ read back: which records are in it, which of them an operator means, and their way to the source topic.

A dead record may be in the DLQ twice (its range was replayed after a crash); where it came from tells it. A replayed
one is produced as it was and enters THE LOOP like any other: its id was never taken, so the dedupe step lets it pass
once. What became of an entry is in app/dead_letter_actions.py.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, Self

from confluent_kafka import Message

from app import cdc, codec, dlq, source
from app.batch import TP
from app.errors import Poison
from app.producer import Record as Produced
from app.stored import EventKey
from schemas.envelope import HEADER_ID, HEADER_SCHEMA, HEADER_TENANT, HEADER_TYPE
from schemas.topics import DLQ_SUFFIX, TOPICS

SELECTED_MAX: Final = 100_000  # entries in memory, about 1.5 kB each; more are to be narrowed by time
CHUNK_RECORDS: Final = 500  # sent, confirmed and marked together
CHUNK_BYTES: Final = 8 << 20  # of values in one chunk; a webhook may have 1 MB
VIEW_BYTES: Final = 64 << 10  # of a value that is shown; more is no reading for a terminal

DLQ_TOPICS: Final = tuple(topic.name for topic in TOPICS if topic.name.endswith(DLQ_SUFFIX))
_IDENTITY: Final = re.compile(
    r"(?P<topic>[A-Za-z0-9._-]{1,249})/(?P<partition>[0-9]{1,9})/(?P<offset>[0-9]{1,18})"
    r"(@(?P<topic_id>[A-Za-z0-9+/=_-]{1,64}))?"
)

Report = Callable[[int, int], None]  # records read, records there are


class Unreadable(ValueError):  # noqa: N818 - of an id or a record, told to the operator
    """Not an id of a DLQ entry, or a record that is none; the text says what is allowed."""


class TooMany(Exception):  # noqa: N818 - a bound, told to the operator
    """More entries are meant than fit into memory at once."""


class Identity(NamedTuple):
    """Where a dead record came from. The topic id tells a re-created topic from its former self."""

    topic: str
    partition: int
    offset: int
    topic_id: str

    @property
    def text(self) -> str:
        """How an operator names it."""
        return f"{self.topic}/{self.partition}/{self.offset}@{self.topic_id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `topic/partition/offset`, with `@topic id` where that alone names two; then the topic id is empty."""
        found = _IDENTITY.fullmatch(text)
        if found is None:
            raise Unreadable(f"{text!r} is no DLQ id: topic/partition/offset[@topic id], as `dlq list` prints it")
        return cls(found["topic"], int(found["partition"]), int(found["offset"]), found["topic_id"] or "")

    def names(self, other: "Identity") -> bool:
        """Whether this id, with or without its topic id, is the other's."""
        return self[:3] == other[:3] and self.topic_id in {"", other.topic_id}


@dataclass(frozen=True, slots=True)
class Entry:
    """One dead record, its value left in Kafka. `copies` lie in the DLQ; any of them is the whole record."""

    identity: Identity
    tenant_id: str
    event_id: str
    event_type: str
    schema: str
    reason: str
    error: str
    pipeline: str
    version: str
    died_at_ms: int
    source_timestamp_ms: int
    value_bytes: int
    replay_of: str
    place: TP
    place_offset: int
    copies: int = 1

    @property
    def event(self) -> EventKey:
        return EventKey(self.tenant_id, self.event_id)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries are meant: all that is given must hold. Times are when the record died, `since` included."""

    pipeline: str = ""
    reason: str = ""
    tenant_id: str = ""
    since_ms: int | None = None
    until_ms: int | None = None
    ids: tuple[Identity, ...] = ()

    def takes(self, entry: Entry) -> bool:
        """Whether the entry is meant."""
        return (
            self.pipeline in {"", entry.pipeline}
            and self.reason in {"", entry.reason}
            and self.tenant_id in {"", entry.tenant_id}
            and (self.since_ms is None or entry.died_at_ms >= self.since_ms)
            and (self.until_ms is None or entry.died_at_ms < self.until_ms)
            and (not self.ids or any(one.names(entry.identity) for one in self.ids))
        )

    @property
    def topics(self) -> list[str]:
        """The DLQ topics to look into."""
        wanted = {one.topic + DLQ_SUFFIX for one in self.ids}
        return [topic for topic in DLQ_TOPICS if not wanted or topic in wanted]


@dataclass(slots=True)
class Found:
    """What is in the DLQ for a selection, in the order of its topics. `unreadable` records are not ours."""

    entries: list[Entry] = field(default_factory=list)
    unreadable: int = 0


def entry_of(record: Message) -> Entry:
    """The entry of a DLQ record, from its headers. Raises Unreadable for a record that the loop did not write."""
    fields = {name: value or b"" for name, value in source.headers_of(record)}

    def text(name: str) -> str:
        return fields.get(name, b"").decode("utf-8", "replace")

    try:
        identity = Identity(
            fields[dlq.SOURCE_TOPIC].decode(),
            int(fields[dlq.SOURCE_PARTITION]),
            int(fields[dlq.SOURCE_OFFSET]),
            fields[dlq.SOURCE_TOPIC_ID].decode(),
        )
        died_at_ms, source_timestamp_ms = int(fields[dlq.TIME]), int(fields[dlq.SOURCE_TIMESTAMP])
    except (KeyError, ValueError) as error:
        raise Unreadable(f"a record without the headers of the DLQ: {type(error).__name__} {error}") from error
    place = TP(record.topic() or "", record.partition() or 0)
    if identity.topic + DLQ_SUFFIX != place.topic:
        raise Unreadable(f"a record of {identity.topic} in {place.topic}")
    return Entry(
        identity=identity,
        tenant_id=text(dlq.TENANT) or text(HEADER_TENANT),
        event_id=text(dlq.EVENT_ID) or text(HEADER_ID),
        event_type=text(dlq.EVENT_TYPE) or text(HEADER_TYPE),
        schema=text(dlq.SCHEMA) or text(HEADER_SCHEMA),
        reason=text(dlq.REASON),
        error=text(dlq.ERROR),
        pipeline=text(dlq.PIPELINE),
        version=text(dlq.VERSION),
        died_at_ms=died_at_ms,
        source_timestamp_ms=source_timestamp_ms,
        value_bytes=len(record.value() or b""),
        replay_of=text(dlq.REPLAY_OF),
        place=place,
        place_offset=record.offset() or 0,
    )


def gather(
    records: Sequence[Message], selection: Selection, into: dict[Identity, Entry], entries_max: int = SELECTED_MAX
) -> int:
    """Add the entries that are meant to `into`, each once. Returns how many records are no entries."""
    unreadable = 0
    for record in records:
        try:
            entry = entry_of(record)
        except Unreadable:
            unreadable += 1
            continue
        if not selection.takes(entry):
            continue
        copies = into[entry.identity].copies + 1 if entry.identity in into else 1
        # The last copy counts: it is the one that retention keeps longest.
        into[entry.identity] = replace(entry, copies=copies)
        if len(into) > entries_max:
            raise TooMany(f"more than {entries_max:,} entries are meant: narrow them by time, reason or tenant")
    return unreadable


def select(bootstrap: str, selection: Selection, report: Report, stop: threading.Event = source.NEVER_STOPPED) -> Found:
    """Every entry that is meant, read from Kafka. Blocks: run it in a thread. Raises TooMany."""
    found = Found()
    places = [tp for topic in selection.topics for tp in source.partitions(bootstrap, topic)]
    bounds = source.bounds(bootstrap, places)
    # A DLQ record is produced right after it died, so its Kafka timestamp is never before that.
    starts = source.offsets_at(bootstrap, places, selection.since_ms) if selection.since_ms is not None else {}
    spans = {tp: (max(low, starts.get(tp, low)), high) for tp, (low, high) in bounds.items()}
    total, done = sum(max(0, high - low) for low, high in spans.values()), 0
    for tp, (low, high) in spans.items():
        into: dict[Identity, Entry] = {}
        for records in source.read(bootstrap, tp, (low, high - 1), stop) if low < high else ():
            found.unreadable += gather(records, selection, into)
            done += len(records)
            report(done, total)
        found.entries += into.values()
    return found


def originals(
    bootstrap: str, entries: Sequence[Entry], chunk_records: int = CHUNK_RECORDS
) -> Iterator[list[tuple[Entry, Produced]]]:
    """The entries with the records they were, in the DLQ's order, in chunks that bound memory. Blocks."""
    by_place: dict[TP, dict[int, Entry]] = {}
    for entry in entries:
        by_place.setdefault(entry.place, {})[entry.place_offset] = entry
    chunk: list[tuple[Entry, Produced]] = []
    size = 0
    for tp, wanted in by_place.items():
        for records in source.read(bootstrap, tp, (min(wanted), max(wanted))):
            for record in records:
                entry_here = wanted.get(record.offset() or 0)
                if entry_here is None:
                    continue
                chunk.append((entry_here, original(entry_here, record)))
                size += entry_here.value_bytes
                if len(chunk) >= chunk_records or size >= CHUNK_BYTES:
                    yield chunk
                    chunk, size = [], 0
    if chunk:
        yield chunk


def original(entry: Entry, record: Message) -> Produced:
    """The record as it was on its source topic: key, bytes and headers, with one more that says whence it comes."""
    headers = source.headers_of(record)
    kept = [(name, value) for name, value in headers if not name.startswith(dlq.PREFIX)]
    kept.append((dlq.REPLAY_OF, entry.identity.text.encode()))
    was_null = any(name == dlq.NULL_VALUE for name, _ in headers)
    value = None if was_null else source.as_bytes(record.value()) or b""
    return Produced(entry.identity.topic, source.as_bytes(record.key()), value, kept)


def view(schema: str, value: bytes | None) -> dict[str, Any]:
    """A value for a person's eyes: as the Avro or the JSON that it is said to be, or as bytes; at most VIEW_BYTES."""
    if value is None:
        return {"form": "null"}
    if len(value) > VIEW_BYTES:
        return {"form": "hex", "cut_at_bytes": VIEW_BYTES, "value": value[:VIEW_BYTES].hex(" ", 2)}
    if schema == cdc.SCHEMA:
        return {"form": "json", "schema": schema, "value": _readable(value)}
    subject = schema.rpartition("/")[0]
    try:
        fields = codec.schema(subject).decode(value)
    except (Poison, KeyError):
        return {"form": "hex", "value": value.hex(" ", 2)}
    return {"form": "avro", "schema": schema, "value": {name: _readable(each) for name, each in fields.items()}}


def _readable(field_value: Any) -> Any:
    """Bytes as the JSON or the text they are, else as hex."""
    if not isinstance(field_value, bytes):
        return field_value
    try:
        text = field_value.decode()
    except UnicodeDecodeError:
        return field_value.hex(" ", 2)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
