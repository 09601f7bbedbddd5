"""Stock Faust as its documentation teaches it: an agent that takes up to 1,000 events or a second's worth, a RocksDB
table that remembers the ids, and one insert for what is left.

As it stands, Faust 0.15.3 refuses to write a RocksDB table inside `take`: the table asks for the current event, and
`take` sets none. It is set here for each event, so that the design runs at its best instead of not at all.
"""

import os
import weakref

import clickhouse_connect
import faust
from faust.streams import _current_event

from loadtest.contestants.contest import COLUMNS, Clock, Contest

TAKE = 1_000
WITHIN_S = 1

contest, clock = Contest.read(), Clock()
app = faust.App(
    contest.group,
    broker=f"kafka://{contest.kafka}",
    store="rocksdb://",
    datadir=contest.folder,
    value_serializer="json",
    topic_partitions=8,
    topic_replication_factor=1,
    table_standby_replicas=0,
    topic_disable_leader=True,
    consumer_auto_offset_reset="earliest",
    web_enabled=False,
)
source = app.topic(contest.topic)
seen = app.Table(f"{contest.group}-seen", default=bool, partitions=8)
done = 0


@app.agent(source)
async def collect(stream):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - as the documentation writes it
    global done  # noqa: PLW0603 - one process, one course
    client = await clickhouse_connect.get_async_client(**contest.server)
    async for events in stream.take_events(TAKE, within=WITHIN_S):
        clock.start()
        fresh = []
        for taken in events:
            _current_event.set(weakref.ref(taken))
            event = taken.value
            key = f"{event['tenant_id']}/{event['event_id']}"
            if not seen[key]:
                seen[key] = True
                fresh.append([event[name] for name in COLUMNS])
        if fresh:
            await client.insert(contest.table, fresh, column_names=COLUMNS)
        done += len(events)
        if done >= contest.records:
            clock.finish(done)
            os._exit(0)
