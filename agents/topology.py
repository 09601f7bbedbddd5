"""THE MAP: one row a pipeline. What reads which topic, runs which process, remembers what, and writes where."""

from functools import partial

from agents.bills import mirror
from agents.tracking import collect, normalise
from app.cdc import Captured
from app.formats import Enveloped
from app.pipeline import Pipeline
from app.pseudonym import Pseudonymiser
from app.settings import Settings
from schemas import bills as bills_schema
from schemas import emits, rows, topics
from tables import bills, tracking


def pipelines(settings: Settings) -> tuple[Pipeline, ...]:
    """Every pipeline of the worker. `settings` gives the processes that need one their secret."""
    pseudonymiser = Pseudonymiser(settings.master_key_bytes)
    return (
        Pipeline(
            name="tracking.collect",
            version=1,
            reads=topics.TRACKING_COLLECTED,
            dead=topics.TRACKING_COLLECTED_DLQ,
            form=Enveloped("tracking-event"),
            process=collect.process,
            seen=tracking.COLLECTED,
            writes=(rows.TRACKING_EVENTS,),
        ),
        Pipeline(
            name="tracking.normalise",
            version=1,
            reads=topics.GATEWAY_RECEIVED,
            dead=topics.GATEWAY_RECEIVED_DLQ,
            form=Enveloped("gateway-webhook"),
            process=partial(normalise.process, pseudonymiser=pseudonymiser),
            seen=tracking.RECEIVED,
            writes=(rows.GATEWAY_EVENTS,),
        ),
        Pipeline(
            name="bills.mirror",
            version=1,
            reads=topics.BILLS_CHANGES,
            dead=topics.BILLS_CHANGES_DLQ,
            form=Captured(bills_schema.KEYS),
            process=mirror.process,
            seen=bills.CHANGES,
            writes=(rows.BILLS, rows.BILL_OCCURRENCES, rows.CDC_PROGRESS),
            emits=(emits.BILLS_EVENTS,),
        ),
    )
