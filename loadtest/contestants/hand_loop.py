"""What a good engineer writes in an afternoon: consume, parse, insert, commit. At least once, no dedupe.

JSON on the wire (parsed by orjson, faster than any Avro reader for Python), inserted column by column by
clickhouse-connect, which is its fastest way in.
"""

import clickhouse_connect
import orjson
from confluent_kafka import Consumer

from loadtest.contestants.contest import COLUMNS, Clock, Contest

BATCH_RECORDS = 50_000


def main() -> None:
    """Consume until all records of the contest are rows."""
    contest, clock = Contest.read(), Clock()
    client = clickhouse_connect.get_client(**contest.server)
    consumer = Consumer(
        {
            "bootstrap.servers": contest.kafka,
            "group.id": contest.group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([contest.topic])
    done = 0
    while done < contest.records:
        found = consumer.consume(BATCH_RECORDS, timeout=0.5)
        if not found:
            continue
        clock.start()
        events = [orjson.loads(record.value() or b"") for record in found]
        columns = [[event[name] for event in events] for name in COLUMNS]
        client.insert(contest.table, columns, column_names=COLUMNS, column_oriented=True)
        consumer.commit(asynchronous=False)
        done += len(found)
    clock.finish(done)
    consumer.close()


main()
