"""The dead-letter queue: where a poison record goes, whole, with the reason: nothing is lost and nothing blocks.

Written in step 6 of the loop, before the commit. One DLQ topic a source topic; the record keeps its key, its bytes
and its headers, and gets `dlq_*` headers. A replay puts it back on the source topic as it was.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from app.batch import Record
from app.errors import Poison
from app.producer import Record as Produced
from app.ranges import Range
from schemas.envelope import Headers, header

SOURCE_TOPIC = "dlq_topic"
SOURCE_TOPIC_ID = "dlq_topic_id"
SOURCE_PARTITION = "dlq_partition"
SOURCE_OFFSET = "dlq_offset"
SOURCE_TIMESTAMP = "dlq_timestamp_ms"
REASON = "dlq_reason"
ERROR = "dlq_error"
PIPELINE = "dlq_pipeline"
VERSION = "dlq_version"
TIME = "dlq_time_ms"
NULL_VALUE = "dlq_null_value"
# What the record's own headers do not say, since it has no envelope of ours.
TENANT = "dlq_tenant"
EVENT_ID = "dlq_event_id"
EVENT_TYPE = "dlq_event_type"
SCHEMA = "dlq_schema"
REPLAY_OF = "dlq_replay_of"  # on a replayed record, on the source topic: the DLQ entry it was
PREFIX = "dlq_"

ERROR_CHARACTERS_MAX = 2_000  # enough for ClickHouse's longest texts; a header is no place for a stack trace

# A batch counts as broken only with this many poison records: one bad webhook alone in a quiet batch is no deploy.
LIMIT_RECORDS_MIN = 100


@dataclass(frozen=True, slots=True)
class Dead:
    """A record that cannot be processed. `step` is the step of the loop that found it."""

    record: Record
    poison: Poison
    step: int
    tenant_id: str


class BrokenDeploy(Exception):  # noqa: N818 - says what it means
    """Most of a batch is poison: the deploy is broken, not the records. The process stops and commits nothing."""


def check_limit(dead: Sequence[Dead], rows: int, ratio_max: float) -> None:
    """Raise BrokenDeploy when most of a batch of `rows` records is poison.

    What only step 5 calls poison is content that one tenant sent: it stops us only when tenants agree, or else one
    tenant could stop all others by sending nonsense that is correctly signed. A replayed record that fails again
    says nothing new about the deploy; counted, it would stop the worker at every start, since its range is pending.
    """
    if len(dead) < LIMIT_RECORDS_MIN or len(dead) <= ratio_max * rows:
        return
    dead = [one for one in dead if header(one.record.headers, REPLAY_OF) is None]
    if len(dead) < LIMIT_RECORDS_MIN or len(dead) <= ratio_max * rows:
        return
    ours = [one for one in dead if one.step != 5]
    if len(ours) <= ratio_max * rows and len({one.tenant_id for one in dead}) < 2:
        return
    reasons = sorted({one.poison.reason for one in dead})
    raise BrokenDeploy(f"{len(dead)} of {rows} records are poison ({', '.join(reasons)}): stopping, nothing committed")


def entry(dlq: str, dead: Dead, span: Range, pipeline: str, described: Headers = ()) -> Produced:
    """The DLQ record of a dead one: original key, bytes and headers, `described` by its format; where, why and when."""
    record = dead.record
    headers = [(name, value) for name, value in record.headers if not name.startswith(PREFIX)]
    headers += [
        (SOURCE_TOPIC, span.topic.encode()),
        (SOURCE_TOPIC_ID, span.topic_id.encode()),
        (SOURCE_PARTITION, str(span.partition).encode()),
        (SOURCE_OFFSET, str(record.offset).encode()),
        (SOURCE_TIMESTAMP, str(record.timestamp).encode()),
        # A detail may quote what a tenant's JSON held, lone surrogates included.
        (REASON, dead.poison.reason.encode()),
        (ERROR, dead.poison.detail[:ERROR_CHARACTERS_MAX].encode("utf-8", "backslashreplace")),
        (PIPELINE, pipeline.encode()),
        (VERSION, str(span.version).encode()),
        (TIME, str(time.time_ns() // 1_000_000).encode()),
        *described,
    ]
    if record.value is None:
        # A tombstone and an empty value differ; confluent's producer keeps both apart, a reader of bytes may not.
        headers.append((NULL_VALUE, b"1"))
    return Produced(dlq, record.key, record.value or b"", headers)
