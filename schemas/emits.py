"""What a pipeline produces: the topic, and the Avro subject of its events. A pipeline names each in its `emits`."""

from dataclasses import dataclass
from typing import Final

from schemas import topics
from schemas.topics import Topic


@dataclass(frozen=True, slots=True, eq=False)  # named once each, and looked up for every event
class Emits:
    """Events of one subject on one topic, under the envelope's headers."""

    topic: Topic
    subject: str


BILLS_EVENTS: Final = Emits(topic=topics.BILLS_EVENTS, subject="bill-event")
