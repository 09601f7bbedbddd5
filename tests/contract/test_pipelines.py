"""Pipelines, topics, schemas and tables say the same: what one file declares, the others rely on."""

import base64
import importlib
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest

from agents import topology
from app import codec
from app.formats import Enveloped
from app.inspection import TENANT_BYTES, TENANT_LENGTH_BYTE
from app.pipeline import Pipeline
from app.settings import Settings
from app.sinks.container import SOURCE_FIELDS
from schemas import rows, topics
from schemas.rows import Rows
from schemas.topics import DLQ_SUFFIX, HOUR_MS, TOPICS
from tests.contract.tree import ROOT

PIPELINES = topology.pipelines(Settings(master_key=base64.b64encode(bytes(range(32))).decode()))
ROWS = tuple(value for value in vars(rows).values() if isinstance(value, Rows))
each_pipeline = pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.name)
each_rows = pytest.mark.parametrize("declared", ROWS, ids=lambda declared: declared.table)

# What ClickHouse reads each Avro type into. A pair that is not here is a row that is refused, or changed, at insert.
COLUMN_TYPES = {
    "string": {"String", "LowCardinality(String)"},
    "string/uuid": {"UUID"},
    "long/timestamp-millis": {"DateTime64(3, 'UTC')"},
    "null|bytes/decimal(18, 4)": {"Nullable(Decimal(18, 4))"},
    "null|boolean": {"Nullable(Bool)"},
    "null|int": {"Nullable(Int32)"},
    "int": {"UInt32", "Int32", "UInt16", "UInt8"},
    "long": {"UInt64", "Int64"},
    "long/timestamp-micros": {"DateTime64(6, 'UTC')"},
    "null|long/timestamp-micros": {"Nullable(DateTime64(6, 'UTC'))"},
    "bytes/decimal(14, 2)": {"Decimal(14, 2)"},
    "int/date": {"Date"},
}
INGESTED = "_ingested_at"  # ClickHouse's own: when the row came


def avro_type(kind: Any) -> str:
    """One word for an Avro type: base, logical type, branches of a union."""
    if isinstance(kind, list):
        return "|".join(map(avro_type, kind))
    if isinstance(kind, str):
        return kind
    logical = kind.get("logicalType")
    digits = f"({kind['precision']}, {kind['scale']})" if logical == "decimal" else ""
    return kind["type"] + (f"/{logical}{digits}" if logical else "")


def ddl_columns(text: str) -> dict[str, dict[str, str]]:
    """The columns of each table of the DDL, in order, with their types."""
    found: dict[str, dict[str, str]] = {}
    for match in re.finditer(
        r"CREATE TABLE IF NOT EXISTS \{database\}\.(\w+)[^(]*\n\((.*?)\n\)\nENGINE", text, re.DOTALL
    ):
        lines = [line.strip().rstrip(",") for line in match[2].strip().splitlines()]
        pairs = [line.split(" ", 1) for line in lines if line and not line.startswith(("INDEX", "--"))]
        found[match[1]] = {name: re.split(r" (?:CODEC|DEFAULT|COMMENT)\b", kind)[0] for name, kind in pairs}
    return found


DDL = ddl_columns("\n".join(path.read_text() for path in sorted((ROOT / "schemas" / "clickhouse").glob("*.sql"))))


def differences(fields: list[Mapping[str, Any]], columns: Mapping[str, str]) -> list[str]:
    """Where a subject's fields with the source columns, and a table's columns, are not the same."""
    wanted = {field["name"]: avro_type(field["type"]) for field in (*fields, *SOURCE_FIELDS)}
    given = {name: kind for name, kind in columns.items() if name != INGESTED}
    found = [f"column {name} has no field" for name in given.keys() - wanted.keys()]
    found += [f"field {name} has no column" for name in wanted.keys() - given.keys()]
    for name in wanted.keys() & given.keys():
        if given[name] not in COLUMN_TYPES.get(wanted[name], set()):
            found.append(f"{name}: {wanted[name]} into {given[name]}")
    return sorted(found)


@each_rows
def test_a_subject_and_its_table_have_the_same_columns(declared: Rows) -> None:
    """A field without a column stops every insert; a column without a field stays empty without a word."""
    assert differences(codec.schema(declared.subject).latest.parsed["fields"], DDL[declared.table]) == []


def test_the_comparison_sees_planted_differences() -> None:
    """The law above can fail: in both directions, and by type."""
    fields = [{"name": "a", "type": "string"}, {"name": "b", "type": ["null", "int"]}, {"name": "c", "type": "string"}]
    source = {"_topic": "String", "_partition": "UInt32", "_offset": "UInt64"}
    assert differences(fields, {"a": "String", "b": "Int32", "d": "String", **source}) == [
        "b: null|int into Int32",
        "column d has no field",
        "field c has no column",
    ]


@each_rows
def test_every_table_tells_where_a_row_came_from_and_when(declared: Rows) -> None:
    """Topic, partition, offset: an operator finds the record of any row."""
    assert list(DDL[declared.table])[-4:] == ["_topic", "_partition", "_offset", INGESTED]


def test_every_table_of_the_ddl_is_written_by_a_pipeline() -> None:
    """A table that nobody fills is a promise that nobody keeps."""
    assert {declared.table for pipeline in PIPELINES for declared in pipeline.writes} == set(DDL)


def subjects(pipeline: Pipeline) -> list[str]:
    """The subjects of the enveloped topics that a pipeline reads and produces to."""
    read = [pipeline.form.subject] if isinstance(pipeline.form, Enveloped) else []
    return [*read, *(emits.subject for emits in pipeline.emits)]


@each_pipeline
def test_a_subject_that_is_read_or_produced_begins_with_its_tenant(pipeline: Pipeline) -> None:
    """Inspection compares those bytes without decoding: first field, a string, 36 characters."""
    for subject in subjects(pipeline):
        first = codec.schema(subject).latest.parsed["fields"][0]
        assert (first["name"], avro_type(first["type"])) == ("tenant_id", "string/uuid")
    assert bytes([TENANT_BYTES << 1]) == TENANT_LENGTH_BYTE


@each_pipeline
def test_a_pipeline_reads_a_declared_topic_with_a_longer_lived_dlq(pipeline: Pipeline) -> None:
    """`topics apply` makes what is declared; poison that goes before its source would come back in a rebuild."""
    assert pipeline.reads in TOPICS
    assert pipeline.dead in TOPICS
    assert pipeline.dead.name == pipeline.reads.name + DLQ_SUFFIX
    assert pipeline.dead.retention_ms >= pipeline.reads.retention_ms
    # The record goes there whole, with headers on top.
    assert pipeline.dead.record_bytes_max > pipeline.reads.record_bytes_max


@each_pipeline
def test_the_dedupe_window_fits_the_topic(pipeline: Pipeline) -> None:
    """An id is known as long as its topic can tell it again."""
    assert pipeline.seen.window_hours * HOUR_MS <= pipeline.reads.retention_ms


@each_pipeline
def test_a_pipeline_is_named_as_its_module(pipeline: Pipeline) -> None:
    """One name everywhere: module, agent, metric label, log field, alert."""
    module = importlib.import_module(f"agents.{pipeline.name}")
    process = pipeline.process.func if isinstance(pipeline.process, partial) else pipeline.process
    assert process is module.process


@each_pipeline
def test_a_pipeline_that_passes_through_reads_the_subject_of_its_table(pipeline: Pipeline) -> None:
    """Its datums are copied into the table's container, so the two must be one subject."""
    outputs = pipeline.process(pipeline.form.events([]))
    read = {pipeline.form.subject} if isinstance(pipeline.form, Enveloped) else set()
    assert {declared.subject for declared in outputs.passed} <= read
    assert {*outputs.rows, *outputs.passed} <= set(pipeline.writes)


def test_every_topic_is_read_or_produced_by_a_pipeline() -> None:
    """Records that nobody reads are lost when retention comes; what a pipeline produces is for others to read."""
    sources = {topic.name for topic in TOPICS if not topic.name.endswith(DLQ_SUFFIX)}
    produced = {emits.topic.name for pipeline in PIPELINES for emits in pipeline.emits}
    assert sources == {pipeline.reads.name for pipeline in PIPELINES} | produced


def test_every_topic_is_declared_once_and_listed() -> None:
    """A topic that is not in TOPICS is never created."""
    declared = [value for value in vars(topics).values() if isinstance(value, topics.Topic)]
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)
    assert set(declared) == set(TOPICS)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_topics_keep_their_records_as_they_are(topic: topics.Topic) -> None:
    """Compaction would take events away; the state that is rebuilt from a topic needs every one."""
    assert topic.cleanup == "delete"
    assert topic.why
    assert re.fullmatch(r"[a-z0-9.]+", topic.name)
