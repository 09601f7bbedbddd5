"""Laws of the operator's replay: it stays below the commit, and restores each missing event once."""

from typing import Any
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from app.batch import TP
from app.codec import Version, schema
from app.formats import Enveloped
from app.outputs import Events, Outputs
from app.pipeline import Pipeline
from app.replaying import Outcome, Plan, Replay, Window, span_of, unique_of
from app.sinks.container import Row
from app.source import SourceRecord
from app.stored import Counts, EventKey
from schemas import envelope, topics
from schemas.rows import TRACKING_EVENTS, Rows
from tables import tracking

TENANT = str(uuid4())
SUBJECT = schema("tracking-event")
PLACE = TP("tracking.collected", 0)


class Table:
    """A table of events in memory: what the sink is given, and what a lookup finds."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []
        self.tokens: list[str] = []

    async def existing(self, table: Rows, keys: list[EventKey]) -> dict[EventKey, int]:
        return dict.fromkeys(set(keys) & set(self.events), 0)

    async def insert(
        self, table: str, version: Version, source: tuple[str, int], rows: list[Row], token: str
    ) -> list[Any]:
        self.tokens.append(token)
        self.events += [key for row in rows if (key := unique_of(row, version, TRACKING_EVENTS)[0])]
        return []


def pass_through(_events: Events) -> Outputs:
    outputs = Outputs()
    outputs.pass_through(TRACKING_EVENTS)
    return outputs


PIPELINE = Pipeline(
    name="tracking.collect", version=1, reads=topics.TRACKING_COLLECTED, dead=topics.TRACKING_COLLECTED_DLQ,
    form=Enveloped("tracking-event"), process=pass_through, seen=tracking.COLLECTED, writes=(TRACKING_EVENTS,),
)  # fmt: skip


def click(offset: int, event_id: str, at_ms: int = 50) -> SourceRecord:
    fields: dict[str, Any] = {}
    for one in SUBJECT.latest.parsed["fields"]:
        kinds = one["type"] if isinstance(one["type"], list) else [one["type"]]
        fields[one["name"]] = one.get("default", None if "null" in kinds else "")
    fields |= {"tenant_id": TENANT, "event_id": event_id, "event_type": "click", "occurred_at": 1, "received_at": 1}
    headers = envelope.headers(event_id, TENANT, "click", SUBJECT.name)
    return SourceRecord(*PLACE, offset, at_ms, TENANT.encode(), SUBJECT.encode(fields), headers)


def replay(table: Table, namespace: str = "r1") -> Replay:
    chosen = Plan(PIPELINE, Window(0, 100), "id", {PLACE: (0, 99)}, 0)
    return Replay(chosen, table, table, namespace)  # type: ignore[arg-type]


@given(st.integers(0, 100), st.integers(0, 100), st.integers(-1, 100))
def test_a_replay_never_reaches_what_the_worker_will_write(first: int, end: int, committed: int) -> None:
    """Every offset that is read is below the commit, within the window, and there is no empty span."""
    span = span_of(first, end, committed)
    wanted = [offset for offset in range(first, end) if offset < committed]
    assert (list(range(span[0], span[1] + 1)) if span else []) == wanted


chunks = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=5)


@given(chunks, st.sets(st.integers(0, 9)), st.sets(st.integers(0, 40), max_size=5))
async def test_each_missing_event_is_restored_once(ids: list[list[int]], there: set[int], dead: set[int]) -> None:
    """However records repeat, within a chunk or across, and whatever is there: no duplicate, and only dead stay out."""
    table = Table()
    table.events = [EventKey(TENANT, f"e{one}") for one in there]
    work = replay(table)
    offset, alive = 0, set(there)
    for chunk in ids:
        records = [click(offset + index, f"e{one}") for index, one in enumerate(chunk)]
        alive |= {one for index, one in enumerate(chunk) if offset + index not in dead}
        await work.carry(PLACE, records, dead, dry_run=False)
        offset += len(chunk)
    assert sorted(table.events) == sorted(EventKey(TENANT, f"e{one}") for one in alive)
    assert work.outcome.missing == len(alive - there)


async def test_a_dry_run_inserts_nothing() -> None:
    """--dry-run counts and leaves the table alone."""
    table = Table()
    work = replay(table)
    await work.carry(PLACE, [click(1, "a")], set(), dry_run=True)
    assert (table.events, work.outcome.missing) == ([], 1)


async def test_records_outside_of_the_window_are_left_alone() -> None:
    """Offsets are only an index: the record's own timestamp decides, the end not included."""
    table = Table()
    work = replay(table)
    await work.carry(PLACE, [click(1, "a", 99), click(2, "b", 100), click(3, "c", -1)], set(), dry_run=False)
    assert table.events == [EventKey(TENANT, "a")]
    assert work.outcome.outside == 2


async def test_a_replay_has_tokens_of_its_own() -> None:
    """Its inserts share no token with the worker's or with another replay's, or ClickHouse would drop them."""
    tokens = []
    for namespace in ("", "r1", "r2"):
        table = Table()
        await replay(table, namespace).carry(PLACE, [click(1, "a")], set(), dry_run=False)
        tokens += table.tokens
    assert len(set(tokens)) == 3


async def test_poison_is_counted_and_its_neighbours_are_restored() -> None:
    """A record that cannot be processed never takes its neighbours along."""
    table = Table()
    work = replay(table)
    broken = click(2, "b")._replace(value=b"\x00")
    await work.carry(PLACE, [click(1, "a"), broken, click(3, "c")], set(), dry_run=False)
    assert {event_id for _, event_id in table.events} == {"a", "c"}
    assert work.outcome.poison == 1


def test_doubled_counts_new_duplicates_only() -> None:
    """Duplicates that were there before are no fault of the replay."""
    outcome = Outcome(before={"t": Counts(10, 8)}, after={"t": Counts(12, 10)})
    assert outcome.doubled == 0
    outcome.after["t"] = Counts(13, 10)
    assert outcome.doubled == 1


def test_a_row_names_its_own_event() -> None:
    """What is looked up is the id in the row, which is what ClickHouse holds; a broken datum is nobody's."""
    record = click(1, "a")
    assert unique_of(Row(1, (record.value or b"")), SUBJECT.latest, TRACKING_EVENTS) == (
        EventKey(TENANT, "a"),
        0,
    )
    assert unique_of(Row(1, b"\x01"), SUBJECT.latest, TRACKING_EVENTS) == ((), 0)
