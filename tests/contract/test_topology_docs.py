"""ARCHITECTURE.md and the domain cards list the pipelines and topics that the code declares, neither more nor fewer."""

import base64
import importlib
import re
from collections.abc import Iterator

import pytest

from agents import topology
from app.pipeline import Pipeline
from app.settings import MASTER_KEY_BYTES, Settings
from schemas.topics import DAY_MS, TOPICS
from tests.contract import tree

PAGE = "ARCHITECTURE.md"
SETTINGS = Settings.model_validate({"master_key": base64.b64encode(bytes(MASTER_KEY_BYTES)).decode()})
PIPELINES: tuple[Pipeline, ...] = topology.pipelines(SETTINGS)


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of the table under a heading, without its own heading rows."""
    section = re.split(rf"(?m)^## {heading}$", tree.read(PAGE))[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    for line in lines[2:]:
        yield [cell.strip().strip("`") for cell in line.strip("|").split("|")]


def produced(pipeline: Pipeline) -> str:
    """The topics that a pipeline produces to, as the table has them."""
    return ", ".join(emits.topic.name for emits in pipeline.emits)


def test_the_page_lists_the_pipelines_of_the_map() -> None:
    """The table of pipelines is the topology."""
    declared = [
        [p.name, str(p.version), p.reads.name, ", ".join(row.table for row in p.writes), produced(p), p.dead.name]
        for p in PIPELINES
    ]
    assert list(rows("Pipelines")) == declared


def test_the_page_lists_the_topics() -> None:
    """The table of topics is the declaration, with the reason for each."""
    declared = [[t.name, str(t.partitions), f"{t.retention_ms / DAY_MS:g}", t.why] for t in TOPICS]
    assert list(rows("Topics")) == declared


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.name)
def test_each_domain_card_names_its_pipelines_and_topics(pipeline: Pipeline) -> None:
    """`agents/<domain>/__init__.py` says what the domain reads and writes."""
    card = importlib.import_module(f"agents.{pipeline.name.split('.')[0]}").__doc__ or ""
    words = {word.strip(".") for word in re.findall(r"[\w.]+", card)}
    assert {pipeline.name, pipeline.reads.name, *(row.table for row in pipeline.writes)} | {
        emits.topic.name for emits in pipeline.emits
    } <= words


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.name)
def test_a_pipeline_has_one_name_everywhere(pipeline: Pipeline) -> None:
    """The name is the module path, so a line of a log leads to a file."""
    assert (tree.ROOT / "agents" / f"{pipeline.name.replace('.', '/')}.py").is_file()


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.name)
def test_a_dlq_outlives_its_source(pipeline: Pipeline) -> None:
    """A record set aside is still there when its source has gone, and has room for its headers."""
    assert pipeline.dead.retention_ms > pipeline.reads.retention_ms
    assert pipeline.dead.record_bytes_max > pipeline.reads.record_bytes_max


def test_dedupe_state_can_be_rebuilt_from_its_topic() -> None:
    """The dedupe window never reaches further back than the source topic."""
    for pipeline in PIPELINES:
        assert pipeline.seen.window_hours * 3_600_000 <= pipeline.reads.retention_ms
