"""Postgres as a source killed, filled, robbed of its slot and held up: what it committed is in ClickHouse, once."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.tenant_store import ANSWER_S, POOL_MAX
from infra.local.cdc_source import connected, read_slot
from infra.local.cdc_state import definition
from tests.fault.bills.case import BillsCase
from tests.fault.results import NOT_RUN
from tests.support.children import poll
from tests.support.standby import configure, family, forget, reload, server_pid
from tests.support.tenants import Tenant

NAMED_WITHIN_S = 10.0  # from the loss of a slot to the figure that an alert reads
BACK_WITHIN_S = 3.0  # from the first answer of Postgres to that of the edge: one deadline, and some for the machine
SLACK_S = 3.0
CHUNK_BYTES = 1_000_000
CHUNKS = 30
REQUESTS = 20
ROOM_MIB = 64  # on the small disk, beside what the cluster has
REFUSALS = 10  # in a row: the disk is full for whatever is written
FILL_BYTES = 8 << 10  # Postgres' own page: no smaller room is of use to it
BILL = {"user_id": "ana", "amount": "100.00", "currency": "BRL", "due_date": "2090-01-31"}


def cluster(case: BillsCase) -> Path:
    """The folder of the stack's Postgres."""
    return Path(case.bills.stack.home.root) / "postgres" / "cluster"


def asked(url: str, tenant: Tenant, method: str = "GET", **sent: Any) -> httpx.Response:
    """A request for bills with the tenant's key."""
    headers = {"X-App-Key": tenant.app_key, **sent.pop("headers", {})}
    return httpx.request(method, f"{url}/bills", headers=headers, timeout=20, trust_env=False, **sent)


def clicked(url: str, tenant: Tenant) -> int:
    """The status of a click with the tenant's key."""
    headers = {"X-Write-Key": tenant.write_key}
    return httpx.post(f"{url}/track/click", json={}, headers=headers, timeout=20, trust_env=False).status_code


def test_killed_under_writes(bills_case: BillsCase) -> None:
    """SIGKILL of the whole tree: no confirmed write is gone, clicks with known keys go on, bills are soon back."""
    bills_case.worker()
    edge = bills_case.edge(credential_cache_s=0)
    known, other = bills_case.hire(2)
    bills_case.tenants.append(known.tenant_id)
    assert (asked(edge.url, known, "POST", json=BILL).status_code, clicked(edge.url, known)) == (201, 202)
    refused = 0
    with bills_case.load.flowing() as load:
        load.await_inside()
        for process in family(server_pid(cluster(bills_case))):
            process.kill()
        bills_case.bills.stack.stop("postgres")  # or its supervisor has it back within half a second
        for _ in range(REQUESTS):
            answer = asked(edge.url, known)
            refused += answer.status_code == 503
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert clicked(edge.url, known) == 202
        bills_case.bills.stack.start("postgres")
        bills_case.lifted()
        back_s = bills_case.until(lambda: asked(edge.url, known).status_code == 200 and clicked(edge.url, other) == 202)
        load.await_more(10)
    doubt = bills_case.load.ledger.errors
    bills_case.fired = f"{doubt} transactions in doubt, {refused} requests refused, edge back after {back_s:.1f} s"
    bills_case.settle()
    assert back_s < BACK_WITHIN_S


@pytest.mark.full
def test_slot_lost(bills_case: BillsCase) -> None:
    """Postgres gives the slot up: named within 10 s, mended under writes; no row is missing, deleted or there twice."""
    bills_case.worker()
    where = cluster(bills_case)
    bills_case.untold = True  # of the rows of the gap only a snapshot tells
    with bills_case.load.flowing() as load:
        with limited(where):
            asyncio.run(outrun(bills_case))
            lost_at = time.monotonic()
            poll(lambda: whole(bills_case) == 0.0, "the watch says that the slot is lost")
            named_s = time.monotonic() - lost_at
        before = load.ledger.transactions
        load.await_more(20)
        began = load.ledger.transactions - before
        assert bills_case.bills.afluente("cdc", "mend", "--json")["mended"]
        bills_case.lifted()
        load.await_more(5)
    # A snapshot cannot name rows that were deleted meanwhile.
    bills_case.marker()
    repaired = bills_case.bills.afluente("reconcile", "bills", "--repair", "--json", status=None)
    assert not isinstance(repaired, str), repaired
    bills_case.fired = (
        f"named after {named_s:.1f} s, {began} transactions in the gap, {repaired['differences']} deletions"
    )
    bills_case.settle()
    assert named_s < NAMED_WITHIN_S


@contextmanager
def limited(where: Path) -> Iterator[None]:
    """Slots may keep next to nothing while the body runs."""
    names = {"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB"}
    configure(where, names)
    reload(where)
    try:
        yield
    finally:
        forget(where, names)
        reload(where)


async def outrun(case: BillsCase) -> None:
    """More log in one transaction than the slot may hold, until Postgres gives it up."""
    owner = await case.bills.connect()
    text = "SELECT count(pg_logical_emit_message(false, 'test', repeat('y', $1))) FROM generate_series(1, $2)"
    lost = False
    while not lost:
        async with owner.transaction():
            await owner.execute("UPDATE bills SET category = category WHERE tenant_id = ANY($1::uuid[])", case.tenants)
            await owner.execute(text.replace("$1", str(CHUNK_BYTES)).replace("$2", str(CHUNKS)))
        async with connected(case.bills.settings) as connection:
            slot = await read_slot(connection, definition().slot)
        lost = slot is not None and slot.is_lost
    await owner.close()


def whole(case: BillsCase) -> float | None:
    """What the watch tells Prometheus of the slot."""
    url = f"http://127.0.0.1:{case.bills.settings.watch_port}/metrics"
    lines = httpx.get(url, trust_env=False).text.splitlines()
    found = [line.rsplit(" ", 1)[1] for line in lines if line.startswith("afluente_cdc_slot_whole{")]
    return float(found[0]) if found else None


def test_late_commit(bills_case: BillsCase) -> None:
    """Two transactions, the older with lower LSNs commits last: both are there, and the last commit wins."""
    bills_case.worker()
    tenant = uuid.UUID(bills_case.tenants[0])
    insert = (
        "INSERT INTO bills (tenant_id, id, user_id, amount, currency, due_date)"
        " VALUES ($1, $2, 'u', $3, 'BRL', '2026-03-03')"
    )
    low, high, shared = uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=3)

    async def cross() -> None:
        late, early = await bills_case.bills.connect(), await bills_case.bills.connect()
        await early.execute(insert, tenant, shared, 1)
        slow = late.transaction()
        await slow.start()
        await late.execute(insert, tenant, low, 10)
        await early.execute(insert, tenant, high, 20)
        await early.execute("UPDATE bills SET amount = 2 WHERE tenant_id = $1 AND id = $2", tenant, shared)
        await asyncio.to_thread(bills_case.marker)  # the fast one has arrived, and whoever polled by id has passed
        await late.execute("UPDATE bills SET amount = 3 WHERE tenant_id = $1 AND id = $2", tenant, shared)
        await slow.commit()
        await late.close()
        await early.close()

    asyncio.run(cross())
    bills_case.lifted()
    bills_case.load.ledger.kept |= {str(one) for one in (low, high, shared)}
    bills_case.fired = "the later commit has the lower id and LSN"
    bills_case.settle()
    told = [str(event[2]["data"]["id"]) for event in bills_case.events() if event[1] == "bill_created"]
    assert told.index(str(high)) < told.index(str(low))


def test_pool_exhausted(bills_case: BillsCase) -> None:
    """Every connection of the edge waits for one lock: further requests are 503 in time, and clicks are not held up."""
    edge = bills_case.edge(credential_cache_s=0)
    (tenant,) = bills_case.hire(1)
    made = asked(edge.url, tenant, "POST", json={**BILL, "installments": 2}).json()
    assert clicked(edge.url, tenant) == 202
    path = f"{edge.url}/occurrences/{made['occurrences'][0]['id']}/pay"

    def pay(_: int) -> tuple[httpx.Response, float]:
        answer = httpx.post(path, headers={"X-App-Key": tenant.app_key}, timeout=20, trust_env=False)
        return answer, answer.elapsed.total_seconds()

    def crowd() -> list[tuple[httpx.Response, float]]:
        with ThreadPoolExecutor(4 * POOL_MAX) as pool:
            waiting = [pool.submit(pay, number) for number in range(4 * POOL_MAX)]
            assert clicked(edge.url, tenant) == 202
            return [one.result() for one in waiting]

    async def hold() -> list[tuple[httpx.Response, float]]:
        owner = await bills_case.bills.connect()
        async with owner.transaction():
            await owner.execute("SELECT 1 FROM bills WHERE id = $1 FOR UPDATE", uuid.UUID(made["id"]))
            answers = await asyncio.to_thread(crowd)
        await owner.close()
        return answers

    answers = asyncio.run(hold())
    slowest = max(seconds for _, seconds in answers)
    assert {answer.status_code for answer, _ in answers} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer, _ in answers)
    assert slowest < ANSWER_S + SLACK_S
    codes = {answer.json()["code"] for answer, _ in answers}
    assert codes <= {"busy", "contended", "rows_unavailable", "credentials_unavailable"}
    assert pay(0)[0].status_code == 200
    bills_case.fired = f"{len(answers)} requests at {POOL_MAX} connections, the slowest refused after {slowest:.1f} s"
    bills_case.told()


@contextmanager
def small_disk(case: BillsCase) -> Iterator[Path]:
    """The cluster on a disk of its own, with little room beside what it has; back where it was afterwards."""
    where, aside = cluster(case), cluster(case).with_name("aside")
    stack = case.bills.stack
    stack.stop("postgres")
    mib = ROOM_MIB + sum(file.stat().st_blocks for file in where.rglob("*") if file.is_file()) * 512 // 2**20
    where.rename(aside)
    where.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=700", "tmpfs", where)
    try:
        move(aside, where)
        stack.start("postgres")
        yield where
    finally:
        stack.stop("postgres")
        shutil.rmtree(aside, ignore_errors=True)
        move(where, aside)
        run("umount", "-l", where)
        where.rmdir()
        aside.rename(where)
        stack.start("postgres")


def move(source: Path, target: Path) -> None:
    """All of a folder, with its owners."""
    run("cp", "-a", f"{source}/.", target)
    target.chmod(0o700)
    shutil.copystat(source, target)
    shutil.chown(target, *(source.stat().st_uid, source.stat().st_gid))


def run(*command: str | Path) -> None:
    """A command that must succeed."""
    subprocess.run(command, check=True)


@pytest.mark.full
def test_disk_full(bills_case: BillsCase) -> None:
    """No room for rows and log: writes are refused, none was confirmed in vain, and all goes on when there is room."""
    if os.geteuid():
        bills_case.told(NOT_RUN, "needs a small file system of its own: only root may mount one")
        return
    bills_case.worker()
    edge = bills_case.edge(credential_cache_s=0)
    (tenant,) = bills_case.hire(1)
    bills_case.tenants.append(tenant.tenant_id)
    confirmed = 1
    assert asked(edge.url, tenant, "POST", json=BILL).status_code == 201
    with small_disk(bills_case) as where:
        poll(lambda: asked(edge.url, tenant).status_code == 200, "the edge is back")
        with bills_case.load.flowing() as load:
            filler = where / "filler"
            fill(filler)
            statuses: list[int] = []
            while statuses[-REFUSALS:].count(503) < REFUSALS:
                statuses.append(asked(edge.url, tenant, "POST", json=BILL).status_code)
                fill(filler)
            confirmed += statuses.count(201)
            assert set(statuses) <= {201, 503}
            filler.unlink()
            bills_case.bills.stack.start("postgres")  # nothing, unless its supervisor gave up
            bills_case.lifted()
            back_s = bills_case.until(lambda: asked(edge.url, tenant, "POST", json=BILL).status_code == 201)
            load.await_more(10)
        bills_case.fired = (
            f"{load.ledger.errors} transactions failed, {statuses.count(503)} requests refused, writes again after"
            f" {back_s:.1f} s"
        )
        bills_case.settle()
        made = bills_case.bills.postgres("SELECT count(*) FROM bills WHERE tenant_id = $1", uuid.UUID(tenant.tenant_id))
        assert made[0][0] >= confirmed + 1


def fill(filler: Path) -> None:
    """Write until there is no room."""
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(FILL_BYTES))
