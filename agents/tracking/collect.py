"""Collect tracking events.

Reads: tracking.collected. Writes: ClickHouse tracking_events. Guarantees: one row an event id within the dedupe window.
"""

from app.outputs import Events, Outputs
from schemas.rows import TRACKING_EVENTS


def process(_events: Events) -> Outputs:
    """Each event is a row as it is: the edge has validated it, and its Avro fields are the table's columns."""
    outputs = Outputs()
    outputs.pass_through(TRACKING_EVENTS)
    return outputs
