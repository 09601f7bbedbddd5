"""Quix Streams: its state for dedupe (by key, which is the tenant), and a batching sink into ClickHouse.

Runs in `.venv-quix`: it pins older versions of libraries that the stack uses.
"""

import clickhouse_connect
from quixstreams import Application, State
from quixstreams.sinks import BatchingSink, SinkBatch

from loadtest.contestants.contest import COLUMNS, Clock, Contest

COMMIT_EVERY = 10_000  # the default of 5 s alone would make a short course one batch

contest, clock = Contest.read(), Clock()


class ClickHouse(BatchingSink):
    """One insert a partition and checkpoint."""

    def setup(self) -> None:
        self.client = clickhouse_connect.get_client(**contest.server)

    def write(self, batch: SinkBatch) -> None:
        rows = [[item.value[name] for name in COLUMNS] for item in batch]
        if rows:
            self.client.insert(contest.table, rows, column_names=COLUMNS)


def first(event: dict, state: State) -> bool:  # type: ignore[type-arg]
    """Whether the id is new to its tenant."""
    clock.start()
    if state.get(event["event_id"]):
        return False
    state.set(event["event_id"], 1)
    return True


def main() -> None:
    """Carry all records, then the last checkpoint, then stop; Quix counts what comes out of the filter."""
    app = Application(
        broker_address=contest.kafka,
        consumer_group=contest.group,
        auto_offset_reset="earliest",
        state_dir=contest.folder,
        commit_every=COMMIT_EVERY,
        loglevel="WARNING",
    )
    topic = app.topic(contest.topic, value_deserializer="json")
    app.dataframe(topic).filter(first, stateful=True).sink(ClickHouse())
    app.run(count=contest.distinct)
    clock.finish(contest.records)


main()
