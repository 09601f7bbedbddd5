"""Laws of the topology: what the map says can be run, side by side, without meeting."""

import base64

import pytest

from agents import topology
from app import codec
from app.formats import Enveloped
from app.pipeline import Pipeline
from app.settings import Settings
from schemas.topics import HOUR_MS

SETTINGS = Settings(master_key=base64.b64encode(bytes(range(32))).decode())
PIPELINES = topology.pipelines(SETTINGS)


def clashes(pipelines: tuple[Pipeline, ...]) -> list[str]:
    """What two pipelines of a worker share and must not: name, source topic, DLQ, state."""
    kinds = {
        "name": [pipeline.name for pipeline in pipelines],
        "topic": [pipeline.reads.name for pipeline in pipelines],
        "DLQ": [pipeline.dead.name for pipeline in pipelines],
        "seen table": [pipeline.seen.name for pipeline in pipelines],
    }
    return [kind for kind, names in kinds.items() if len(set(names)) != len(names)]


def test_pipelines_share_nothing() -> None:
    """Loops are found by topic and state by table name: two under one name would overwrite each other."""
    assert clashes(PIPELINES) == []


def test_the_checker_sees_a_pipeline_that_is_listed_twice() -> None:
    """The law above can fail."""
    assert clashes((*PIPELINES, PIPELINES[0])) == ["name", "topic", "DLQ", "seen table"]


def test_every_topic_goes_to_its_own_dlq() -> None:
    """A rebuild tells poison by the DLQ of the pipeline; a source that is its own DLQ would loop."""
    sources = {pipeline.reads.name for pipeline in PIPELINES}
    for pipeline in PIPELINES:
        assert pipeline.dead.name not in sources


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.name)
def test_every_pipeline_can_be_run(pipeline: Pipeline) -> None:
    """Its schema is there, its tables have a schema, its version counts from one."""
    if isinstance(pipeline.form, Enveloped):
        assert pipeline.form.schema.latest.subject == pipeline.form.subject
    for declared in (*pipeline.writes, *pipeline.emits):
        assert codec.schema(declared.subject).latest.subject == declared.subject
    assert pipeline.version >= 1
    assert len(set(pipeline.writes)) == len(pipeline.writes)


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.name)
def test_lost_state_can_be_rebuilt(pipeline: Pipeline) -> None:
    """The source topic is the changelog of the seen table, so it must hold what the window covers."""
    assert pipeline.seen.window_hours * HOUR_MS <= pipeline.reads.retention_ms


def test_the_map_needs_the_master_key() -> None:
    """Without it buyers would be hashed with a key that everybody knows: the worker does not start."""
    with pytest.raises(ValueError, match="AFLUENTE_MASTER_KEY"):
        topology.pipelines(Settings())
