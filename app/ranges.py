"""The range of one record batch: what step 2 of the loop makes durable and what names an insert to ClickHouse.

A range is a pure function of the source topic's offsets, so a replay after a crash carries the same token and
ClickHouse drops what it already has.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Self

import orjson

METADATA_VERSION = 1  # of the JSON below; a reader refuses a version it does not know
METADATA_BYTES_MAX = 4096  # the broker's default offset.metadata.max.bytes: a longer text is refused there


@dataclass(frozen=True, slots=True)
class Range:
    """Offsets `first..last`, both included, of one partition, as one transform version of one pipeline sees them.

    `deliveries` counts how often it was begun; it is no part of what the range is.
    """

    topic_id: str
    topic: str
    partition: int
    first: int
    last: int
    version: int
    deliveries: int = field(default=1, compare=False)

    def again(self) -> Self:
        """The same range, delivered once more."""
        return replace(self, deliveries=self.deliveries + 1)

    def metadata(self) -> str:
        """The pending record that travels in the metadata of the Kafka offset commit."""
        fields = asdict(self)
        if self.deliveries == 1:
            del fields["deliveries"]  # so that a worker from before the count reads it, too
        return orjson.dumps({"v": METADATA_VERSION, **fields}).decode()

    @classmethod
    def from_metadata(cls, text: str) -> Self | None:
        """The pending range in a commit's metadata, or None when the text is empty: nothing was in flight.

        Raises ValueError when the text is not ours: starting over it could lose the range it names.
        """
        if not text:
            return None
        try:
            fields = orjson.loads(text)
            if fields.pop("v") != METADATA_VERSION:
                raise ValueError("unknown version")
            return cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"offset-commit metadata is not a pending range of Afluente: {text[:200]!r}") from error


def token(pipeline: str, table: str, schema_id: int, span: Range, namespace: str = "") -> str:
    """The `insert_deduplication_token` of one block: equal for a retry of the range, different for all else.

    The topic id is part of it because a re-created topic starts again at offset 0, and a reused token makes
    ClickHouse drop new rows silently. A replay by an operator has a `namespace` of its own for the same reason.
    """
    parts = (pipeline, f"v{span.version}", table, f"s{schema_id}", span.topic_id, str(span.partition))
    # A colon inside a part must not read as the border between two: one token for two blocks would drop rows.
    plain = (part.replace("%", "%25").replace(":", "%3A") for part in parts)
    return ":".join(plain) + f":{span.first}-{span.last}" + (f":{namespace}" if namespace else "")
