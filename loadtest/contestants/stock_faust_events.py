"""Stock Faust event by event, with a table and no insert: shows that the time goes into the delivery of each event."""

import os

import faust

from loadtest.contestants.contest import Clock, Contest

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


@app.agent(source)
async def collect(stream):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - as the documentation writes it
    done = 0
    async for event in stream:
        clock.start()
        key = f"{event['tenant_id']}/{event['event_id']}"
        if not seen[key]:
            seen[key] = True
        done += 1
        if done >= contest.records:
            clock.finish(done)
            os._exit(0)
