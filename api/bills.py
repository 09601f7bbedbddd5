"""Bills over HTTP: key, body, version, one transaction in Postgres, answer. From there CDC carries them on.

Rules are in `bills_rules.py`, SQL in `bills_writes.py` and `bills_reads.py`. Each change is one transaction of one
tenant, locked by bill, done once per Idempotency-Key, and answered with the version and the token of what it wrote.
"""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import orjson
import uuid_utils.compat as uuid_utils
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from api import bills_contract as contract
from api import bills_reads, bills_rules, bills_writes, body, idempotency, version_token
from api.bills_body import BillChange, NewBill, OccurrenceChange, OnlyVersion, Payment, parse
from api.bills_filters import BillFilters, InBillFilters, OccurrenceFilters
from api.bills_reads import Wanted, shown, uuid_of
from api.bills_rules import Bill, Change
from api.deps import edge_of, member
from api.errors import Fault, Refusal
from api.idempotency import Answer
from api.version_token import Written
from app.audit import Connection
from app.credentials import Credential

router: Final = APIRouter(tags=["bills"])
_IF_MATCH: Final = re.compile(r'"([0-9]{1,19})"|([0-9]{1,19})', re.ASCII)

Sent = TypeVar("Sent", NewBill, BillChange, OccurrenceChange, Payment, OnlyVersion)


@router.post("/bills", **contract.CREATE)
async def create(request: Request) -> Response:
    """A bill with its occurrences: one, monthly installments of one amount, or a recurrence."""

    async def work(connection: Connection, sent: NewBill, _seen: int | None) -> Answer:
        fields = sent.model_dump(exclude={"count", "until"})
        draft = Bill(id=uuid_utils.uuid7(), occurrences=(), **fields)
        bill = bills_rules.plan(draft, sent.times(), bills_rules.today())
        await bills_writes.create(connection, bill)
        written = [Written("bill_occurrences", bill.occurrences[-1].id, 1), Written("bills", bill.id, 1)]
        row = shown(await bills_writes.bill_row(connection, bill.id))
        parts = [
            {name: getattr(part, name) for name in ("id", "number", "due_date", "status")}
            | {"amount": format(part.amount, ".2f"), "version": 1}
            for part in bill.occurrences
        ]
        return _answer({**row, "occurrences": parts}, 1, written, 201, Location=f"/bills/{bill.id}")

    return await _change(request, NewBill, work)


@router.get("/bills", **contract.LIST_BILLS)
async def list_bills(request: Request, filters: Annotated[BillFilters, Query()]) -> Response:
    """Bills, by due date or by when they were made."""
    return await _page(request, Wanted("bills", filters.sort, filters.conditions()), filters)


@router.get("/occurrences", **contract.LIST_OCCURRENCES)
async def list_occurrences(request: Request, filters: Annotated[OccurrenceFilters, Query()]) -> Response:
    """Occurrences of all bills, by due date or by when they were made."""
    return await _page(request, Wanted("bill_occurrences", filters.sort, filters.conditions()), filters)


@router.get("/bills/{bill_id}", **contract.GET_BILL)
async def get_bill(request: Request, bill_id: str) -> Response:
    """One bill. Its ETag is its version."""
    wanted = _id(bill_id)
    credential = await _asking(request)
    row = await edge_of(request).bills.look(credential, lambda connection: bills_writes.bill_row(connection, wanted))
    tag = f'"{row["version"]}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": "no-store"})
    return Answer(200, orjson.dumps(shown(row)), {"ETag": tag}).response()


@router.get("/bills/{bill_id}/occurrences", **contract.LIST_OCCURRENCES)
async def occurrences_of_bill(request: Request, bill_id: str, filters: Annotated[InBillFilters, Query()]) -> Response:
    """The occurrences of one bill, by number or by due date."""
    wanted = _id(bill_id)
    conditions = {"bill_id = {}": wanted, **filters.conditions()}
    return await _page(request, Wanted("bill_occurrences", filters.sort, conditions), filters, wanted)


@router.patch("/bills/{bill_id}", **contract.CHANGE_BILL)
async def change_bill(request: Request, bill_id: str) -> Response:
    """Edit, cancel or reopen a bill. Needs the version that you saw."""
    wanted = _id(bill_id)

    async def work(connection: Connection, sent: BillChange, seen: int | None) -> Answer:
        before = await bills_writes.load(connection, wanted, seen=seen)
        after = bills_rules.change_bill(before, _asked(sent), bills_rules.today())
        return await _saved_bill(connection, before, after)

    return await _change(request, BillChange, work, needs_version=True)


@router.delete("/bills/{bill_id}", **contract.DELETE_BILL)
async def delete_bill(request: Request, bill_id: str) -> Response:
    """Remove a bill with all its occurrences, paid ones too. Needs the version that you saw."""
    wanted = _id(bill_id)

    async def work(connection: Connection, _sent: OnlyVersion, seen: int | None) -> Answer:
        bill = await bills_writes.load(connection, wanted, seen=seen)
        written = await bills_writes.delete(connection, bill)
        return _answer({"id": wanted, "deleted": True}, None, written)

    return await _change(request, OnlyVersion, work, needs_version=True, may_be_empty=True)


@router.patch("/occurrences/{occurrence_id}", **contract.CHANGE_OCCURRENCE)
async def change_occurrence(request: Request, occurrence_id: str) -> Response:
    """Edit, cancel or reopen one occurrence. Needs the version that you saw."""
    wanted = _id(occurrence_id)

    async def work(connection: Connection, sent: OccurrenceChange, seen: int | None) -> Answer:
        before, part = await bills_writes.load_of_occurrence(connection, wanted, seen=seen)
        after = bills_rules.change_occurrence(before, part, _asked(sent), bills_rules.today())
        return await _saved_occurrence(connection, before, after, wanted)

    return await _change(request, OccurrenceChange, work, needs_version=True)


@router.post("/occurrences/{occurrence_id}/pay", **contract.PAY)
async def pay(request: Request, occurrence_id: str) -> Response:
    """Mark an occurrence as paid. What is paid already is 409: send an Idempotency-Key to tell a retry from that."""
    wanted = _id(occurrence_id)

    async def work(connection: Connection, sent: Payment, seen: int | None) -> Answer:
        before, part = await bills_writes.load_of_occurrence(connection, wanted, seen=seen)
        after = bills_rules.pay(before, part, sent.paid_at or datetime.now(UTC))
        return await _saved_occurrence(connection, before, after, wanted)

    return await _change(request, Payment, work, may_be_empty=True)


@router.post("/occurrences/{occurrence_id}/unpay", **contract.UNPAY)
async def unpay(request: Request, occurrence_id: str) -> Response:
    """Take a payment back: the occurrence is open again, or overdue if its day is over."""
    wanted = _id(occurrence_id)

    async def work(connection: Connection, _sent: OnlyVersion, seen: int | None) -> Answer:
        before, part = await bills_writes.load_of_occurrence(connection, wanted, seen=seen)
        after = bills_rules.unpay(before, part, bills_rules.today())
        return await _saved_occurrence(connection, before, after, wanted)

    return await _change(request, OnlyVersion, work, may_be_empty=True)


async def _change(
    request: Request,
    model: type[Sent],
    work: Callable[[Connection, Sent, int | None], Awaitable[Answer]],
    *,
    needs_version: bool = False,
    may_be_empty: bool = False,
) -> Response:
    edge = edge_of(request)
    with edge.in_flight.hold() as hold:
        credential = await _asking(request)
        raw = await body.read(request, hold)
        document = {} if may_be_empty and not raw else body.parse(body.inflate(raw, request, hold))
        sent = parse(model, document)
        seen = _seen(request, getattr(sent, "version", None), needed=needs_version)
        claim = idempotency.claim_of(request, credential, document)

        async def within(connection: Connection) -> Answer:
            return await idempotency.once(connection, claim, lambda: work(connection, sent, seen))

        answer = await edge.bills.change(credential, within)
    return answer.response()


async def _page(
    request: Request, wanted: Wanted, filters: BillFilters | OccurrenceFilters | InBillFilters, bill: UUID | None = None
) -> Response:
    edge = edge_of(request)
    credential = await _asking(request)
    scope = wanted.scope(credential.tenant_id)
    place = None if filters.cursor is None else edge.cursors.read(scope, filters.cursor)

    async def work(connection: Connection) -> list[bills_writes.Row]:
        if bill is not None:
            await bills_writes.bill_row(connection, bill)
        return await bills_reads.page(connection, wanted, place, filters.limit)

    rows = await edge.bills.look(credential, work)
    answer = bills_reads.answer(rows, wanted, filters.limit, credential.tenant_id, edge.cursors)
    return Answer(200, orjson.dumps(answer)).response()


async def _asking(request: Request) -> Credential:
    """Who asks, within the tenant's rate: a request counts as one event."""
    credential = await member(request)
    edge_of(request).rates.spend(credential, 1)
    return credential


async def _saved_bill(connection: Connection, before: Bill, after: Bill) -> Answer:
    written = await bills_writes.save(connection, before, after)
    row = shown(await bills_writes.bill_row(connection, after.id))
    return _answer(row, row["version"], written or [Written("bills", after.id, row["version"])])


async def _saved_occurrence(connection: Connection, before: Bill, after: Bill, occurrence_id: UUID) -> Answer:
    written = await bills_writes.save(connection, before, after)
    row = shown(await bills_writes.occurrence_row(connection, occurrence_id))
    bill = await bills_writes.bill_row(connection, after.id)
    row["bill"] = shown({name: bill[name] for name in ("id", "status", "amount", "version")})
    return _answer(row, row["version"], written or [Written("bill_occurrences", occurrence_id, row["version"])])


def _answer(
    content: dict[str, Any], version: int | None, written: list[Written], status: int = 200, **headers: str
) -> Answer:
    token = version_token.write(written)
    if version is not None:
        headers["ETag"] = f'"{version}"'
    headers[version_token.HEADER] = token
    return Answer(status, orjson.dumps({**content, "version_token": token}), headers)


def _asked(sent: BillChange | OccurrenceChange) -> Change:
    return Change(**sent.model_dump(exclude={"version"}))


def _id(text: str) -> UUID:
    """The id of a path; what cannot be one is as absent as what is not there."""
    found = uuid_of(text)
    if found is None:
        raise bills_writes.absent()
    return found


def _seen(request: Request, in_body: int | None, *, needed: bool) -> int | None:
    """The version that the sender saw, by If-Match or in the body. `If-Match: *` means whatever it is by now."""
    header = request.headers.get("if-match")
    if header is None:
        if in_body is None and needed:
            text = "say which version you saw: If-Match, or version in the body; `If-Match: *` takes any"
            raise Refusal(428, "version_required", text)
        return in_body
    if header == "*":
        return in_body
    found = _IF_MATCH.fullmatch(header)
    if found is None:
        raise _bad_version('one version as the ETag gave it, e.g. "3", or *')
    version = int(found[1] or found[2])
    if in_body not in {None, version}:
        raise _bad_version("If-Match and version in the body are not the same")
    return version


def _bad_version(text: str) -> Refusal:
    fault: Fault = {"pointer": "/header/If-Match", "code": "invalid_version", "detail": text}
    return Refusal(422, "invalid_version", text, errors=[fault])
