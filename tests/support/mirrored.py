"""What readers of the bills domain see: rows with FINAL, events on the topic; and how far the mirror has come."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import httpx
from aiokafka.errors import KafkaError
from confluent_kafka import KafkaException

from agents.bills import columns
from app import codec, dlq, progress, source
from app.batch import TP
from app.ranges import Range
from app.settings import GROUP_ID, Settings
from schemas.bills import BILLS, OCCURRENCES
from schemas.emits import BILLS_EVENTS
from schemas.envelope import HEADER_ID, HEADER_TENANT, HEADER_TYPE, header
from schemas.topics import BILLS_CHANGES, BILLS_CHANGES_DLQ
from tests.support.changes import Database, produced
from tests.support.traffic import Channel

POLL_S: Final = 0.2
QUIET_S: Final = 90.0
TABLES: Final = (BILLS, OCCURRENCES)
SHOWN: Final[dict[columns.Kind, str]] = {
    columns.UUID: "toString({})", columns.MONEY: "toDecimalString({}, 2)", columns.DATE: "toUInt16({})",
    columns.TIME: "toUnixTimestamp64Micro({})", columns.OPTIONAL_TIME: "toUnixTimestamp64Micro({})",
}  # fmt: skip


class Mirrored:
    """The bills of one stack, asked as any client would."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def sql(self, query: str) -> str:
        """The answer of ClickHouse."""
        answer = httpx.post(self.settings.clickhouse_url, content=query, timeout=30, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.text

    def rows(self, table: str, tenant: str) -> list[dict[str, Any]]:
        """The tenant's rows as a reader with FINAL sees them."""
        shown = ", ".join(
            f"{SHOWN.get(kind, '{}').format('m.' + name)} AS {name}" for name, kind in columns.TABLES[table].items()
        )
        name = f"{self.settings.clickhouse_database}.{table}"
        text = self.sql(
            f"SELECT {shown} FROM {name} AS m FINAL WHERE m.tenant_id = '{tenant}' ORDER BY id FORMAT JSONEachRow"
            " SETTINGS output_format_json_quote_64bit_integers = 0"
        )
        return [json.loads(line) for line in text.splitlines()]

    def differences(self, database: Database) -> list[str]:
        """Where ClickHouse and the database do not agree."""
        found = []
        for table in TABLES:
            wanted = {row_id: columns.read(table, row) for (of, row_id), row in database.rows.items() if of == table}
            given = self.rows(table, database.tenant)
            rows = {row["id"]: row for row in given}
            if len(rows) != len(given):
                found.append(f"{table}: a row is there twice")
            found += [f"{table}: {row_id} is missing" for row_id in wanted.keys() - rows.keys()]
            found += [f"{table}: {row_id} should be gone" for row_id in rows.keys() - wanted.keys()]
            for row_id in wanted.keys() & rows.keys():
                texts = {name: str(value) for name, value in rows[row_id].items()}
                expected = {name: str(value) for name, value in wanted[row_id].items()}
                found += [f"{table}: {row_id}.{name}" for name in expected if texts[name] != expected[name]]
        return found

    def events(self, tenant: str) -> list[tuple[str, str, dict[str, Any]]]:
        """Id, type and value of every event of the tenant, copies included, in the order of the topic."""
        schema, bootstrap = codec.schema(BILLS_EVENTS.subject), self.settings.kafka_url
        found = []
        for tp in source.partitions(bootstrap, BILLS_EVENTS.topic.name):
            for records in source.read(bootstrap, tp, (0, None)):
                for record in map(source.as_record, records):
                    texts = [(header(record.headers, name) or b"").decode() for name in (HEADER_ID, HEADER_TYPE)]
                    if header(record.headers, HEADER_TENANT) == record.key == tenant.encode():
                        found.append((texts[0], texts[1], schema.decode(record.value or b"")))
        return found

    def dead(self, tenants: Sequence[str]) -> dict[tuple[bytes | None, ...], str]:
        """Reason and detail of each distinct change of these tenants in the DLQ, by its place on the topic."""
        found = {}
        for tp in source.partitions(self.settings.kafka_url, BILLS_CHANGES_DLQ.name):
            for records in source.read(self.settings.kafka_url, tp, (0, None)):
                for record in map(source.as_record, records):
                    if (header(record.headers, dlq.TENANT) or b"").decode() in tenants:
                        place = tuple(
                            header(record.headers, name) for name in (dlq.SOURCE_PARTITION, dlq.SOURCE_OFFSET)
                        )
                        texts = [(header(record.headers, name) or b"").decode() for name in (dlq.REASON, dlq.ERROR)]
                        found[place] = ": ".join(texts)
        return found

    def positions(self) -> dict[TP, tuple[int, Range | None]]:
        """Committed offset and pending range of each partition of the changes."""
        places = source.partitions(self.settings.kafka_url, BILLS_CHANGES.name)
        return asyncio.run(progress.read(self.settings.kafka_url, GROUP_ID, set(places)))

    def behind(self) -> dict[TP, tuple[int, int]]:
        """(committed, end) of each partition that is not wholly durable."""
        positions = self.positions()
        ends = {tp: high for tp, (_, high) in source.bounds(self.settings.kafka_url, positions).items()}
        return {
            tp: (committed, ends[tp])
            for tp, (committed, span) in positions.items()
            if span is not None or max(committed, 0) < ends[tp]
        }

    def await_quiet(self, check: Callable[[], None] = lambda: None) -> None:
        """Until every change is durable. `check` may raise to end the wait."""
        deadline = time.monotonic() + QUIET_S
        left: object = "nothing was asked"
        while time.monotonic() < deadline:
            check()
            try:
                left = self.behind()
            except (KafkaError, KafkaException) as error:
                left = error
            if not left:
                return
            time.sleep(POLL_S)
        raise AssertionError(f"not quiet within {QUIET_S:.0f} s: {left}")


def send(channel: Channel, changes: Sequence[dict[str, Any]]) -> None:
    """Write changes as Connect would; returns when Kafka has them."""
    channel.send([produced(change) for change in changes])
