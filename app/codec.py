"""Avro in the Confluent wire format: the value of every record on our own topics, encoded at the edge, decoded here.

One value = magic byte 0, the schema id in four bytes big-endian, the datum. Ids come from `schemas/avro/ids.lock.json`
or, with a registry URL set, from that registry at start; never while records flow. So a deploy that adds a schema
version starts the workers before the edge: a worker that meets an id it does not know calls the record poison.
"""

import io
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import fastavro
from confluent_kafka.schema_registry import Schema as RegistrySchema
from confluent_kafka.schema_registry import SchemaRegistryClient

from app.datum import Unusual, writer_of
from app.errors import Poison
from app.settings import Settings

AVRO_FOLDER: Final = Path(__file__).resolve().parent.parent / "schemas" / "avro"
LOCK_FILE: Final = "ids.lock.json"
MAGIC: Final = 0
_PREFIX: Final = struct.Struct(">bI")
PREFIX_BYTES: Final = _PREFIX.size
_FILE_NAME: Final = re.compile(r"(?P<subject>[a-z0-9-]+)\.(?P<version>[0-9]+)\.avsc")

# What fastavro raises for a datum that does not fit its schema: short reads, bad lengths, bad text, bad union index.
_BAD_DATUM: Final = (EOFError, ValueError, IndexError, KeyError, TypeError, OverflowError, StopIteration, MemoryError)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of one subject as it is on disk, with the id that stands for it on the wire."""

    subject: str
    number: int
    id: int
    parsed: Any = field(repr=False)

    @property
    def name(self) -> str:
        """How headers name it, e.g. `tracking-event/1`."""
        return f"{self.subject}/{self.number}"


def read_datum(version: Version, datum: bytes, reader: Any = None) -> Any:
    """The record in `datum`, in the shape of `reader` when there is one. Poison unless it is exactly one datum."""
    stream = io.BytesIO(datum)
    try:
        record = fastavro.schemaless_reader(stream, version.parsed, reader)
    except _BAD_DATUM as error:
        raise Poison("bad_wire_format", f"not a datum of {version.name}: {type(error).__name__}") from error
    if left := len(datum) - stream.tell():
        raise Poison("bad_wire_format", f"{left} bytes are left after the datum of {version.name}")
    return record


class Schema:
    """The latest version of a subject: writes that version, reads every version of the subject into it."""

    __slots__ = ("_by_id", "_prefix", "_write", "latest", "name")

    def __init__(self, versions: list[Version]) -> None:
        self.latest = max(versions, key=lambda version: version.number)
        self.name = self.latest.name
        self._by_id = {version.id: version for version in versions}
        self._prefix = _PREFIX.pack(MAGIC, self.latest.id)
        self._write = writer_of(self.latest.parsed)

    @property
    def id(self) -> int:
        """The id of the version that `encode` writes."""
        return self.latest.id

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """The record as the bytes of a Kafka value. ValueError when it does not fit: that is a fault of the caller."""
        if self._write is not None:
            try:
                return self._prefix + self._write(record)
            except Unusual:
                pass  # fastavro knows more types, and says what is wrong
        out = io.BytesIO()
        out.write(self._prefix)
        try:
            fastavro.schemaless_writer(out, self.latest.parsed, record)
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
            raise ValueError(f"does not fit {self.name}: {error}") from error
        return out.getvalue()

    def decode(self, value: bytes) -> dict[str, Any]:
        """The record in the shape of the latest version, whichever version of this subject wrote it."""
        version = self.written_by(value)
        record = read_datum(version, value[_PREFIX.size :], self._reader_schema(version))
        if not isinstance(record, dict):
            raise Poison("bad_wire_format", f"{version.name} is not a record schema")
        return record

    def written_by(self, value: bytes) -> Version:
        """The version named by the wire-format prefix; Poison when it is none of this subject."""
        if len(value) < _PREFIX.size:
            raise Poison("bad_wire_format", f"{len(value)} bytes are too short: {_PREFIX.size} of prefix come first")
        magic, schema_id = _PREFIX.unpack_from(value)
        if magic != MAGIC:
            raise Poison("bad_wire_format", f"the magic byte is {magic}, not {MAGIC}")
        version = self._by_id.get(schema_id)
        if version is None:
            known = ", ".join(f"{v.name} = {v.id}" for v in self._by_id.values())
            raise Poison("unknown_schema", f"schema id {schema_id} is none of {self.latest.subject} ({known})")
        return version

    def _reader_schema(self, version: Version) -> Any:
        # fastavro resolves field by field when a reader schema is given; the same schema needs no resolving.
        return None if version is self.latest else self.latest.parsed


class Codec:
    """Every subject under `schemas/avro/`, with ids. Built once at start and shared."""

    def __init__(self, schemas: Mapping[str, Schema]) -> None:
        self._schemas = dict(schemas)

    @classmethod
    def load(cls, registry_url: str = "", folder: Path = AVRO_FOLDER) -> "Codec":
        """Read the schema files; take ids from the registry when there is a URL, else from the lock file."""
        texts = _read_folder(folder)
        ids = _register(registry_url, texts) if registry_url else _read_lock(folder, texts)
        versions: dict[str, list[Version]] = {}
        for (subject, number), text in texts.items():
            parsed = fastavro.parse_schema(json.loads(text), named_schemas={})
            version = Version(subject, number, ids[f"{subject}/{number}"], parsed)
            versions.setdefault(subject, []).append(version)
        return cls({subject: Schema(found) for subject, found in versions.items()})

    def schema(self, subject: str) -> Schema:
        """The schema of a subject by name, e.g. `tracking-event`."""
        if subject not in self._schemas:
            raise KeyError(f"no schema {subject!r} in {AVRO_FOLDER.name}/; there are {sorted(self._schemas)}")
        return self._schemas[subject]


def schema(subject: str) -> Schema:
    """The schema of a subject, with ids as this process's settings say."""
    return _default().schema(subject)


@lru_cache(maxsize=1)
def _default() -> Codec:
    return Codec.load(Settings.load().schema_registry_url.get_secret_value())


def _read_folder(folder: Path) -> dict[tuple[str, int], str]:
    texts: dict[tuple[str, int], str] = {}
    for path in sorted(folder.glob("*.avsc")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise ValueError(f"{path.name}: a schema file is named <subject>.<version>.avsc")
        texts[match["subject"], int(match["version"])] = path.read_text()
    return texts


def _read_lock(folder: Path, texts: Mapping[tuple[str, int], str]) -> dict[str, int]:
    ids: dict[str, int] = json.loads((folder / LOCK_FILE).read_text())
    names = {f"{subject}/{number}" for subject, number in texts}
    if names != set(ids):
        raise ValueError(f"{LOCK_FILE} and the schema files differ: {sorted(names ^ set(ids))}")
    if len(set(ids.values())) != len(ids):
        raise ValueError(f"{LOCK_FILE} gives one id to two schemas")
    return ids


def _register(url: str, texts: Mapping[tuple[str, int], str]) -> dict[str, int]:
    """Each version under its subject, oldest first so that the registry's own versions count alike."""
    registry = SchemaRegistryClient({"url": url})
    ids: dict[str, int] = {}
    for (subject, number), text in sorted(texts.items()):
        # Registering what is there already gives its id back: the call is safe at every start.
        ids[f"{subject}/{number}"] = registry.register_schema(f"{subject}-value", RegistrySchema(text, "AVRO"))
    return ids
