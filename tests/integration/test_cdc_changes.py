"""Debezium between Postgres and Kafka: what each kind of change becomes in bills.changes."""

import asyncio
import random
import uuid

import asyncpg
import pytest
from aiokafka.partitioner import murmur2

from infra.local import cdc_actions
from infra.local.cdc_source import heartbeat_ids, signal_snapshot
from tests.support.cdc_parts import PARTITIONS, TENANT, Cdc, quiet

WIDE = 0x20000  # characters of four bytes, from here on
TRANSACTION_ROWS = 3_000


def ids(count: int) -> list[uuid.UUID]:
    """New bills' ids."""
    return [uuid.uuid4() for _ in range(count)]


def test_a_row_older_than_the_connector_comes_as_a_read(cdc: Cdc):
    """The first snapshot brings what was there: op r under the tenant's key, without headers, with a position."""
    changes = cdc.changes(whole=True)
    (read,) = changes.bills({cdc.before}, "the snapshot", ops="r")[:1]
    assert read.key == str(TENANT)
    assert read.headers == []
    assert read.envelope["before"] is None
    assert read.envelope["source"]["snapshot"] == "incremental"
    assert read.positions[1] > 0
    assert read.row["amount"] == "10.00"
    assert read.row["due_date"] == 20762
    assert read.row["created_at"].endswith("Z")
    assert read.partition == (murmur2(str(TENANT).encode()) & 0x7FFFFFFF) % PARTITIONS


async def test_insert_update_and_delete_come_with_both_images(cdc: Cdc):
    """Each change has its own LSN, and update and delete carry the whole row as it was before."""
    changes = cdc.changes()
    (bill,) = ids(1)
    owner = await cdc.owner()
    await cdc.insert(owner, [bill])
    await owner.execute(
        "UPDATE bills SET due_date = '2026-12-05', status = 'paid', paid_at = now() WHERE id = $1", bill
    )
    await owner.execute("DELETE FROM bills WHERE id = $1", bill)
    await owner.close()
    found = await asyncio.to_thread(changes.bills, {bill}, "the delete", "d")
    created, updated, deleted = [each for each in changes.seen if each.table == "bills"][-3:]
    assert [created.op, updated.op, deleted.op] == ["c", "u", "d"]
    assert found == [deleted]
    assert updated.envelope["before"] == created.envelope["after"]
    assert (updated.envelope["before"]["due_date"], updated.envelope["after"]["due_date"]) == (20762, 20792)
    assert deleted.envelope["before"] == updated.envelope["after"]
    assert deleted.envelope["after"] is None
    assert created.positions[1] < updated.positions[1] < deleted.positions[1]
    assert {each.key for each in (created, updated, deleted)} == {str(TENANT)}
    assert updated.row["version"] == created.row["version"] + 1


async def test_a_changed_primary_key_is_a_delete_and_a_create(cdc: Cdc):
    """The old row goes and the new one comes in one transaction, under one LSN."""
    changes = cdc.changes()
    old, new = ids(2)
    owner = await cdc.owner()
    await cdc.insert(owner, [old])
    await owner.execute("UPDATE bills SET id = $2 WHERE id = $1", old, new)
    await owner.close()
    await asyncio.to_thread(changes.bills, {new}, "the new row", "c")
    gone, come = [each for each in changes.seen if each.table == "bills"][-2:]
    assert (gone.op, gone.row["id"], come.op, come.row["id"]) == ("d", str(old), "c", str(new))
    assert gone.positions == come.positions


async def test_a_value_stored_aside_arrives_whole(cdc: Cdc):
    """An update that leaves a TOASTed column alone still carries it, in both images."""
    changes = cdc.changes()
    (bill,) = ids(1)
    chosen = random.Random(7)
    text, label = ("".join(chr(chosen.randrange(WIDE, WIDE + 0x8000)) for _ in range(count)) for count in (500, 100))
    owner = await cdc.owner()
    await cdc.insert(owner, [bill], description=text, category=label)
    assert await owner.fetchval("SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE relname = 'bills'") > 0
    await owner.execute("UPDATE bills SET amount = 11 WHERE id = $1", bill)
    await owner.close()
    (updated,) = await asyncio.to_thread(changes.bills, {bill}, "the update", "u")
    assert updated.envelope["after"]["description"] == updated.envelope["before"]["description"] == text


async def test_one_transaction_of_many_rows_comes_whole_and_in_order(cdc: Cdc):
    """Every row of a large transaction arrives once, in the order of its LSNs."""
    changes = cdc.changes()
    bills = ids(TRANSACTION_ROWS)
    owner = await cdc.owner()
    await cdc.insert(owner, bills)
    await owner.close()
    found = await asyncio.to_thread(changes.bills, set(bills), "all rows", "c")
    assert [each.row["id"] for each in found] == [str(each) for each in bills]
    assert len({each.envelope["source"]["txId"] for each in found}) == 1
    assert sorted(found, key=lambda each: each.positions[1]) == found


async def test_a_snapshot_sends_rows_once_more_while_the_stream_goes_on(cdc: Cdc):
    """An incremental snapshot of some rows sends these and no other, without an LSN of their own."""
    first, second = ids(2)
    owner = await cdc.owner()
    await cdc.insert(owner, [first, second])
    changes = cdc.changes()
    asked = await cdc_actions.snapshot(cdc.settings, ["public.bills"], f"id = '{first}'", quiet, wait=True)
    await owner.execute("UPDATE bills SET amount = 12 WHERE id = $1", second)
    await owner.close()
    await asyncio.to_thread(changes.bills, {second}, "the stream", "u")
    reads = [each for each in changes.seen if each.op == "r"]
    assert [each.row["id"] for each in reads] == [str(first)]
    assert reads[0].key == str(TENANT)
    assert reads[0].envelope["source"]["snapshot"] == "incremental"
    assert reads[0].envelope["source"]["lsn"] is None
    assert reads[0].positions[1] > 0
    assert asked.seconds is not None


async def test_a_read_never_outranks_a_change_that_it_did_not_see(cdc: Cdc):
    """A transaction open during a snapshot commits later with a lower LSN; the greater of both positions tells."""
    (bill,) = ids(1)
    owner, other = await cdc.owner(), await cdc.owner()
    await cdc.insert(owner, [bill])
    changes = cdc.changes()
    async with owner.transaction():
        await owner.execute("UPDATE bills SET amount = 77 WHERE id = $1", bill)
        await signal_snapshot(other, ["public.bills"], f"id = '{bill}'")
        await asyncio.to_thread(changes.bills, {bill}, "the read", "r")
    (updated,) = await asyncio.to_thread(changes.bills, {bill}, "the update", "u")
    await owner.close()
    await other.close()
    (read,) = [each for each in changes.seen if each.op == "r"]
    assert (read.row["amount"], updated.row["amount"]) == ("10.00", "77.00")
    assert updated.envelope["source"]["lsn"] < read.positions[1]
    assert max(updated.positions) > max(read.positions)


def test_heartbeats_arrive_in_every_partition(cdc: Cdc):
    """Each second every partition gets a row whose key is not a tenant and hashes to it."""
    wanted = dict(enumerate(str(each) for each in heartbeat_ids(PARTITIONS)))
    changes = cdc.changes()
    changes.until(
        lambda seen: {each.partition for each in seen if each.table == "cdc_heartbeats"} == set(wanted), "heartbeats"
    )
    beats = [each for each in changes.seen if each.table == "cdc_heartbeats"]
    assert all(each.key == each.row["tenant_id"] == wanted[each.partition] for each in beats)


async def test_a_truncate_is_refused(cdc: Cdc):
    """Nobody empties a captured table behind ClickHouse's back: it is refused with what to do instead."""
    owner = await cdc.owner()
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="refused"):
        await owner.execute("TRUNCATE bills CASCADE")
    await owner.close()


async def test_columns_added_widened_and_dropped_are_followed(cdc: Cdc):
    """A new column is in the next record, a wider type changes nothing, a dropped one is gone; the stream goes on."""
    one, two, three = ids(3)
    changes = cdc.changes()
    owner = await cdc.owner()
    await owner.execute("ALTER TABLE bills ADD COLUMN note varchar(10) NOT NULL DEFAULT 'new'")
    try:
        await cdc.insert(owner, [one])
        await owner.execute("ALTER TABLE bills ALTER COLUMN note TYPE text")
        await cdc.insert(owner, [two])
    finally:
        await owner.execute("ALTER TABLE bills DROP COLUMN note")
    await cdc.insert(owner, [three])
    await owner.close()
    found = await asyncio.to_thread(changes.bills, {one, two, three}, "three rows", "c")
    assert [each.row.get("note") for each in found] == ["new", "new", None]
    assert "note" not in found[2].row


async def test_the_role_reads_and_changes_nothing_of_a_tenant(cdc: Cdc):
    """Debezium's role sees every bill and may write none; keys and secrets are closed to it."""
    role = await cdc.role()
    assert await role.fetchval("SELECT count(*) FROM bills") > 0
    for statement in ("UPDATE bills SET amount = 1", "DELETE FROM bills", "SELECT * FROM api_keys"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await role.execute(statement)
    await role.close()
