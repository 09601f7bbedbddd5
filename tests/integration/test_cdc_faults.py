"""Change data capture that is killed, stopped or robbed of its slot: named within seconds, and without a gap after."""

import asyncio
import os
import re
import signal
import time
import uuid

import asyncpg
import httpx

from app.telemetry import cdc_metrics
from infra.local import cdc_actions, cdc_watch
from infra.local.cdc_state import definition, report
from tests.support.cdc_parts import PARTITIONS, Cdc

FIRST_ROWS = 8_000
NAMED_WITHIN_S = 10.0
LOG_CHUNK_BYTES = 1_000_000
SMALL_LIMIT = "max_slot_wal_keep_size = '1MB'\nmax_wal_size = '32MB'\n"


def test_apply_again_changes_nothing(cdc: Cdc):
    """A second `apply` finds everything as it should be, and the status is in order."""
    done = cdc.cli("apply")
    assert (done["changed"], done["heartbeats_added"], done["heartbeats_removed"]) == (False, 0, 0)
    cdc.wait_verdict({"running"})
    found = cdc.cli("status")
    assert found["connector"]["state"] == "RUNNING"
    assert found["slot"]["wal_status"] == "reserved"
    assert found["slot"]["active"]
    assert found["publication"]["missing"] == []
    assert found["delay_s"] < 10


def test_heartbeat_rows_are_brought_to_the_number_of_partitions(cdc: Cdc):
    """Rows that were lost, or belong to another number of partitions, are put right by the next `apply`."""

    async def disturb() -> None:
        role = await cdc.role()
        await role.execute(
            "DELETE FROM cdc_heartbeats WHERE tenant_id = (SELECT min(tenant_id::text)::uuid FROM cdc_heartbeats)"
        )
        await role.execute("INSERT INTO cdc_heartbeats (tenant_id) VALUES (gen_random_uuid())")
        await role.close()

    asyncio.run(disturb())
    done = cdc.apply()
    assert (done.heartbeats_added, done.heartbeats_removed) == (1, 1)


def test_no_secret_is_shown(cdc: Cdc):
    """Connect shows the reference to a secret, and none of our outputs has its value."""
    url = cdc.settings.postgres_cdc_url.get_secret_value()
    password = url.split(":")[2].split("@")[0]
    shown = httpx.get(f"{cdc.settings.connect_url}/connectors/{definition().name}").text
    assert "${env:CONNECT_SECRET_POSTGRES_PASSWORD}" in shown
    assert (
        password
        not in shown + str(cdc.cli("status")) + (cdc.stack.home.root / "connect/connect.properties").read_text()
    )


def test_an_idle_bills_domain_does_not_hold_the_log(cdc: Cdc):
    """While other tables write and no bill changes, heartbeats move the slot on, so the log is not kept."""

    async def write() -> None:
        owner = await cdc.owner()
        await emit(owner, 20)
        await owner.close()

    asyncio.run(write())
    deadline = time.monotonic() + 20
    while (lag := cdc.report().slot.lag_bytes) > LOG_CHUNK_BYTES:  # type: ignore[union-attr]
        assert time.monotonic() < deadline, lag


def test_killed_while_streaming_no_change_is_missing(cdc: Cdc):
    """After SIGKILL of Connect every change is there; what comes twice has the same identity."""
    changes = cdc.changes()
    bills = [uuid.uuid4() for _ in range(300)]

    async def write() -> None:
        owner = await cdc.owner()
        for number, bill in enumerate(bills):
            await cdc.insert(owner, [bill])
            if number == 150:
                await asyncio.to_thread(changes.bills, set(bills[:100]), "the first hundred", "c")
                cdc.stack.kill("connect")
        await owner.close()

    restarts = cdc.stack.records()["connect"].restarts
    asyncio.run(write())
    cdc.stack.wait("connect", restarts + 1)
    found = changes.bills(set(bills), "all of them", "c")
    places = {(each.row["id"], each.identity) for each in found}
    assert len(places) == len(bills)
    cdc.wait_verdict({"running"})


def test_postgres_killed_while_streaming_is_followed_again(cdc: Cdc):
    """After SIGKILL of Postgres Debezium connects again by itself, and what was committed on both sides comes."""
    changes = cdc.changes()
    before, after = uuid.uuid4(), uuid.uuid4()
    restarts = cdc.stack.records()["postgres"].restarts
    asyncio.run(_insert(cdc, before))
    cdc.stack.kill("postgres")
    cdc.stack.wait("postgres", restarts + 1)
    asyncio.run(_insert(cdc, after))
    changes.bills({before, after}, "both rows", "c")
    cdc.wait_verdict({"running"})


def test_a_missing_slot_is_named_and_mended(cdc: Cdc):
    """A slot that somebody dropped: Debezium refuses to run, the status says so, and `mend` closes the gap."""
    lost, gone = uuid.uuid4(), uuid.uuid4()

    async def rob() -> None:
        async with cdc_actions.Connectors(cdc.settings.connect_url) as connectors:
            await connectors.stop(definition().name)
            owner, role = await cdc.owner(), await cdc.role()
            await cdc.insert(owner, [gone])
            await role.execute("SELECT pg_drop_replication_slot($1)", definition().slot)
            await cdc.insert(owner, [lost])
            await owner.close()
            await role.close()
            await connectors.resume(definition().name)

    changes = cdc.changes()
    asyncio.run(rob())
    assert cdc.wait_verdict({"slot missing"}) < NAMED_WITHIN_S
    assert asyncio.run(cdc_watch.look(cdc.settings)) == "slot missing"
    assert b'afluente_cdc_slot_whole{slot="afluente_bills"} 0.0' in cdc_metrics.exposition()
    assert "cdc mend" in cdc.cli("status", status=1)["advice"]
    done = cdc.cli("mend")
    assert done["mended"]
    assert done["next"].startswith("./afluente reconcile bills")
    found = changes.bills({lost, gone}, "the rows of the gap", "r")
    assert {each.positions[1] > 0 for each in found} == {True}
    cdc.wait_verdict({"running"})
    assert cdc.cli("mend") == {"mended": False}


def test_a_lost_slot_is_named_and_mended(cdc: Cdc):
    """Postgres gives up a slot whose reader is away too long: danger first, then loss, then mended without a gap."""
    cluster = cdc.stack.home.root / "postgres" / "cluster"
    conf = cluster / "postgresql.conf"
    kept = conf.read_text()
    changed = uuid.uuid4()
    changes = cdc.changes()
    asyncio.run(_insert(cdc, changed))
    changes.bills({changed}, "the row", "c")
    try:
        _reload(cluster, kept + SMALL_LIMIT)
        asyncio.run(_outrun(cdc))
        assert cdc.wait_verdict({"slot lost"}, 30) < NAMED_WITHIN_S
        asyncio.run(_update(cdc, changed))
    finally:
        _reload(cluster, kept)
    assert cdc.cli("mend")["mended"]
    reads = changes.bills({changed}, "the row of the gap", "r")
    assert reads[-1].row["amount"] == "99.00"
    cdc.wait_verdict({"running"})


def test_killed_during_the_first_snapshot_no_row_is_missing(cdc: Cdc):
    """SIGKILL in the first snapshot: it begins anew, and every row is there; heartbeats are in every partition."""
    bills = [uuid.uuid4() for _ in range(FIRST_ROWS)]
    asyncio.run(_begin_anew(cdc, bills))
    changes = cdc.changes()
    restarts = cdc.stack.records()["connect"].restarts
    cdc.apply()
    changes.until(
        lambda seen: any(each.op == "r" and each.table == "bills" for each in seen), "the snapshot's first row"
    )
    cdc.stack.kill("connect")
    cdc.stack.wait("connect", restarts + 1)
    found = changes.bills(set(bills), "every row", "r")
    assert {each.row["id"] for each in found} == {str(each) for each in bills}
    cdc.wait_verdict({"running"})
    assert cdc.report().document["publication"]["missing"] == []
    assert cdc_actions.partitions_of(cdc.settings, definition().topic) == PARTITIONS


async def emit(owner: "asyncpg.Connection", chunks: int) -> None:  # type: ignore[type-arg]
    """Log that belongs to no captured table."""
    text = "SELECT count(pg_logical_emit_message(false, 'test', repeat('y', $1))) FROM generate_series(1, $2)"
    await owner.execute(text.replace("$1", str(LOG_CHUNK_BYTES)).replace("$2", str(chunks)))


def _reload(cluster: os.PathLike[str], text: str) -> None:
    path = os.fspath(cluster)
    with open(f"{path}/postgresql.conf", "w", encoding="utf-8") as file:  # noqa: PTH123 - its owner stays as it is
        file.write(text)
    with open(f"{path}/postmaster.pid", encoding="utf-8") as file:  # noqa: PTH123
        os.kill(int(re.match(r"\d+", file.read())[0]), signal.SIGHUP)  # type: ignore[index]


async def _insert(cdc: Cdc, bill: uuid.UUID) -> None:
    owner = await cdc.owner()
    await cdc.insert(owner, [bill])
    await owner.close()


async def _update(cdc: Cdc, bill: uuid.UUID) -> None:
    owner = await cdc.owner()
    await owner.execute("UPDATE bills SET amount = 99 WHERE id = $1", bill)
    await owner.close()


async def _outrun(cdc: Cdc) -> None:
    """Writes more log in one transaction than the slot may hold, until Postgres gives the slot up."""
    owner = await cdc.owner()
    for _ in range(20):
        async with owner.transaction():
            await owner.execute("UPDATE bills SET category = category")
            await emit(owner, 30)
        slot = (await report(cdc.settings)).slot
        if slot is not None and slot.is_lost:
            break
    await owner.close()


async def _begin_anew(cdc: Cdc, bills: list[uuid.UUID]) -> None:
    """No connector, no position, no slot, and many rows: as before the very first `apply`."""
    name = definition().name
    async with cdc_actions.Connectors(cdc.settings.connect_url) as connectors:
        await connectors.stop(name)
    async with httpx.AsyncClient(base_url=cdc.settings.connect_url, timeout=30) as client:
        (await client.delete(f"/connectors/{name}/offsets")).raise_for_status()
        (await client.delete(f"/connectors/{name}")).raise_for_status()
    owner, role = await cdc.owner(), await cdc.role()
    await role.execute("SELECT pg_drop_replication_slot($1)", definition().slot)
    await owner.execute("DELETE FROM bills")
    await cdc.insert(owner, bills)
    await owner.close()
    await role.close()
