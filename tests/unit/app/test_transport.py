"""Laws of admission: a partition is fetched only by the generation that prepared it."""

import asyncio
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver

from app import ownership, progress
from app.batch import TP, Bounds
from app.errors import Fenced
from app.ownership import Ownership
from app.settings import Settings
from app.transport import Consumer

HERE, OTHER = TP("tracking.collected", 2), TP("tracking.collected", 3)


class Seeks:
    """The consumer thread as far as admission needs it: like aiokafka, it takes a seek until the assignment changes."""

    async def seek_to(self, _tp: TP, _offset: int) -> None:
        await asyncio.sleep(0)


class Late:
    """An ownership whose preparation of a partition ends while its revocation waits for it."""

    def __init__(self) -> None:
        self.consumer: Any = None
        self.refused: list[str] = []

    async def assigned(self, partitions: set[TP], _generation: int) -> None:
        for tp in partitions:
            await self.consumer.admit(tp, 0)

    async def revoked(self, partitions: set[TP]) -> None:
        for tp in partitions:
            with pytest.raises(Fenced) as refused:
                await self.consumer.admit(tp, 0)
            self.refused.append(str(refused.value))


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Late:
    """A consumer without Kafka, told of partitions as Faust tells it."""

    async def told(_self: Any, _partitions: Any, _generation: int = 0) -> None:
        return

    monkeypatch.setattr(driver.Consumer, "on_partitions_assigned", told)
    monkeypatch.setattr(driver.Consumer, "on_partitions_revoked", told)

    class App:
        """What the consumer takes from the Faust app."""

        ownership = Late()
        bounds = Bounds(10, 1 << 20, 0.0)
        buffer_bytes_max = 1 << 20

    monkeypatch.setattr(driver.Consumer, "__init__", lambda self, app: setattr(self, "app", app))
    consumer = Consumer(App)
    consumer._thread = Seeks()  # type: ignore[assignment]
    App.ownership.consumer = consumer
    return App.ownership


async def test_a_partition_that_is_prepared_too_late_is_not_fetched(late: Late) -> None:
    """Its buffer would outlive the revocation, and pass over the pending range when the partition comes back."""
    consumer = late.consumer
    await consumer.on_partitions_assigned([HERE, OTHER], 1)
    assert consumer.buffered() == {HERE: 0, OTHER: 0}
    await consumer.on_partitions_revoked([HERE])
    assert late.refused == ["revoked while it was prepared"]
    assert consumer.buffered() == {OTHER: 0}
    await consumer.on_partitions_assigned([HERE], 2)
    assert consumer.buffered() == {HERE: 0, OTHER: 0}


async def test_no_preparation_outlives_another_that_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebalance waits for the preparation: what is left running would admit its partition with an old position."""
    release, ended = asyncio.Event(), list[TP]()

    async def prepare_one(_self: Any, _loop: Any, tp: TP, *_: Any) -> None:
        if tp == HERE:
            raise Fenced("revoked")
        await release.wait()
        ended.append(tp)

    async def positions(*_: Any) -> dict[TP, Any]:
        return {HERE: (0, None), OTHER: (0, None)}

    class Stub:
        """A loop whose consumer knows where topics begin."""

        topic_id = ""

        @property
        def parts(self) -> Any:
            return self

        @property
        def consumer(self) -> Any:
            return self

        @property
        def pipeline(self) -> Any:
            return self

        name = "stub"

        async def earliest_offsets(self, *partitions: TP) -> dict[TP, int]:
            return dict.fromkeys(partitions, 0)

    monkeypatch.setattr(Ownership, "_prepare_one", prepare_one)
    monkeypatch.setattr(ownership, "describe", lambda *_: {HERE.topic: "id"})
    monkeypatch.setattr(progress, "read", positions)
    owner = Ownership(Settings(), {HERE.topic: Stub()})  # type: ignore[dict-item]
    await owner.assigned({HERE, OTHER}, 1)
    preparing = owner._preparing
    assert preparing is not None
    _, waiting = await asyncio.wait({preparing}, timeout=0.2)
    assert waiting == {preparing}
    release.set()
    await preparing
    assert ended == [OTHER]
