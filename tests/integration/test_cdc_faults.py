"""Change data capture that is killed, stopped or robbed of its slot: named within seconds, and without a gap after."""

import asyncio
import time
import uuid

import asyncpg
import httpx

from app.telemetry import cdc_metrics
from infra.local import cdc_actions, cdc_watch
from infra.local.cdc_state import definition
from tests.support.cdc_parts import PARTITIONS, Cdc

FIRST_ROWS = 8_000
NAMED_WITHIN_S = 10.0
LOG_CHUNK_BYTES = 1_000_000


def test_apply_again_changes_nothing(cdc: Cdc):
    """After the first snapshot `apply` forbids another one; then it finds all as it should be, as the status does."""
    cdc.cli("apply")
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
