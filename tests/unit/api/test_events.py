"""One event from JSON to record: times, limits, people, and that every record fits its Avro schema."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.events import EPOCH, MILLISECOND, Reader, Rejected
from app.codec import Codec
from app.pseudonym import Pseudonymiser

TENANT = "9402ca49-1242-4ebb-93f1-25676eeb1628"
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SCHEMA = Codec.load().schema("tracking-event")
PEOPLE = Pseudonymiser(b"k" * 32)

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
EVENT = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("session_id", "click_id", "url", "utm_source", "fbclid", "user_id", "email", "phone"), TEXT),
        "value": st.decimals(-(10**13), 10**13, places=4).map(str) | st.integers(-(10**13), 10**13),
        "currency": st.just("BRL"),
        "consent_ads": st.booleans() | st.none(),
        "properties": st.dictionaries(
            TEXT, TEXT | st.integers(-(2**53), 2**53) | st.lists(TEXT, max_size=3), max_size=4
        ),
    },
)


def reader(event_type: str | None = "click") -> Reader:
    return Reader(TENANT, event_type, PEOPLE, NOW)


def code_of(event: object, event_type: str | None = "click") -> str:
    with pytest.raises(Rejected) as caught:
        reader(event_type).record(event, "/0")
    return caught.value.faults[0]["code"]


def occurred(**event: Any) -> datetime:
    return EPOCH + reader().record(event, "")["occurred_at"] * MILLISECOND


@given(EVENT)
def test_every_record_fits_the_schema_and_comes_back(event: dict[str, Any]) -> None:
    """What validation lets through, the Avro encoder takes, and a reader gets the same record."""
    if event.get("value") is not None:
        event["currency"] = "BRL"
    record = reader().record(event, "")
    back = SCHEMA.decode(SCHEMA.encode(record))
    assert str(back.pop("tenant_id")) == record.pop("tenant_id") == TENANT
    for name in ("occurred_at", "received_at"):
        assert (back.pop(name) - EPOCH) // MILLISECOND == record.pop(name)
    assert back == record
    assert orjson.loads(back["properties"]) == (event.get("properties") or {})


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["url", "value", "event_id", "properties", "occurred_at", "x"]), ANYTHING))
def test_nothing_but_a_verdict_comes_of_any_object(event: dict[str, Any]) -> None:
    """Any object is a record that encodes, or Rejected with a code and a pointer."""
    try:
        record = reader().record(event, "/7")
    except Rejected as verdict:
        assert all(fault["pointer"].startswith("/7") and fault["code"] and fault["detail"] for fault in verdict.faults)
    else:
        SCHEMA.encode(record)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-05-31T12:00:00Z", datetime(2026, 5, 31, 12, tzinfo=UTC)),
        ("2026-05-31t12:00:00.5z", datetime(2026, 5, 31, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-05-31T12:00:00.123456789-03:00", datetime(2026, 5, 31, 15, 0, 0, 123_000, tzinfo=UTC)),
        ("2026-05-31 12:00:00+00:00", datetime(2026, 5, 31, 12, tzinfo=UTC)),
    ],
)
def test_rfc_3339_in_all_its_forms_is_read(text: str, moment: datetime) -> None:
    """Fractions of any length, offsets and lower case are the same moment, in whole milliseconds."""
    assert occurred(occurred_at=text) == moment


@pytest.mark.parametrize(
    "text", ["2026-05-31", "2026-05-31T12:00:00", "1780000000", 1780000000, "2026-02-30T00:00:00Z", "", "now",
             "2026-05-31T25:00:00Z", "\uff12026-05-31T12:00:00Z", True],
)  # fmt: skip
def test_other_times_are_refused(text: object) -> None:
    """A time without a zone, a number, or an impossible one is refused, never guessed."""
    assert code_of({"occurred_at": text}) in {"value_error", "datetime_type"}


@given(st.timedeltas(timedelta(days=-500), timedelta(days=500)), st.timedeltas(timedelta(0), timedelta(days=300)))
def test_skew_moves_times_to_our_clock(skew: timedelta, age: timedelta) -> None:
    """With sent_at, the sender's clock does not matter: only how long before sending it happened."""
    if abs(skew) <= timedelta(seconds=5):
        return
    sent = NOW + skew
    found = occurred(occurred_at=(sent - age).isoformat(), sent_at=sent.isoformat())
    assert abs(found - (NOW - age)) <= timedelta(milliseconds=1)


@given(st.timedeltas(timedelta(seconds=-5), timedelta(seconds=5)))
def test_small_skew_is_left_alone(skew: timedelta) -> None:
    """Within the network's time nothing is corrected, so a retry of an event has the time of its first try."""
    moment = NOW - timedelta(minutes=1)
    assert occurred(occurred_at=moment.isoformat(), sent_at=(NOW + skew).isoformat()) == moment


@given(st.datetimes(timezones=st.just(timezone(timedelta(hours=-3)))))
def test_no_wild_clock_reaches_the_store(moment: datetime) -> None:
    """Whatever time is given, what is stored lies between 400 days back and an hour ahead."""
    try:
        found = occurred(occurred_at=moment.isoformat())
    except Rejected as verdict:
        assert verdict.faults[0]["code"] in {"occurred_at_too_old", "occurred_at_in_future"}
    else:
        assert NOW - timedelta(days=400) <= found <= NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"value": "1.00001", "currency": "BRL"}, "decimal_max_places"),
        ({"value": "1" * 19, "currency": "BRL"}, "decimal_max_digits"),
        ({"value": "NaN", "currency": "BRL"}, "finite_number"),
        ({"value": 1}, "currency_required"),
        ({"value": 1, "currency": "R$"}, "string_pattern_mismatch"),
        ({"event_id": ""}, "value_error"),
        ({"event_id": " x"}, "value_error"),
        ({"event_id": "x\n"}, "value_error"),
        ({"event_id": "é" * 65}, "value_error"),
        ({"event_id": 5}, "string_type"),
        ({"url": "x" * 4_097}, "string_too_long"),
        ({"consent_ads": "yes"}, "bool_type"),
        ({"properties": [1]}, "dict_type"),
        ({"properties": {"a": {"a": {"a": {"a": {"a": {}}}}}}}, "too_deep"),
        ({"properties": {"a": "x" * 16_384}}, "too_large"),
        ({"event_type": "pageview"}, "other_type"),
        ([], "not_an_object"),
    ],
)
def test_what_does_not_fit_is_named(event: object, code: str) -> None:
    """Every limit has its code."""
    assert code_of(event) == code


def test_faults_never_repeat_what_was_sent() -> None:
    """A refusal names fields and limits, never a person's values."""
    with pytest.raises(Rejected) as caught:
        reader().record({"email": ["ana@secret.example"], "currency": "ana@secret", "value": "ana"}, "")
    assert "ana" not in orjson.dumps(caught.value.faults).decode()


def test_a_person_that_cannot_be_hashed_costs_a_warning() -> None:
    """A broken e-mail or phone is left out and named; the event is kept."""
    made = reader()
    record = made.record({"email": "nobody", "phone": "x"}, "/0")
    assert (record["email_hash"], record["phone_hash"]) == ("", "")
    assert [(w["pointer"], w["code"]) for w in made.warnings] == [
        ("/0/email", "not_understood"), ("/0/phone", "not_understood"),
    ]  # fmt: skip


def test_an_event_without_an_id_gets_a_new_one_each_time() -> None:
    """No id means a new event: ids differ and grow with time (UUIDv7)."""
    ids = [reader().record({}, "")["event_id"] for _ in range(100)]
    assert len(set(ids)) == 100
    assert ids == sorted(ids)
