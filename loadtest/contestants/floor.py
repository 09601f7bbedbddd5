"""The floor: consume and insert the same bytes. Nothing is decoded, deduped, named or committed.

What is left when everything that protects a row is taken away: the limit of one loop on this machine.
`consume` and `insert` alone show which half costs what.
"""

import sys

import httpx
from confluent_kafka import Consumer, TopicPartition

from app import codec
from app.sinks.container import SYNC, container_header, varint
from loadtest.contestants.contest import Clock, Contest

BATCH_RECORDS = 50_000
CLICKHOUSE_TIMEOUT_S = 120
MODES = ("both", "consume", "insert")


class Floor:
    """One course in one of the modes."""

    def __init__(self, contest: Contest, mode: str) -> None:
        self.contest = contest
        self.mode = mode
        version = codec.schema("tracking-event").latest
        self.header = container_header(version, ())
        names = ", ".join(field["name"] for field in version.parsed["fields"])
        query = f"INSERT INTO {contest.database}.{contest.table} ({names}) FORMAT Avro"
        self.parameters = {"query": query, "max_insert_block_size": "1048576"}
        key = {"X-ClickHouse-Key": contest.password} if contest.password else {}
        address = f"http://{contest.clickhouse}"
        self.client = httpx.Client(base_url=address, timeout=CLICKHOUSE_TIMEOUT_S, trust_env=False, headers=key)

    def consumer(self) -> Consumer:
        """Reads every partition from its start, in no group."""
        consumer = Consumer(
            {"bootstrap.servers": self.contest.kafka, "group.id": self.contest.group, "enable.auto.commit": False}
        )
        partitions = consumer.list_topics(self.contest.topic).topics[self.contest.topic].partitions
        consumer.assign([TopicPartition(self.contest.topic, number, 0) for number in partitions])
        return consumer

    def block(self, datums: list[bytes]) -> bytes:
        """An Avro container with one block."""
        body = b"".join(datums)
        return b"".join((self.header, varint(len(datums)), varint(len(body)), body, SYNC))

    def run(self) -> None:
        """Carry all records of the contest."""
        clock, consumer, blocks, done = Clock(), self.consumer(), [], 0
        while done < self.contest.records:
            found = consumer.consume(BATCH_RECORDS, timeout=0.2)
            if not found:
                continue
            clock.start()
            if self.mode != "consume":
                block = self.block([record.value() or b"" for record in found])
                blocks.append(block)
            if self.mode == "both":
                self.insert(blocks.pop())
            done += len(found)
        consumer.close()
        if self.mode == "insert":
            clock = Clock()
            clock.start()
            for block in blocks:
                self.insert(block)
        clock.finish(done)

    def insert(self, block: bytes) -> None:
        """One block, there when this returns."""
        self.client.post("/", params=self.parameters, content=block).raise_for_status()


def main() -> None:
    """The mode is the argument."""
    mode = sys.argv[1] if len(sys.argv) > 1 else "both"
    if mode not in MODES:
        sys.exit(f"{mode}: one of {', '.join(MODES)} is needed")
    Floor(Contest.read(), mode).run()


main()
