"""Writes so many ids into a worker's dedupe state: `python -m loadtest.known_ids COUNT` with its AFLUENTE_WORKER_ID.

A process of its own, since a Faust table belongs to a Faust app and RocksDB to one process.
"""

import os
import sys

from agents.worker import worker
from app.dedup import KEY_BYTES, Applied
from app.ownership import describe
from schemas.topics import TRACKING_COLLECTED

CHUNK_IDS = 25_000  # of one "remember": a batch as the loop makes it
BEFORE_FIRST = -1
FAR = 1 << 40  # an offset that the run does not reach: each batch has a place of its own


def main() -> None:
    """The same number in each partition, all of them as if from before the first offset."""
    count = int(sys.argv[1])
    name = TRACKING_COLLECTED.name
    table = worker.tables[name]
    incarnation = describe(worker.settings.kafka_url, {name})[name]
    worker.settings.worker_folder.mkdir(parents=True, exist_ok=True)
    worker.app.conf.tabledir.mkdir(parents=True, exist_ok=True)
    for partition in range(TRACKING_COLLECTED.partitions):
        left = count // TRACKING_COLLECTED.partitions
        place = FAR
        while left > 0:
            ids = [os.urandom(KEY_BYTES) for _ in range(min(CHUNK_IDS, left))]
            table.remember(partition, dict.fromkeys(ids, 0), Applied(incarnation, place))
            left, place = left - len(ids), place + 1
        table.remember(partition, {}, Applied(incarnation, BEFORE_FIRST))
        table.release(partition)


main()
