"""The rules of supervision that need no process: order, backoff, rotation, identity."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from infra.local.home import Home, locked
from infra.local.keeper import BACKOFF_FIRST_S, BACKOFF_MAX_S, backoff_s
from infra.local.lag import pending_text, read_pending
from infra.local.parts import BY_NAME, PARTS, SERVICES, USUAL, stop_waves
from infra.local.record import Identity, Wish, changing_wishes, read_state, read_wishes
from infra.local.supervisor import rotate


def test_nothing_ends_before_what_depends_on_it():
    """The worker drains while Kafka and ClickHouse are still there."""
    order = {name: number for number, wave in enumerate(stop_waves()) for name in wave}
    assert set(order) == {part.name for part in PARTS}
    for part in PARTS:
        assert all(order[part.name] < order[needed] for needed in part.after)


def test_the_services_have_the_names_that_are_promised():
    """Scripts read these names in `status --json`."""
    assert SERVICES == ("kafka", "postgres", "clickhouse", "connect", "watch", "edge", "worker")
    assert USUAL == ("kafka", "postgres", "clickhouse", "edge", "worker")
    assert all(BY_NAME[name].port_field for name in SERVICES)


@given(failures=st.integers(1, 10_000))
def test_backoff_grows_to_its_limit(failures: int):
    """A part that keeps failing is tried ever more rarely, never less than once in BACKOFF_MAX_S, from quickly on."""
    assert BACKOFF_FIRST_S <= backoff_s(failures) <= backoff_s(failures + 1) <= BACKOFF_MAX_S


def test_a_full_log_moves_aside_and_its_writer_goes_on(tmp_path: Path):
    """Rotation loses no line of a writer that keeps its file open, and keeps a bounded number of files."""
    path = tmp_path / "a.log"
    with path.open("ab", buffering=0) as writer:
        for number in range(6):
            writer.write(b"%d\n" % number * 50)
            assert rotate(path, bytes_max=99, kept=2)
            assert not rotate(path, bytes_max=99, kept=2)
        writer.write(b"last\n")
    assert path.read_bytes() == b"last\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2"]
    assert (tmp_path / "a.log.1").read_bytes() == b"5\n" * 50
    assert (tmp_path / "a.log.2").read_bytes() == b"4\n" * 50


def test_a_reused_pid_is_another_process():
    """`down` never ends a process that merely got the number of one of ours."""
    mine = Identity.of(os.getpid())
    assert mine.process() is not None
    assert Identity(mine.pid, mine.created - 60).process() is None


def test_a_torn_state_file_is_no_stack(tmp_path: Path):
    """After a power cut `up` starts anew instead of failing on half a file."""
    home = Home(tmp_path)
    home.create()
    home.state_file.write_text('{"supervisor": {"pid"')
    assert read_state(home) == (None, {})


def test_wishes_are_kept_between_command_lines(tmp_path: Path):
    """What one command asked for is there for the next, whole."""
    home = Home(tmp_path)
    home.create()
    with changing_wishes(home) as wishes:
        wishes["kafka"] = Wish(True, 1, {"A": "b"})
    with changing_wishes(home) as wishes:
        wishes["edge"] = Wish(False, 2)
    assert read_wishes(home) == {"kafka": Wish(True, 1, {"A": "b"}), "edge": Wish(False, 2)}


def test_one_holder_of_a_lock(tmp_path: Path):
    """Two supervisors never share a home, and a lock leaves no file."""
    with locked(tmp_path) as first, locked(tmp_path, deadline_s=0) as second:
        assert (first, second) == (True, False)
    with locked(tmp_path, deadline_s=0) as third:
        assert third
    assert list(tmp_path.iterdir()) == []


@given(metadata=st.one_of(st.none(), st.text()))
def test_any_commit_metadata_can_be_shown(metadata: str | None):
    """Whatever another program wrote into a commit, `lag` goes on."""
    assert len(pending_text(read_pending(metadata))) <= 60


def test_an_open_range_is_shown_as_one():
    """An operator sees which offsets a worker has in its hands."""
    assert pending_text(read_pending('{"first": 3, "last": 9, "v": 1}')) == "3-9"
