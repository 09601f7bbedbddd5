"""Laws of progress: an open range is durable before anything leaves, commits share requests, and none goes back."""

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.batch import TP
from app.errors import Fenced
from app.progress import Progress
from app.ranges import Range

ONE, TWO = TP("tracking.collected", 0), TP("tracking.collected", 1)


def span(tp: TP, first: int, last: int) -> Range:
    return Range("id", *tp, first, last, 1)


class Recorder:
    """A committer that keeps what it is asked to commit. Each request ends when the test lets it, or fails."""

    def __init__(self, *, held: bool = False) -> None:
        self.faults: list[Exception] = []
        self.requests: list[dict[TP, tuple[int, str]]] = []
        self.failures: list[Exception] = []
        self._go = asyncio.Event()
        if not held:
            self._go.set()

    async def commit_ranges(self, positions: Mapping[TP, tuple[int, str]]) -> None:
        self.requests.append(dict(positions))
        await self._go.wait()
        if self.failures:
            raise self.failures.pop(0)

    def let_go(self) -> None:
        self._go.set()


def progress_over(committer: Recorder) -> Progress:
    """Progress whose unknown faults the recorder keeps, where the worker would end the process."""
    return Progress(committer, committer.faults.append)


async def turns(number: int = 5) -> None:
    """Let whatever is ready run."""
    for _ in range(number):
        await asyncio.sleep(0)


async def test_an_open_waits_until_its_range_is_durable() -> None:
    """Nothing may leave the process before Kafka has the pending range."""
    committer = Recorder(held=True)
    opened = asyncio.create_task(progress_over(committer).open(span(ONE, 5, 9)))
    await turns()
    assert committer.requests == [{ONE: (5, span(ONE, 5, 9).metadata())}]
    assert not opened.done()
    committer.let_go()
    await opened


async def test_the_open_of_a_later_request_waits_for_that_request() -> None:
    """What gathers while a request is under way is not durable when that one ends."""
    committer = Recorder(held=True)
    progress = progress_over(committer)
    first = asyncio.create_task(progress.open(span(ONE, 5, 9)))
    await turns()
    second = asyncio.create_task(progress.open(span(TWO, 0, 3)))
    committer.failures = [Fenced("first request")]
    await turns()
    committer.let_go()
    with pytest.raises(Fenced, match="first request"):
        await first
    await second
    assert [list(request) for request in committer.requests] == [[ONE], [TWO]]


async def test_commit_and_next_open_are_one_request() -> None:
    """A partition whose batches follow each other pays one request a batch."""
    committer = Recorder()
    progress = progress_over(committer)
    await progress.open(span(ONE, 0, 9))
    progress.close(ONE, 10)
    await progress.open(span(ONE, 10, 19))
    assert committer.requests == [
        {ONE: (0, span(ONE, 0, 9).metadata())},
        {ONE: (10, span(ONE, 10, 19).metadata())},
    ]


async def test_partitions_share_requests() -> None:
    """While one request is under way the others gather: the broker sees few of them, however many partitions."""
    committer = Recorder(held=True)
    progress = progress_over(committer)
    partitions = [TP("t", number) for number in range(20)]
    opens = [asyncio.create_task(progress.open(span(tp, 0, 1))) for tp in partitions]
    await turns()
    progress.close(ONE, 3)
    progress.close(TWO, 4)
    committer.let_go()
    await asyncio.gather(*opens)
    await progress.flush()
    assert [len(request) for request in committer.requests] == [20, 2]


async def test_a_close_is_committed_without_being_awaited() -> None:
    """An idle partition's last batch is committed too: lag must reach zero."""
    committer = Recorder()
    progress = progress_over(committer)
    progress.close(ONE, 10)
    await progress.flush()
    assert committer.requests == [{ONE: (10, "")}]


async def test_flush_waits_for_what_gathered_too() -> None:
    """A drain that returns early would leave a durable batch to be replayed."""
    committer = Recorder(held=True)
    progress = progress_over(committer)
    progress.close(ONE, 10)
    await turns()
    progress.close(TWO, 20)
    flushed = asyncio.create_task(progress.flush())
    await turns()
    assert not flushed.done()
    committer.let_go()
    await flushed
    assert committer.requests == [{ONE: (10, "")}, {TWO: (20, "")}]


async def test_flush_of_nothing_returns() -> None:
    """A worker that never got a record drains at once."""
    await progress_over(Recorder()).flush()


async def test_a_failed_request_reaches_everybody_who_waits_for_it() -> None:
    """Each partition of a refused request is fenced: none may go on as if it were open."""
    committer = Recorder()
    committer.failures = [Fenced("stale")]
    progress = progress_over(committer)
    found = await asyncio.gather(progress.open(span(ONE, 0, 1)), progress.open(span(TWO, 0, 1)), return_exceptions=True)
    assert [type(one) for one in found] == [Fenced, Fenced]


async def test_an_unknown_failure_of_a_close_is_a_fault() -> None:
    """Nobody waits for a close, so what it raised goes to who ends the process: never unseen."""
    committer = Recorder()
    failure = ConnectionError("the coordinator is away")
    committer.failures = [failure]
    progress = progress_over(committer)
    progress.close(ONE, 10)
    await progress.flush()
    assert committer.faults == [failure]


async def test_a_fenced_close_is_the_next_owners() -> None:
    """The next owner finds the range pending; a worker that lost a partition goes on with its others."""
    committer = Recorder()
    committer.failures = [Fenced("stale")]
    progress = progress_over(committer)
    progress.close(ONE, 10)
    await progress.flush()
    await progress.open(span(TWO, 0, 1))
    assert committer.faults == []


async def test_a_failure_that_somebody_waits_for_is_theirs() -> None:
    """It is told once: to the batch that waits, which knows what it means."""
    committer = Recorder()
    committer.failures = [ConnectionError("the coordinator is away")]
    with pytest.raises(ConnectionError):
        await progress_over(committer).open(span(ONE, 0, 1))
    assert committer.faults == []


async def test_an_open_that_gathers_behind_a_failing_close_still_gets_its_request() -> None:
    """A failed commit must not take the next partition's open with it: that partition would stand still for ever."""
    committer = Recorder(held=True)
    committer.failures = [Fenced("stale")]
    progress = progress_over(committer)
    progress.close(ONE, 10)
    await turns()
    opened = asyncio.create_task(progress.open(span(TWO, 0, 1)))
    await turns()
    committer.let_go()
    await asyncio.wait_for(opened, 5)
    assert [list(request) for request in committer.requests] == [[ONE], [TWO]]


async def test_a_revoked_partition_is_not_committed() -> None:
    """Its next owner has the say: what was wanted and not yet sent is dropped."""
    committer = Recorder()
    progress = progress_over(committer)
    progress.close(ONE, 10)
    progress.close(TWO, 20)
    progress.forget({ONE})
    await progress.flush()
    assert committer.requests == [{TWO: (20, "")}]


async def test_who_waits_for_a_revoked_partition_is_fenced() -> None:
    """Never left waiting, and never let on by the request of another partition."""
    committer = Recorder(held=True)
    progress = progress_over(committer)
    progress.close(TWO, 20)
    await turns()
    opened = asyncio.create_task(progress.open(span(ONE, 0, 1)))
    await turns()
    progress.forget({ONE})
    committer.let_go()
    with pytest.raises(Fenced, match="revoked"):
        await asyncio.wait_for(opened, 5)
    await progress.flush()
    assert committer.requests == [{TWO: (20, "")}]


STEPS = st.lists(st.tuples(st.sampled_from([ONE, TWO]), st.integers(1, 5), st.integers(0, 3)), max_size=20)


async def carry(progress: Progress, batches: list[tuple[int, int]], tp: TP) -> None:
    """The life of one partition: open, some time, close, the next one."""
    at = 0
    for rows, pause in batches:
        await progress.open(span(tp, at, at + rows - 1))
        await turns(pause)
        at += rows
        progress.close(tp, at)


def never_back(requests: list[dict[TP, tuple[int, str]]], tp: TP) -> list[int]:
    """The offsets that were committed for a partition; AssertionError when they go back."""
    found = [request[tp][0] for request in requests if tp in request]
    assert found == sorted(found)
    return found


@given(STEPS)
async def test_committed_offsets_never_go_back(steps: list[tuple[TP, int, int]]) -> None:
    """However partitions interleave: each one's commits only grow, each range was pending, and the end is reached."""
    committer = Recorder()
    progress = progress_over(committer)
    lives = {tp: [(rows, pause) for at, rows, pause in steps if at == tp] for tp in (ONE, TWO)}
    await asyncio.gather(*(carry(progress, batches, tp) for tp, batches in lives.items()))
    await progress.flush()
    for tp, batches in lives.items():
        found = never_back(committer.requests, tp)
        assert found[-1:] == ([sum(rows for rows, _ in batches)] if batches else [])
        pending = [request[tp][1] for request in committer.requests if tp in request and request[tp][1]]
        ends = [sum(rows for rows, _ in batches[: index + 1]) for index in range(len(batches))]
        starts = [0, *ends[:-1]]
        wanted = [span(tp, start, end - 1).metadata() for start, end in zip(starts, ends, strict=False)]
        assert pending == wanted


def test_the_checker_rejects_a_commit_that_goes_back() -> None:
    """The law above can fail: a commit below an earlier one is seen."""
    with pytest.raises(AssertionError):
        never_back([{ONE: (10, "")}, {ONE: (9, "")}], ONE)
