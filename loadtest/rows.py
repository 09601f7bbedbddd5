"""What ClickHouse holds, asked over its HTTP port as any client would: the other half of a verdict.

An event is known by its event id; a sale by order and type, which its sender knows before the edge has answered. So a
delivery that got two event ids by mistake shows as a duplicate too.
"""

import ipaddress
import uuid
from decimal import Decimal
from urllib.parse import urlsplit

import httpx

from app.settings import Settings
from loadtest.history import History, Stream, Verdict
from loadtest.traffic import SALES, TRACKING

KEYS = {TRACKING: "event_id", SALES: "concat(order_id, '/', event_type)"}
QUERY_TIMEOUT_S = 30.0
ERROR_CHARACTERS_MAX = 500
LOOPBACK_NAMES = frozenset({"localhost"})


class NotLoopback(ValueError):  # noqa: N818 - what the address is
    """Load goes to this machine alone."""


def require_loopback(url: str) -> str:
    """The URL, when it leads to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        loopback = host in LOOPBACK_NAMES or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise NotLoopback(f"{url}: load goes to loopback only (127.0.0.1, ::1 or localhost)")
    return url


class NoAnswer(RuntimeError):  # noqa: N818 - what there is
    """ClickHouse did not say what it holds, so there is no verdict."""


class Rows:
    """Questions to one ClickHouse."""

    def __init__(self, settings: Settings) -> None:
        self._database = settings.clickhouse_database
        self._client = httpx.Client(
            base_url=require_loopback(settings.clickhouse_url),
            headers={
                "X-ClickHouse-User": settings.clickhouse_user,
                "X-ClickHouse-Key": settings.clickhouse_password.get_secret_value(),
            },
            timeout=QUERY_TIMEOUT_S,
            trust_env=False,
        )

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def counts(self, stream: Stream) -> tuple[int, int]:
        """Rows and distinct event ids of a stream."""
        lines = self._ask("count(), uniqExact(event_id)", stream)
        rows, distinct = lines[0].split("\t")
        return int(rows), int(distinct)

    def keys(self, stream: Stream) -> dict[str, int]:
        """How many rows each event of a stream has."""
        lines = self._ask(f"{KEYS[stream.table]} AS key, count()", stream, "GROUP BY key")
        return {name: int(count) for name, count in (line.split("\t") for line in lines)}

    def money(self, stream: Stream) -> Decimal:
        """What the rows of a stream sum up to, in their own currency."""
        return Decimal(self._ask("toString(sum(coalesce(value, 0)))", stream)[0])

    def times(self, stream: Stream) -> list[int]:
        """When each row says it occurred, in milliseconds, in the order of the source offsets."""
        return [int(at) for at in self._ask("toUnixTimestamp64Milli(occurred_at)", stream, "ORDER BY _offset")]

    def present(self, stream: Stream, event_ids: list[str]) -> list[str]:
        """Those of these events that a query finds now."""
        # In the text, since a URL holds only a few kB of parameters; UUIDs need no quoting.
        listed = ",".join(f"'{uuid.UUID(event_id)}'" for event_id in event_ids)
        return self._ask("event_id", stream, f"AND event_id IN ({listed})")

    def places(self, stream: Stream, event_ids: list[str]) -> list[str]:
        """Where each row of these events came from: partition and offset, to find it in the worker's log."""
        # Keys of ours, from a verdict: a quote in one would be a fault worth an error.
        listed = ",".join(f"'{event_id}'" for event_id in event_ids)
        columns = "concat(event_id, ' ', _topic, '[', toString(_partition), '] ', toString(_offset))"
        return self._ask(columns, stream, f"AND {KEYS[stream.table]} IN ({listed}) ORDER BY event_id, _offset")

    def _ask(self, columns: str, stream: Stream, rest: str = "") -> list[str]:
        assert stream.table in KEYS
        table = f"{self._database}.{stream.table}"
        # Names are constants and settings of ours; the tenant goes as a parameter.
        asked = f"SELECT {columns} FROM {table} WHERE tenant_id = {{tenant:UUID}}"  # noqa: S608
        query = f"{asked} {rest} FORMAT TabSeparated"
        try:
            answer = self._client.post("/", params={"param_tenant": stream.tenant_id}, content=query)
        except httpx.HTTPError as error:
            raise NoAnswer(f"ClickHouse does not answer: {type(error).__name__}") from None
        if answer.is_error:
            raise NoAnswer(f"ClickHouse answered {answer.status_code}: {answer.text[:ERROR_CHARACTERS_MAX]}")
        return answer.text.splitlines()


def verdicts(rows: Rows, history: History) -> list[Verdict]:
    """The verdict on every stream of a run."""
    return [history.judge(stream, rows.keys(stream)) for stream in history.streams]
