"""THE MAP: one row a pipeline. What reads which topic, runs which process, remembers what, and writes where."""

from functools import partial

from agents.tracking import collect, normalise
from app.pipeline import Pipeline
from app.pseudonym import Pseudonymiser
from app.settings import Settings
from schemas import rows, topics
from tables import tracking


def pipelines(settings: Settings) -> tuple[Pipeline, ...]:
    """Every pipeline of the worker. `settings` gives the processes that need one their secret."""
    pseudonymiser = Pseudonymiser(settings.master_key_bytes)
    return (
        Pipeline(
            name="tracking.collect",
            version=1,
            reads=topics.TRACKING_COLLECTED,
            dead=topics.TRACKING_COLLECTED_DLQ,
            subject="tracking-event",
            process=collect.process,
            seen=tracking.COLLECTED,
            writes=(rows.TRACKING_EVENTS,),
        ),
        Pipeline(
            name="tracking.normalise",
            version=1,
            reads=topics.GATEWAY_RECEIVED,
            dead=topics.GATEWAY_RECEIVED_DLQ,
            subject="gateway-webhook",
            process=partial(normalise.process, pseudonymiser=pseudonymiser),
            seen=tracking.RECEIVED,
            writes=(rows.GATEWAY_EVENTS,),
        ),
    )
