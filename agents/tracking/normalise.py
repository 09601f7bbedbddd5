"""Normalise gateway webhooks into sale events.

Reads: gateway.received. Writes: ClickHouse gateway_events. Guarantees: one row a delivery; what cannot be normalised
goes to the DLQ whole and is replayed after a fix.
"""

from agents.tracking.sale import sale_event
from app.errors import Poison
from app.outputs import Events, Outputs
from app.pseudonym import Pseudonymiser
from schemas.rows import GATEWAY_EVENTS


def process(events: Events, pseudonymiser: Pseudonymiser) -> Outputs:
    """One canonical sale event for each webhook. Buyers leave as keyed hashes only."""
    outputs = Outputs()
    for event in events.decoded(outputs):
        try:
            outputs.insert(GATEWAY_EVENTS, event, sale_event(event.value, pseudonymiser))
        except Poison as poison:
            outputs.reject(event.record, poison)
    return outputs
