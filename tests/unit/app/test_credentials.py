"""The cache in front of Postgres: fresh, stale, negative, and never a guess."""

import asyncio

import pytest

from app.credentials import AWAY_PAUSE_S, ENTRIES_MAX, NEGATIVE_S, STALE_S, Unavailable, _Cache


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Directory:
    """Stands where Postgres stands: answers, or is away. Counts what it was asked."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.away = False
        self.asked = 0

    async def ask(self, wanted: str) -> str | None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise OSError
        return self.known.get(wanted)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory() -> Directory:
    made = Directory()
    made.known["k"] = "v"
    return made


@pytest.fixture
def cache(clock: Clock) -> "_Cache[str]":
    return _Cache(30.0, clock)


async def test_a_known_answer_is_asked_for_once_while_fresh(
    cache: "_Cache[str]", clock: Clock, directory: Directory
) -> None:
    """Within the fresh time Postgres is asked once; after it, again, so a revoked key ends."""
    for _ in range(3):
        assert await cache.get("k", lambda: directory.ask("k")) == "v"
    assert directory.asked == 1
    clock.now += 31
    directory.known.clear()
    assert await cache.get("k", lambda: directory.ask("k")) is None


async def test_a_thousand_at_once_ask_once(cache: "_Cache[str]", directory: Directory) -> None:
    """A crowd with one key makes one lookup."""
    answers = await asyncio.gather(*[cache.get("k", lambda: directory.ask("k")) for _ in range(1_000)])
    assert set(answers) == {"v"}
    assert directory.asked == 1


async def test_an_unknown_key_is_remembered_briefly(cache: "_Cache[str]", clock: Clock, directory: Directory) -> None:
    """A wrong key does not reach Postgres each time, and one created meanwhile works soon."""
    for _ in range(3):
        assert await cache.get("new", lambda: directory.ask("new")) is None
    assert directory.asked == 1
    directory.known["new"] = "n"
    clock.now += NEGATIVE_S
    assert await cache.get("new", lambda: directory.ask("new")) == "n"


async def test_without_postgres_the_known_go_on_for_a_stated_time(
    cache: "_Cache[str]", clock: Clock, directory: Directory
) -> None:
    """Stale answers serve until STALE_S, then nobody can say; unknown keys are Unavailable at once, not refused."""
    await cache.get("k", lambda: directory.ask("k"))
    directory.away = True
    clock.now += STALE_S - 1
    assert await cache.get("k", lambda: directory.ask("k")) == "v"
    with pytest.raises(Unavailable):
        await cache.get("other", lambda: directory.ask("other"))
    clock.now += 2
    with pytest.raises(Unavailable):
        await cache.get("k", lambda: directory.ask("k"))
    directory.away = False
    clock.now += AWAY_PAUSE_S
    assert await cache.get("k", lambda: directory.ask("k")) == "v"


async def test_a_dead_postgres_is_not_waited_for_by_everybody(
    cache: "_Cache[str]", clock: Clock, directory: Directory
) -> None:
    """After one failed lookup the others do not try again for AWAY_PAUSE_S."""
    directory.away = True
    for n in range(10):
        with pytest.raises(Unavailable):
            await cache.get(f"k{n}", lambda: directory.ask("k"))
    assert directory.asked == 1


async def test_the_cache_is_bounded(cache: "_Cache[str]", directory: Directory) -> None:
    """A flood of wrong keys costs bounded memory."""
    for n in range(ENTRIES_MAX + 100):
        await cache.get(n, lambda: directory.ask("x"))
    assert len(cache._entries) == ENTRIES_MAX
