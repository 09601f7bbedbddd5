"""The worker's way: from a topic full of records to rows in ClickHouse, beside the floor of the machine.

Contestants run one after the other on the same records, the same broker and the same engine, in several rounds.
"""

import datetime as dt
import time
import uuid
from typing import Any

import httpx
import psutil
from confluent_kafka import Consumer, Producer, TopicPartition

from app import codec
from app.settings import Settings
from app.sinks.container import Row, container, container_header
from infra.local.stack import Stack
from schemas.envelope import headers
from schemas.topics import TRACKING_COLLECTED

RECORDS = 200_000
EVENT_BYTES = 1_024
TENANTS = 50
DUPLICATES_EVERY = 10  # every tenth record carries the id of the one before
FLOOR_ROWS = 50_000
DRAIN_TIMEOUT_S = 300.0
POLL_S = 0.1


def fill(settings: Settings) -> tuple[int, int]:
    """Produce RECORDS records of EVENT_BYTES. Returns how many, and how many distinct events they are."""
    schema = codec.schema("tracking-event")
    run = uuid.uuid4().hex
    now = dt.datetime.now(dt.UTC)
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_url,
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 20,
            "queue.buffering.max.messages": RECORDS,
        }
    )
    tenants = [str(uuid.uuid5(uuid.NAMESPACE_OID, f"{run}{number}")) for number in range(TENANTS)]
    filler = ""
    value, key, envelope, distinct = b"", b"", headers("", "", "", ""), 0
    for number in range(RECORDS):
        if number % DUPLICATES_EVERY or not number:
            # The square skews the tenants: the first has 14 % of the records, the last 1 %.
            tenant = tenants[int((number * 7919 % RECORDS / RECORDS) ** 2 * TENANTS)]
            event = {
                "tenant_id": tenant,
                "event_id": f"{run}-{number}",
                "event_type": "click",
                "occurred_at": now,
                "received_at": now,
                "url": f"https://shop.example/p/{number}",
                "properties": filler,
            }
            if not filler:
                filler = "x" * (EVENT_BYTES - len(schema.encode(event)))
                event["properties"] = filler
            value, key = schema.encode(event), tenant.encode()
            envelope = headers(str(event["event_id"]), tenant, "click", schema.name)
            distinct += 1
        producer.produce(TRACKING_COLLECTED.name, value, key, headers=[*envelope])
        producer.poll(0)
    producer.flush()
    return RECORDS, distinct


def measure(stack: Stack, rounds: int) -> dict[str, Any]:
    """Events a second of one worker, all guarantees on, and of the floor, in the same rounds."""
    worker, floor, cpu_us, rss = [], [], [], []
    for _ in range(rounds):
        stack.stop("worker")
        before = _rows(stack.settings)
        starts = _ends(stack.settings)
        records, distinct = fill(stack.settings)
        floor.append(_floor(stack.settings, starts))
        stack.start("worker")
        process = psutil.Process(stack.records()["worker"].pid)
        seconds, cpu_s = _drain(stack.settings, before + distinct, process)
        worker.append(records / seconds)
        cpu_us.append(cpu_s / records * 1e6)
        rss.append(process.memory_info().rss / 2**20)
    return {
        "records": RECORDS,
        "event_bytes": EVENT_BYTES,
        "worker_events_per_s": [round(value) for value in worker],
        "floor_events_per_s": [round(value) for value in floor],
        "ratio_to_floor": [round(ours / theirs, 2) for ours, theirs in zip(worker, floor, strict=True)],
        "worker_cpu_us_per_event": [round(value, 1) for value in cpu_us],
        "worker_rss_mb": [round(value) for value in rss],
    }


def _drain(settings: Settings, wanted: int, process: psutil.Process) -> tuple[float, float]:
    """Seconds from the worker's first row until the last, and its CPU seconds in that time."""
    base = _rows(settings)
    while (rows := _rows(settings)) == base and rows < wanted:
        time.sleep(POLL_S)
    began, cpu = time.monotonic(), sum(process.cpu_times()[:2])
    share = (wanted - rows) / max(1, wanted - base)
    while (rows := _rows(settings)) < wanted:
        if time.monotonic() - began > DRAIN_TIMEOUT_S:
            raise RuntimeError(f"{wanted - rows} rows are missing after {DRAIN_TIMEOUT_S} s")
        time.sleep(POLL_S)
    if rows != wanted:
        raise RuntimeError(f"{rows - wanted} rows too many")
    # The first batch was there when the clock began: only the rest was timed.
    return (time.monotonic() - began) / max(share, 1e-9), (sum(process.cpu_times()[:2]) - cpu) / max(share, 1e-9)


def _ends(settings: Settings) -> dict[int, int]:
    consumer = _consumer(settings)
    try:
        partitions = consumer.list_topics(TRACKING_COLLECTED.name).topics[TRACKING_COLLECTED.name].partitions
        return {
            number: consumer.get_watermark_offsets(TopicPartition(TRACKING_COLLECTED.name, number))[1]
            for number in partitions
        }
    finally:
        consumer.close()


def _floor(settings: Settings, starts: dict[int, int]) -> float:
    """Records a second of a loop that consumes and inserts the same bytes and does nothing else for anybody."""
    version = codec.schema("tracking-event").latest
    header = container_header(version)
    consumer = _consumer(settings)
    table = f"{settings.clickhouse_database}.floor"
    with httpx.Client(base_url=settings.clickhouse_url, timeout=120, trust_env=False) as client:
        source = f"{settings.clickhouse_database}.tracking_events"
        client.post("/", content=f"CREATE OR REPLACE TABLE {table} AS {source} ENGINE = MergeTree ORDER BY tuple()")
        consumer.assign([TopicPartition(TRACKING_COLLECTED.name, number, at) for number, at in starts.items()])
        began, left = time.monotonic(), RECORDS
        while left:
            rows: list[Row] = []
            while len(rows) < min(FLOOR_ROWS, left):
                found: list[Any] = consumer.consume(FLOOR_ROWS - len(rows), 0.5)
                rows += [Row(record.offset(), record.value()[codec.PREFIX_BYTES :]) for record in found]
            body = container(header, TRACKING_COLLECTED.name, 0, rows)
            insert = {"query": f"INSERT INTO {table} FORMAT Avro", "input_format_avro_allow_missing_fields": "1"}
            client.post("/", params=insert, content=body).raise_for_status()
            left -= len(rows)
        seconds = time.monotonic() - began
        client.post("/", content=f"DROP TABLE {table}")
    consumer.close()
    return RECORDS / seconds


def _consumer(settings: Settings) -> Consumer:
    return Consumer(
        {"bootstrap.servers": settings.kafka_url, "group.id": "afluente-bench", "enable.auto.commit": False}
    )


def _rows(settings: Settings) -> int:
    answer = httpx.get(
        settings.clickhouse_url,
        params={"query": f"SELECT count() FROM {settings.clickhouse_database}.tracking_events"},  # noqa: S608
        headers={"X-ClickHouse-Key": settings.clickhouse_password.get_secret_value()},
        timeout=60,
        trust_env=False,
    )
    answer.raise_for_status()
    return int(answer.text)
