"""Overload: what one turn of the loop has time for is admitted, the rest is told to come again."""

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest

from api.errors import Refusal
from api.limits import AWAITED_MIN, CONFIRMING_S_MAX, TURN_S_MAX, Admission
from app.producer import Producer


@dataclass
class Sends:
    """What admission asks a producer."""

    awaited: int = 0
    oldest_s: float = 0.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def admission(sends: Any, clock: Clock) -> Admission:
    return Admission(cast("Producer", sends), clock)


def refused(asked: Admission) -> bool:
    try:
        asked.admit()
    except Refusal as refusal:
        assert (refusal.status, refusal.code, refusal.headers["Retry-After"]) == (503, "busy", "1")
        return True
    return False


async def test_a_turn_has_a_bounded_amount_of_work() -> None:
    """Within TURN_S_MAX of a turn requests go on, after it they are refused, and the next turn begins anew."""
    clock = Clock()
    asked = admission(Sends(), clock)
    assert not refused(asked)
    clock.now = TURN_S_MAX
    assert not refused(asked)
    clock.now = TURN_S_MAX + 0.001
    assert refused(asked)
    await asyncio.sleep(0)
    assert not refused(asked)


async def test_a_pause_between_turns_is_no_overload() -> None:
    """A machine that stood still, or a quiet hour, costs nobody a refusal."""
    clock = Clock()
    asked = admission(Sends(), clock)
    for _ in range(3):
        assert not refused(asked)
        await asyncio.sleep(0)
        clock.now += 3_600


@pytest.mark.parametrize(
    ("awaited", "oldest_s", "expected"),
    [
        (AWAITED_MIN, CONFIRMING_S_MAX + 0.01, True),
        (AWAITED_MIN - 1, CONFIRMING_S_MAX + 0.01, False),  # Kafka is slow, and few wait: they get its answer
        (100 * AWAITED_MIN, CONFIRMING_S_MAX, False),  # many wait, and Kafka keeps up
    ],
)
async def test_who_would_wait_for_kafka_behind_many_is_refused(awaited: int, oldest_s: float, expected: bool) -> None:
    """With many sends unconfirmed and the oldest of them late, new ones are refused at once."""
    assert refused(admission(Sends(awaited, oldest_s), Clock())) is expected
