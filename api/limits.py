"""What the edge refuses so that it stays up: bytes in flight for all, events a second for one tenant."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Self

from api.errors import Refusal, unavailable
from app.credentials import Credential
from app.producer import Producer
from app.telemetry import metrics

BUCKETS_MAX: Final = 20_000  # tenants whose rate is remembered; forgetting one gives it a full second once


# An accepted request waits for its turn of the loop, works in it, and learns of its confirmation in the next: with the
# refusals of the others that stays well under a second.
TURN_S_MAX: Final = 0.2
CONFIRMING_S_MAX: Final = 0.3  # Kafka has more than it can; what comes on top would wait longer still
AWAITED_MIN: Final = 256  # sends below which a slow Kafka is a slow Kafka and no overload


class Admission:
    """Refuses what would be answered too late, before anything is spent on it.

    A turn of the event loop runs everything that is ready. Under overload that is all connections at once, so the work
    of one turn is bounded: what comes to its turn later than TURN_S_MAX gets 503.
    """

    def __init__(self, producer: Producer, clock: Callable[[], float] = time.perf_counter) -> None:
        self._producer = producer
        self._clock = clock
        self._turn_began: float | None = None

    def admit(self) -> None:
        """Go on, or refuse."""
        now = self._clock()
        if self._turn_began is None:
            self._turn_began = now
            asyncio.get_running_loop().call_soon(self._next_turn)
        late = now - self._turn_began > TURN_S_MAX
        if late or (self._producer.awaited >= AWAITED_MIN and self._producer.oldest_s > CONFIRMING_S_MAX):
            raise unavailable("busy", "this edge has more to do than it can. Send the same request again.")

    def _next_turn(self) -> None:
        self._turn_began = None


class InFlight:
    """Counts the body bytes held in memory over all requests. Above the limit, requests get 503 at once."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.bytes = 0
        metrics.IN_FLIGHT_BYTES.set_function(lambda: self.bytes)

    def hold(self) -> "Hold":
        """What one request holds, given back at the end of the `with`."""
        return Hold(self)

    def take(self, count: int) -> None:
        """Add bytes, or refuse."""
        if self.bytes + count > self._bytes_max:
            raise unavailable("busy", "too many bytes are in flight at this edge. Send the same request again.")
        self.bytes += count


class Hold:
    """Bytes of one request. Taken as they arrive: a client that announces much and sends nothing holds nothing."""

    __slots__ = ("_all", "_held")

    def __init__(self, everything: InFlight) -> None:
        self._all = everything
        self._held = 0

    def take(self, count: int) -> None:
        """Hold so many bytes more."""
        self._all.take(count)
        self._held += count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._all.bytes -= self._held


class Rates:
    """One bucket a tenant that has a limit. It holds a second's worth and may go into debt by one request.

    The debt lets a batch larger than a second's worth through once; the tenant then waits until it is paid.
    Each edge process counts for itself: with N processes a tenant may reach N times its limit.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, credential: Credential, events: int) -> None:
        """Take `events` from the tenant's bucket, or refuse with 429 and the seconds to wait."""
        rate = credential.rate_limit_per_s
        if rate is None:
            return
        now = self._clock()
        size = max(rate, 1.0)
        level, since = self._buckets.get(credential.tenant_id, (size, now))
        level = min(size, level + (now - since) * rate)
        if level <= 0:
            wait = max(1, math.ceil(-level / rate))
            text = f"this tenant's limit is {rate:g} events a second"
            raise Refusal(429, "rate_limited", text, headers={"Retry-After": str(wait)})
        self._buckets[credential.tenant_id] = (level - events, now)
        self._buckets.move_to_end(credential.tenant_id)
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)
