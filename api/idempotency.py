"""The same request twice is one change: Idempotency-Key, kept in the transaction of the change itself.

Three states. *claimed*: a request with the key runs; another one gets 409 at once and may come back. *applied*: the
change is made; the same request gets the same answer. *refused*: the rows spoke against it; the same answer again.
Since claim, change and answer are one transaction, a request that dies leaves nothing, and no claim has to time out.
What was refused before the database was asked (a wrong body, a missing key) or is nobody's fault (503) is not kept.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from api.errors import Fault, Refusal, problem
from app.audit import Connection
from app.credentials import Credential

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
KEY_CHARACTERS_MAX: Final = 128
KEPT_HOURS: Final = 24  # a client that retries for longer than a day is not retrying
EXPIRED_REMOVED: Final = 4  # by each claim: more than it adds, so the table shrinks by itself

_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it is sent and kept."""

    status: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """As a response."""
        kind = "application/json" if self.status < 400 else "application/problem+json"
        return Response(self.content, self.status, {"Cache-Control": "no-store", **self.headers}, kind)


@dataclass(frozen=True, slots=True)
class Claim:
    """A key and what was asked under it."""

    tenant_id: str
    key: str
    fingerprint: bytes


def claim_of(request: Request, credential: Credential, document: Any) -> Claim | None:
    """The claim of a request, or None when it has no key."""
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not (0 < len(key) <= KEY_CHARACTERS_MAX and key.isascii() and key.isprintable()):
        text = f"has 1 to {KEY_CHARACTERS_MAX} printable ASCII characters, best a random UUID"
        fault: Fault = {"pointer": f"/header/{HEADER}", "code": "invalid_key", "detail": text}
        raise Refusal(422, "invalid_idempotency_key", f"{HEADER} {text}", errors=[fault])
    asked = [request.method, request.url.path, request.headers.get("if-match", ""), document]
    return Claim(credential.tenant_id, key, hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).digest())


async def once(connection: Connection, claim: Claim | None, work: Callable[[], Awaitable[Answer]]) -> Answer:
    """Do the work, or give the answer that it had when it was done. Within the caller's transaction."""
    if claim is None:
        return await work()
    kept = await _claim(connection, claim)
    if kept is not None:
        return kept
    try:
        async with connection.transaction():  # a savepoint: a refused change leaves nothing but its answer
            answer = await work()
        state = "applied"
    except Refusal as refusal:
        if refusal.status >= _SERVER_ERROR:
            raise
        answer = Answer(refusal.status, bytes(problem(refusal).body), refusal.headers)
        state = "refused"
    await connection.execute(
        "UPDATE idempotency_keys SET state = $3, status = $4, headers = $5, answer = $6"
        " WHERE tenant_id = $1 AND key = $2",
        claim.tenant_id, claim.key, state, answer.status, orjson.dumps(dict(answer.headers)).decode(), answer.content,
    )  # fmt: skip
    return answer


async def _claim(connection: Connection, claim: Claim) -> Answer | None:
    # The lock is there before the row can be seen, and gone only after it can be: whoever gets it knows all.
    free = await connection.fetchval(
        "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))", f"idempotency|{claim.tenant_id}|{claim.key}"
    )
    if not free:
        raise _running()
    await connection.execute(
        "DELETE FROM idempotency_keys WHERE tenant_id = $1 AND key IN (SELECT key FROM idempotency_keys"
        " WHERE tenant_id = $1 AND expires_at < now() ORDER BY (key = $2) DESC, expires_at LIMIT $3"
        " FOR UPDATE SKIP LOCKED)",
        claim.tenant_id, claim.key, EXPIRED_REMOVED,
    )  # fmt: skip
    made = await connection.fetchval(
        "INSERT INTO idempotency_keys (tenant_id, key, fingerprint, expires_at)"
        " VALUES ($1, $2, $3, now() + make_interval(hours => $4)) ON CONFLICT DO NOTHING RETURNING true",
        claim.tenant_id, claim.key, claim.fingerprint, KEPT_HOURS,
    )  # fmt: skip
    if made:
        return None
    row = await connection.fetchrow(
        "SELECT fingerprint, status, headers, answer FROM idempotency_keys WHERE tenant_id = $1 AND key = $2",
        claim.tenant_id, claim.key,
    )  # fmt: skip
    if row is None:  # it expired this very moment and another claim removed it
        raise _running()
    if row["fingerprint"] != claim.fingerprint:
        text = f"this {HEADER} was used for another request (method, path, version or body); take a new one"
        fault: Fault = {"pointer": f"/header/{HEADER}", "code": "key_reused", "detail": text}
        raise Refusal(422, "idempotency_key_reused", text, errors=[fault])
    return Answer(row["status"], row["answer"], {**orjson.loads(row["headers"]), REPLAYED: "true"})


def _running() -> Refusal:
    text = f"a request with this {HEADER} is being worked on; send it again in a moment"
    return Refusal(409, "request_in_progress", text, headers={"Retry-After": "1"})
