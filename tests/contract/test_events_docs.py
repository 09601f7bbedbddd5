"""docs/events.md describes the events that the mirror really tells: types, envelope, and an example of each."""

import json
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pytest

from agents.bills import mirror
from app import codec
from app.cdc import Captured
from schemas.bills import BILLS, EVENT_TYPES, KEYS, OCCURRENCES
from schemas.emits import BILLS_EVENTS
from tests.contract import tree
from tests.support.changes import TIME, Database, record

PAGE = tree.read("docs/events.md")
SCHEMA = codec.schema(BILLS_EVENTS.subject)
BILL, OCCURRENCE = "0b0e3c1a-5a0e-4d5c-9f0e-1f2d3c4b5a60", "7c1d2e3f-4a5b-4c6d-8e7f-901234567890"
NAMES = {"string/uuid": "UUID", "bytes/decimal": "decimal(14, 2)", "int/date": "date", "string": "text", "int": "int",
         "long": "long", "long/timestamp-millis": "time (ms)", "long/timestamp-micros": "time (µs)",
         "array": "texts", "record": "record"}  # fmt: skip


def kind(of: Any) -> str:
    """A field's type in the words of the page; `?` when it may be null."""
    if isinstance(of, list):
        return kind(next(one for one in of if one != "null")) + "?"
    if isinstance(of, str):
        return NAMES[of]
    return NAMES[of["type"] + (f"/{of['logicalType']}" if "logicalType" in of else "")]


def table(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, its own heading rows left out."""
    section = re.split(rf"(?m)^## {heading}$", PAGE)[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def lived() -> dict[str, dict[str, Any]]:
    """One event of each type, through Avro and back, as JSON shows it."""
    database = Database()
    database.insert(BILLS, BILL)
    database.insert(OCCURRENCES, OCCURRENCE, bill_id=BILL)
    database.update(BILLS, BILL, category="office")
    database.update(OCCURRENCES, OCCURRENCE, status="paid", paid_at=TIME)
    database.delete(OCCURRENCES, OCCURRENCE)
    database.delete(BILLS, BILL)
    form = Captured(KEYS)
    good, _ = form.inspect([record(offset, change) for offset, change in enumerate(database.changes)])
    told = [event for _, event in mirror.process(form.events(good)).produced[BILLS_EVENTS]]
    return {event.type: shown(SCHEMA.decode(SCHEMA.encode(event.value))) for event in told}


def shown(value: Any) -> Any:
    """A decoded value as JSON shows it: money and ids as text, times in ISO 8601."""
    if isinstance(value, dict):
        return {name: shown(one) for name, one in value.items()}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal | UUID) else value


EVENTS = lived()
EXAMPLES = {found[1]: json.loads(found[2]) for found in re.finditer(r"(?ms)^### `(\w+)`$.*?^```json\n(.*?)^```$", PAGE)}


def test_the_page_has_every_type_of_event_and_no_other() -> None:
    """A type that is not described is one that nobody can rely on."""
    assert tuple(EXAMPLES) == tuple(row[0] for row in table("Types")) == EVENT_TYPES
    assert set(EVENTS) == set(EVENT_TYPES)


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_each_example_is_what_the_mirror_tells(event_type: str) -> None:
    """The example is made by the pipeline's own rules and Avro schema: it cannot be out of date."""
    assert EXAMPLES[event_type] == EVENTS[event_type], orjson.dumps(
        EVENTS[event_type], option=orjson.OPT_INDENT_2
    ).decode()


@pytest.mark.parametrize("heading", ["Envelope", "`data`"])
def test_the_fields_on_the_page_are_the_schemas(heading: str) -> None:
    """Names, order, types and what each means: the page and the schema are one."""
    fields = SCHEMA.latest.parsed["fields"]
    if heading == "`data`":
        fields = next(field["type"]["fields"] for field in fields if field["name"] == "data")
    assert table(heading) == [[field["name"], kind(field["type"]), field.get("doc", "")] for field in fields]
