"""The checker catches loss, duplicates and phantoms, and calls nothing wrong that is right."""

from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from loadtest.history import History, Outcome, Stream, line, read

STREAM = Stream("3f0c7a86-5d1e-4c7b-9a53-5c5a1a2b3c4d", "tracking_events")
ANSWERS = (Outcome.ACCEPTED, Outcome.REFUSED, Outcome.UNKNOWN, None)
KEYS = st.sampled_from([f"event-{number}" for number in range(12)])
COPIES = st.lists(st.tuples(KEYS, st.sampled_from(ANSWERS)), max_size=60)


def history_of(copies: list[tuple[str, Outcome | None]]) -> History:
    """A history in which each copy was sent and answered (or not)."""
    history = History()
    for key, answer in copies:
        history.note(Outcome.INVOKED, STREAM, [key])
        if answer is not None:
            history.note(answer, STREAM, [key])
    return history


def required_and_possible(copies: list[tuple[str, Outcome | None]]) -> tuple[set[str], set[str]]:
    """Keys that must be there, and keys that may be, said a second way."""
    required = {key for key, answer in copies if answer is Outcome.ACCEPTED}
    possible = {key for key, answer in copies if answer is not Outcome.REFUSED}
    return required, possible


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[tuple[str, Outcome | None]], dict[str, int]]:
    """Copies and rows as a right system would have them: each promise kept, unknown ones there or not."""
    copies = draw(COPIES)
    required, possible = required_and_possible(copies)
    landed = {key for key in sorted(possible - required) if draw(st.booleans())}
    return copies, dict.fromkeys(sorted(required | landed), 1)


@given(run=runs())
def test_a_right_run_is_called_right(run: tuple[list[tuple[str, Outcome | None]], dict[str, int]]) -> None:
    """Whatever was resent, refused or left unknown, kept promises are never called faults."""
    copies, rows = run
    verdict = history_of(copies).judge(STREAM, rows)
    assert verdict.right
    assert verdict.sent == len(copies)
    assert verdict.sent == verdict.accepted + verdict.refused + verdict.unknown
    assert verdict.rows == verdict.distinct == len(rows)


@given(run=runs(), chosen=st.integers(0, 100))
def test_planted_loss_is_caught(run: tuple[list[tuple[str, Outcome | None]], dict[str, int]], chosen: int) -> None:
    """Any one accepted event that is not there is named."""
    copies, rows = run
    required, _ = required_and_possible(copies)
    if required:
        lost = sorted(required)[chosen % len(required)]
        verdict = history_of(copies).judge(STREAM, {key: count for key, count in rows.items() if key != lost})
        assert not verdict.right
        assert verdict.missing == (lost,)


@given(run=runs(), chosen=st.integers(0, 100), extra=st.integers(1, 3))
def test_planted_duplicates_are_caught(
    run: tuple[list[tuple[str, Outcome | None]], dict[str, int]], chosen: int, extra: int
) -> None:
    """Any one event that is there more than once is named and its rows are counted."""
    copies, rows = run
    if rows:
        doubled = sorted(rows)[chosen % len(rows)]
        verdict = history_of(copies).judge(STREAM, Counter(rows) + Counter({doubled: extra}))
        assert not verdict.right
        assert verdict.duplicated == (doubled,)
        assert verdict.duplicates == extra


@given(run=runs())
def test_planted_phantoms_are_caught(run: tuple[list[tuple[str, Outcome | None]], dict[str, int]]) -> None:
    """A row of an event that was never sent is named."""
    copies, rows = run
    verdict = history_of(copies).judge(STREAM, {**rows, "never-sent": 1})
    assert not verdict.right
    assert verdict.phantom == ("never-sent",)


def test_a_refused_event_that_is_there_is_a_phantom() -> None:
    """A no is a promise too."""
    assert history_of([("a", Outcome.REFUSED)]).judge(STREAM, {"a": 1}).phantom == ("a",)


def test_a_refused_copy_takes_no_promise_back() -> None:
    """What one copy promised, the refusal of another does not undo."""
    history = history_of([("a", Outcome.ACCEPTED), ("a", Outcome.REFUSED)])
    assert history.judge(STREAM, {"a": 1}).right
    assert history.judge(STREAM, {}).missing == ("a",)


def test_a_stream_that_nothing_was_sent_to_must_be_empty() -> None:
    """Another tenant's rows among ours would show here."""
    assert History().judge(STREAM, {}).right
    assert not History().judge(STREAM, {"a": 1}).right


@given(copies=COPIES)
def test_a_history_file_says_what_was_noted(tmp_path_factory: object, copies: list[tuple[str, Outcome | None]]) -> None:
    """A history read back gives the same verdict, cut last line or not."""
    path = tmp_path_factory.mktemp("history") / "history"  # type: ignore[attr-defined]
    text = "".join(
        line(outcome, STREAM, [key])
        for key, answer in copies
        for outcome in ((Outcome.INVOKED, answer) if answer else (Outcome.INVOKED,))
    )
    Path(path).write_text(text + line(Outcome.ACCEPTED, STREAM, ["cut"])[:-3])
    rows = {"event-1": 1, "event-2": 2}
    assert read(path).judge(STREAM, rows) == history_of(copies).judge(STREAM, rows)
