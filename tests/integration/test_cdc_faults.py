"""Change data capture that is killed, stopped or robbed of its slot: named within seconds, and without a gap after."""

import asyncio
import time
import uuid

import asyncpg
import httpx
import pytest

from app.telemetry import cdc_metrics
from infra.local import cdc_actions, cdc_watch
from infra.local.cdc_state import definition
from tests.support.cdc_parts import PARTITIONS, TENANT, Cdc
from tests.support.children import poll

FIRST_ROWS = 8_000
CHUNK_ROWS = 100  # instead of thousands: many chunks, so that a kill is among them
TABLES = ("public.bills", "public.bill_occurrences")
NAMED_WITHIN_S = 10.0
LOG_CHUNK_BYTES = 1_000_000


def test_apply_again_changes_nothing(cdc: Cdc):
    """The second `apply` finds all as it should be and orders no snapshot, and the status says the same."""
    done = cdc.cli("apply")
    assert (done["changed"], done["heartbeats_added"], done["heartbeats_removed"]) == (False, 0, 0)
    assert done["snapshot_ordered"] == []
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
    """SIGKILL in the first snapshot: it goes on where it was, as the status says, and every row is there."""
    bills = [uuid.uuid4() for _ in range(FIRST_ROWS)]
    asyncio.run(begin_anew(cdc, bills))
    changes = cdc.changes()
    restarts = cdc.stack.records()["connect"].restarts
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(definition().config, "incremental.snapshot.chunk.size", str(CHUNK_ROWS))
        cdc.apply()
    snapshot = poll(lambda: (shown := cdc.report().document["snapshot"]) and shown["key"] and shown, "the first chunk")
    cdc.stack.kill("connect")
    assert snapshot["tables"] == list(TABLES)
    assert (snapshot["key"][0], uuid.UUID(snapshot["key"][1]) in bills) == (str(TENANT), True)
    cdc.stack.wait("connect", restarts + 1)
    found = changes.bills(set(bills), "every row", "r")
    assert {each.row["id"] for each in found} == {str(each) for each in bills}
    cdc.wait_verdict({"running"})
    assert cdc.report().document["publication"]["missing"] == []
    assert cdc_actions.partitions_of(cdc.settings, definition().topic) == PARTITIONS
    assert cdc.apply().snapshot_ordered == ()


def test_an_apply_that_was_killed_is_finished_by_the_next(cdc: Cdc):
    """Killed before its order: the next `apply` sends it, whatever part was ordered meanwhile, and then none does."""
    bills = [uuid.uuid4() for _ in range(10)]
    asyncio.run(begin_anew(cdc, bills))
    with pytest.raises(KilledHere):
        asyncio.run(cdc_actions.apply(cdc.settings, killed_at_the_order))
    cdc.wait_verdict({"running"})
    cdc.cli("snapshot", "bills", "--where", "amount < 0")
    changes = cdc.changes()
    assert cdc.apply().snapshot_ordered == TABLES
    changes.bills(set(bills), "every row", "r")
    assert cdc.apply().snapshot_ordered == ()


def test_a_connector_and_a_slot_that_were_dropped_begin_anew(cdc: Cdc):
    """Orders to a former slot bind nobody: a new one gets a new snapshot, and so does a position that was lost."""
    bills = [uuid.uuid4() for _ in range(10)]
    for forget in (begin_anew, lose_position):
        asyncio.run(forget(cdc, bills))
        changes = cdc.changes()
        assert cdc.apply().snapshot_ordered == TABLES
        changes.bills(set(bills), "every row", "r")
        assert cdc.apply().snapshot_ordered == ()


class KilledHere(BaseException):
    """The process ends at this point."""


def killed_at_the_order(text: str) -> None:
    """Everything is made, and the order is not sent yet."""
    if text.startswith("ordering"):
        raise KilledHere


async def emit(owner: "asyncpg.Connection", chunks: int) -> None:  # type: ignore[type-arg]
    """Log that belongs to no captured table."""
    text = "SELECT count(pg_logical_emit_message(false, 'test', repeat('y', $1))) FROM generate_series(1, $2)"
    await owner.execute(text.replace("$1", str(LOG_CHUNK_BYTES)).replace("$2", str(chunks)))


async def lose_position(cdc: Cdc, _bills: list[uuid.UUID]) -> None:
    """A connector that is stopped and knows no position; its slot is there."""
    name = definition().name
    async with cdc_actions.Connectors(cdc.settings.connect_url) as connectors:
        await connectors.stop(name)
    async with httpx.AsyncClient(base_url=cdc.settings.connect_url, timeout=30) as client:
        (await client.delete(f"/connectors/{name}/offsets")).raise_for_status()


async def begin_anew(cdc: Cdc, bills: list[uuid.UUID]) -> None:
    """No connector, no position, no slot, and these rows alone: as before the very first `apply`."""
    await lose_position(cdc, bills)
    async with httpx.AsyncClient(base_url=cdc.settings.connect_url, timeout=30) as client:
        (await client.delete(f"/connectors/{definition().name}")).raise_for_status()
    owner, role = await cdc.owner(), await cdc.role()
    await role.execute("SELECT pg_drop_replication_slot($1)", definition().slot)
    await owner.execute("DELETE FROM bills")
    await cdc.insert(owner, bills)
    await owner.close()
    await role.close()
