"""A worker after a fix: `faust -A tests.support.fixed_worker worker` knows a webhook event that the first did not.

It is the worker of the project with one process replaced, as a deploy would replace it.
"""

from dataclasses import replace
from typing import Any

from agents.worker import Worker
from app.outputs import Events, Outputs
from app.pipeline import Loop, Pipeline
from app.settings import Settings
from app.source import SourceRecord
from app.stream import create_app
from schemas.topics import GATEWAY_RECEIVED

UNKNOWN, KNOWN = b'"order_settled"', b'"order_approved"'


class FixedLoop(Loop):
    """The loop, over pipelines whose normaliser reads `order_settled` as the approval that it is."""

    def __init__(self, pipeline: Pipeline, *others: Any) -> None:
        def process(events: Events) -> Outputs:
            return pipeline.process(Events([_read(one, events) for one in events.records], events.schema))

        super().__init__(
            replace(pipeline, process=process) if pipeline.name == "tracking.normalise" else pipeline, *others
        )


def _read(record: Any, events: Events) -> SourceRecord:
    fields = events.schema.decode(record.value)
    value = events.schema.encode({**fields, "body": fields["body"].replace(UNKNOWN, KNOWN)})
    place = (GATEWAY_RECEIVED.name, 0, record.offset, record.timestamp)  # a record of a batch does not name its place
    return SourceRecord(*place, record.key, value, record.headers)


app = create_app(Settings.load())
worker = Worker(app.settings, app, FixedLoop)
