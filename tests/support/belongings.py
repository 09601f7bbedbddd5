"""What a tenant has, planted through the edge and behind it, and a fingerprint of all that is stored of a tenant.

`Belongings` of a tenant that exists and of nobody have the same shape and the same lengths, so answers can be compared
byte by byte.
"""

import asyncio
import base64
import hashlib
import json
import secrets
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import asyncpg
import httpx

from api.version_token import Written, write
from app import credentials
from tests.support.bills import PLAIN, as_owner, opened
from tests.support.edge_parts import Parts

KEY_OF = {"app": "app_key", "read": "read_key", "write": "write_key"}
# Values that anybody may have: of the tenant that asks, of the other one, and of nobody. What bounds a range from below
# is later for nobody than for the other tenant, and what bounds it from above is earlier, so that nothing is inside.
PLACED = {
    "amount": ("11111.11", "77431.17", "88542.28"),
    "currency": ("BRL", "CHF", "SEK"),
    "due_date": ("2090-01-31", "2031-05-10", "2031-07-10"),
    "day": ("2090-01-31", "2031-05-10", "2031-07-10"),
    "day_before": ("2090-01-31", "2031-05-11", "2031-03-10"),
    "month": ("2090-01", "2031-05", "2031-07"),
    "month_before": ("2090-01", "2031-05", "2031-03"),
    "moment": ("2026-01-01T12:00:00Z", "2026-03-01T12:00:00Z", "2026-04-01T12:00:00Z"),
    "before": ("2026-01-01T13:00:00Z", "2026-03-01T13:00:00Z", "2026-02-01T00:00:00Z"),
    "type": ("click", "initiate_checkout", "pageview"),
    "sale_type": ("order_approved", "order_refunded", "order_expired0"),
    "status": ("open", "cancelled", "overdue"),
    "gateway": ("hotmart", "kiwify", "generic"),
    "version": ("1", "7", "8"),
}
OWN, FOREIGN, NOBODY = range(3)
COMMON = frozenset(PLACED) - {"amount"}
KINDS: tuple[credentials.Kind, ...] = ("write", "read", "app")
LISTS = (
    ("read", "/tracking/events"), ("read", "/sales"), ("app", "/bills"), ("app", "/occurrences"),
    ("app", "/bills/{bill_id}/occurrences"),
)  # fmt: skip
ANSWER_S = 20.0
CONNECT_S = 10.0
MIRROR_COLUMNS = (
    "tenant_id, id, user_id, category, amount, currency, due_date, recurrence, installments, status, actor, version,"
    " created_at, updated_at, is_deleted, _version, _changed_at, _topic, _partition, _offset"
)


@dataclass(slots=True)
class Belongings:
    """Values by the name of the parameter or field that may carry them."""

    tenant: dict[str, str] = field(repr=False)
    values: dict[str, str]
    cursors: dict[str, str] = field(default_factory=dict)  # by path
    keys: dict[str, str] = field(default_factory=dict)  # Idempotency-Key by change
    sent: dict[str, tuple[str, str, Any]] = field(default_factory=dict)  # method, path and body sent under it

    def header(self, kind: str) -> dict[str, str]:
        """The credential of that kind."""
        return {"Authorization": f"Bearer {self.tenant[KEY_OF[kind]]}"} if kind else {}

    def marks(self) -> Iterator[str]:
        """What tells that an answer shows something of this tenant: texts that are nowhere else."""
        yield from (value for name, value in self.values.items() if name not in COMMON)
        yield from (*self.cursors.values(), *self.keys.values(), *self.tenant.values())


def word(name: str) -> str:
    return f"{name}-{secrets.token_hex(8)}"


def words() -> dict[str, str]:
    """Texts that one tenant has and no other."""
    names = (
        "user_id", "category", "description", "order_id", "event_id", "session_id", "click_id", "url", "referrer",
        "utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "fbclid", "gclid", "fbp", "fbc",
    )  # fmt: skip
    made = {name: word(name) for name in names}
    made["email"] = f"{word('ana')}@example.com"
    made["phone"] = f"+55119{secrets.randbelow(10**8):08}"
    made["hottok"] = word("hottok")
    made["id"] = str(uuid.uuid4())  # of a gateway's delivery
    return made


def placed(side: int) -> dict[str, str]:
    """The values of PLACED for one side, and texts that nobody else has."""
    return {**words(), **{name: sides[side] for name, sides in PLACED.items()}}


def nobody() -> Belongings:
    """What no tenant has, in the shapes of what one has."""
    rows = [Written("bills", uuid.uuid4(), 1), Written("bill_occurrences", uuid.uuid4(), 1)]
    ids = {name: str(uuid.uuid4()) for name in ("bill_id", "occurrence_id", "tenant_id")}
    return Belongings({}, {**placed(NOBODY), **ids, "at_least": write(rows)})


def owned(parts: Parts, *, foreign: bool) -> Belongings:
    """A tenant with bills, occurrences, events, sales and a webhook secret; the foreign one at its own times."""
    values = placed(FOREIGN if foreign else OWN)
    tenant = hired(parts, dict.fromkeys({PLACED["gateway"][OWN], values["gateway"]}, values["hottok"]))
    values["tenant_id"] = tenant["tenant_id"]
    made = Belongings(tenant, values)
    with opened(parts, tenant) as client:
        _bills(made, client, foreign=foreign)
    _mirror(parts, made)
    _events(parts, made)
    made.cursors = cursors(parts.edge_url, made)
    return made


def hired(parts: Parts, webhook_secrets: Mapping[str, str]) -> dict[str, str]:
    """A new tenant with a key of each kind and these secrets by gateway."""

    async def work() -> dict[str, str]:
        pool = await credentials.connect(parts.settings.postgres_url.get_secret_value(), CONNECT_S)
        try:
            directory = credentials.Credentials(pool, parts.settings.master_key_bytes)
            tenant_id = await directory.create_tenant(word("tenant"))
            made = {KEY_OF[kind]: (await directory.create_key(tenant_id, kind))[1] for kind in KINDS}
            for gateway, secret in webhook_secrets.items():
                await directory.set_webhook_secret(tenant_id, gateway, secret)
            return {"tenant_id": str(tenant_id), **made}
        finally:
            await pool.close()

    return asyncio.run(work())


def bill_of(owner: Belongings) -> dict[str, Any]:
    """The body of a bill in its owner's words."""
    own = {
        name: owner.values[name] for name in ("user_id", "category", "description", "amount", "currency", "due_date")
    }
    return {**PLAIN, **own}


def _bills(made: Belongings, client: httpx.Client, *, foreign: bool) -> None:
    values = made.values
    if not foreign:
        for _ in range(2):
            answer = client.post("/bills", json=bill_of(made))
            assert answer.status_code == 201, answer.text
        bill = answer.json()
        values |= {
            "bill_id": bill["id"],
            "occurrence_id": bill["occurrences"][0]["id"],
            "at_least": bill["version_token"],
        }
        return
    # Two of each, so that a page of one has a page behind it; a key of its own for each kind of change.
    body = {**bill_of(made), "installments": 2}
    first = _sent(made, client, "post /bills", ("POST", "/bills", body))
    again = _sent(made, client, "post /bills", ("POST", "/bills", body))
    assert (again.headers["Idempotency-Replayed"], again.content) == ("true", first.content)
    bill = client.post("/bills", json=body).json()
    part = bill["occurrences"][0]["id"]
    _sent(made, client, "patch bill", ("PATCH", f"/bills/{bill['id']}", {"category": values["category"], "version": 1}))
    _sent(made, client, "pay", ("POST", f"/occurrences/{part}/pay", {}))
    _sent(made, client, "unpay", ("POST", f"/occurrences/{part}/unpay", {}))
    _sent(made, client, "patch occurrence", ("PATCH", f"/occurrences/{part}", {"status": "cancelled", "version": 3}))
    gone = client.post("/bills", json=bill_of(made)).json()["id"]
    _sent(made, client, "delete", ("DELETE", f"/bills/{gone}", {"version": 1}))
    another = client.post("/bills", json=bill_of(made)).json()["id"]
    answer = client.patch(f"/bills/{another}", json={"status": "cancelled", "version": 1})
    assert answer.status_code == 200, answer.text
    rows = [Written("bills", uuid.UUID(bill["id"]), 1), Written("bill_occurrences", uuid.UUID(part), 1)]
    values |= {"bill_id": bill["id"], "occurrence_id": part, "at_least": write(rows)}


def _sent(made: Belongings, client: httpx.Client, name: str, what: tuple[str, str, Any]) -> httpx.Response:
    """A change under a key of its own, noted so that it can be repeated."""
    made.sent[name] = what
    key = made.keys.setdefault(name, word("key"))
    answer = client.request(what[0], what[1], json=what[2], headers={"Idempotency-Key": key})
    assert answer.is_success, (name, answer.text)
    return answer


def _mirror(parts: Parts, made: Belongings) -> None:
    """The bill and its occurrence in ClickHouse, in the month of the tenant and in one of the next twelve."""
    values = made.values
    soon = date.today() + timedelta(days=40)  # noqa: DTZ011 - any day of the months to come
    common = (
        f"'{values['user_id']}', '{values['category']}', {values['amount']}, '{values['currency']}', '{{day}}', 'none',"
        " 1, 'open', '', 9, now64(6), now64(6), 0, 1, now64(3), 'planted', 0, 0"
    )
    for table, ids in (("bills", values["bill_id"]), ("bill_occurrences", values["occurrence_id"])):
        for row_id, day in ((ids, values["due_date"]), (str(uuid.uuid4()), str(soon))):
            parts.clickhouse(
                f"INSERT INTO afluente.{table} ({MIRROR_COLUMNS}) VALUES"
                f" ('{values['tenant_id']}', '{row_id}', {common.format(day=day)})"
            )


def _events(parts: Parts, made: Belongings) -> None:
    values = made.values
    moment = values["moment"].replace("T", " ").removesuffix("Z")
    for number in range(2):
        event = values["event_id"] if number == 0 else word("event_id")
        parts.clickhouse(
            "INSERT INTO afluente.tracking_events (tenant_id, event_id, event_type, occurred_at, received_at,"
            f" session_id, url) VALUES ('{values['tenant_id']}', '{event}', '{values['type']}', '{moment}',"
            f" '{moment}', '{values['session_id']}', '{values['url']}')"
        )
        parts.clickhouse(
            "INSERT INTO afluente.gateway_events (tenant_id, event_id, gateway, event_type, order_id, occurred_at,"
            f" amount, currency) VALUES ('{values['tenant_id']}', '{event}', '{values['gateway']}',"
            f" '{values['sale_type']}', '{values['order_id']}', '{moment}', {values['amount']}, 'CHF')"
        )


def cursors(edge_url: str, of: Belongings) -> dict[str, str]:
    """Where the second page of each list of a tenant begins, as that edge says it."""
    found = {}
    for kind, path in LISTS:
        url = edge_url + path.format(**of.values)
        answer = httpx.get(url, params={"limit": 1}, headers=of.header(kind), timeout=ANSWER_S, trust_env=False)
        assert answer.status_code == 200, answer.text
        found[path] = answer.json()["next_cursor"] or ""
    return found


def like_cursor(cursor: str) -> str:
    """A cursor of the same length that the edge never gave."""
    size = len(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    return base64.urlsafe_b64encode(secrets.token_bytes(size)).decode().rstrip("=")


def fingerprints(parts: Parts, tenant_id: str) -> dict[str, str]:
    """A hash of the tenant's rows in every table that has a tenant: those that exist now, not a list of them."""
    found = {f"clickhouse {table}": text for table, text in _clickhouse(parts, tenant_id)}

    async def postgres(connection: "asyncpg.Connection[Any]") -> dict[str, str]:
        tables = await connection.fetch(
            "SELECT table_name, column_name FROM information_schema.columns JOIN information_schema.tables"
            " USING (table_schema, table_name) WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
            " AND (column_name = 'tenant_id' OR (table_name, column_name) = ('tenants', 'id'))"
        )
        return {
            f"postgres {table}": await connection.fetchval(
                f"SELECT md5(coalesce(string_agg(r::text, E'\\n' ORDER BY r::text), '')) FROM {table} AS r"
                f" WHERE {column} = $1",
                uuid.UUID(tenant_id),
            )
            for table, column in tables
        }

    return {**found, **as_owner(parts, postgres)}


def _clickhouse(parts: Parts, tenant_id: str) -> Iterator[tuple[str, str]]:
    query = "SELECT table FROM system.columns WHERE database = 'afluente' AND name = 'tenant_id' FORMAT JSONCompact"
    for (table,) in json.loads(parts.clickhouse(query))["data"]:
        rows = parts.clickhouse(
            f"SELECT * FROM afluente.{table} FINAL WHERE tenant_id = '{tenant_id}' ORDER BY ALL"
            " FORMAT JSONCompactEachRow"
        )
        yield table, hashlib.sha256(rows.encode()).hexdigest()
