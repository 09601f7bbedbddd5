"""Avro schemas: every version reads what the one before it wrote, ids never move, and rows are the tables' columns."""

import json
import re
from collections import defaultdict

import avro.schema
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

from schemas import rows
from tests.contract import tree

FOLDER = "schemas/avro/"
SOURCE_COLUMNS = ["_topic", "_partition", "_offset", "_ingested_at"]
TABLES = {found.table: found.subject for found in vars(rows).values() if isinstance(found, rows.Rows)}
# Avro type -> the ClickHouse types that take it without loss.
TYPES = {
    "uuid": {"UUID"},
    "string": {"String", "LowCardinality(String)"},
    "timestamp-millis": {"DateTime64(3, 'UTC')"},
    "timestamp-micros": {"DateTime64(6, 'UTC')"},
    "timestamp-micros?": {"Nullable(DateTime64(6, 'UTC'))"},
    "date": {"Date"},
    "decimal(14, 2)": {"Decimal(14, 2)"},
    "decimal(18, 4)?": {"Nullable(Decimal(18, 4))"},
    "boolean?": {"Nullable(Bool)"},
    "int": {"Int32", "UInt16", "UInt8"},
    "int?": {"Nullable(Int32)"},
    "long": {"Int64", "UInt64"},
    "boolean": {"Bool"},
}


def versions() -> dict[str, dict[int, str]]:
    """Subject -> version -> text of the schema."""
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for path in tree.files():
        if match := re.fullmatch(rf"{FOLDER}([a-z-]+)\.(\d+)\.avsc", path):
            found[match[1]][int(match[2])] = tree.read(path)
    return dict(found)


def reads(reader: str, writer: str) -> bool:
    """Whether a reader with one schema understands what was written with the other."""
    checker = ReaderWriterCompatibilityChecker()
    result = checker.get_compatibility(reader=avro.schema.parse(reader), writer=avro.schema.parse(writer))
    return result.compatibility is SchemaCompatibilityType.compatible


def columns(table: str) -> dict[str, str]:
    """Column -> type of one table, from the numbered SQL."""
    ddl = "".join(tree.read(path) for path in tree.files() if path.startswith("schemas/clickhouse/"))
    body = re.search(rf"CREATE TABLE IF NOT EXISTS {{database}}\.{table} [^(]*\((.*?)\n\)", ddl, re.DOTALL)
    assert body, table
    lines = (line.strip().rstrip(",") for line in body[1].strip().splitlines())
    split = (
        re.split(r" CODEC| DEFAULT| COMMENT", line)[0].split(" ", 1) for line in lines if not line.startswith("INDEX")
    )
    return {name: kind for name, kind in split}  # noqa: C416 - the pairs are lists


def avro_type(field: dict[str, object]) -> str:
    """A field's type in the words of TYPES; `?` when it may be null."""
    kind, suffix = field["type"], ""
    if isinstance(kind, list):
        kind, suffix = next(part for part in kind if part != "null"), "?"
    if isinstance(kind, dict):
        kind = str(kind["logicalType"]) + (f"({kind['precision']}, {kind['scale']})" if "precision" in kind else "")
    return f"{kind}{suffix}"


@pytest.mark.parametrize("subject", versions())
def test_each_version_reads_what_the_one_before_it_wrote(subject: str) -> None:
    """A worker that is deployed first still reads the records that are already in Kafka."""
    texts = versions()[subject]
    assert sorted(texts) == list(range(1, len(texts) + 1))
    assert all(reads(texts[number], texts[number - 1]) for number in range(2, len(texts) + 1))


def test_a_field_without_a_default_would_be_seen() -> None:
    """The check above can fail: an old record has nothing for such a field."""
    text = versions()["tracking-event"][1]
    schema = json.loads(text)
    schema["fields"].append({"name": "planted", "type": "string"})
    assert not reads(json.dumps(schema), text)
    schema["fields"][-1]["default"] = ""
    assert reads(json.dumps(schema), text)


def test_every_schema_version_has_one_fixed_id() -> None:
    """An id in a record names one schema for ever: each version has one, and no two share it."""
    ids = json.loads(tree.read(FOLDER + "ids.lock.json"))
    assert set(ids) == {f"{subject}/{number}" for subject, texts in versions().items() for number in texts}
    assert len(set(ids.values())) == len(ids)


@pytest.mark.parametrize(("table", "subject"), TABLES.items())
def test_a_row_is_the_record_and_its_source(table: str, subject: str) -> None:
    """A pass-through insert appends to the datum: the columns are the fields, in order, and then the source."""
    texts = versions()[subject]
    fields = json.loads(texts[max(texts)])["fields"]
    assert list(columns(table)) == [field["name"] for field in fields] + SOURCE_COLUMNS


@pytest.mark.parametrize(("table", "subject"), TABLES.items())
def test_each_column_takes_its_field_without_loss(table: str, subject: str) -> None:
    """Money stays a decimal, a time keeps its milliseconds, and what may be absent may be null."""
    texts = versions()[subject]
    types = columns(table)
    for field in json.loads(texts[max(texts)])["fields"]:
        assert types[field["name"]] in TYPES[avro_type(field)], field["name"]
