"""What `./afluente cdc` does: apply the connector, ask for a snapshot, mend a lost slot. Each may be run again."""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from app.settings import Settings
from infra.local import cdc_source as source
from infra.local.cdc_state import Report, definition, progress_of, report
from infra.local.connectors import Connectors
from infra.local.faults import Fault
from infra.local.topics import REQUEST_TIMEOUT_S, admin_client

POLL_S: Final = 0.5
RUNNING_TIMEOUT_S: Final = 90.0  # a task connects, validates and makes its slot: 2 s on an idle machine
NOTICE_TIMEOUT_S: Final = 10.0  # Debezium asks for its slot every 2 s
RESTARTS_MAX: Final = 3  # of a task that fails while a slot is mended
CONDITION_CHARS_MAX: Final = 2_000

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` found and did."""

    changed: bool
    heartbeats_added: int
    heartbeats_removed: int
    snapshot_ordered: tuple[str, ...]  # tables whose first snapshot begins now
    seconds: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that was asked for. `seconds` is None when nobody waited for its end."""

    signal: str
    tables: tuple[str, ...]
    seconds: float | None


def partitions_of(settings: Settings, topic: str) -> int:
    """How many partitions the topic has. It must exist: Connect would wait for it without a word."""
    found = admin_client(settings).list_topics(timeout=REQUEST_TIMEOUT_S).topics
    if topic not in found:
        raise Fault(f"The topic {topic} does not exist: run `./afluente topics apply`.")
    return len(found[topic].partitions)


async def apply(settings: Settings, tell: Tell) -> Applied:
    """Brings Connect and the heartbeats to what the settings file says, and orders a snapshot that was not made yet."""
    began = time.monotonic()
    wanted = definition()
    partitions = await asyncio.to_thread(partitions_of, settings, wanted.topic)
    tell("asking Postgres for roles, grants and the publication")
    async with source.connected(settings) as connection:
        if faults := await source.faults(connection, wanted.publication, wanted.tables):
            raise Fault("Postgres is not ready for change data capture:\n" + "\n".join(f"  {each}" for each in faults))
        added, removed = await source.write_heartbeats(connection, partitions)
    async with Connectors(settings.connect_url) as connectors:
        tell("letting Debezium check its settings")
        if faults := await connectors.faults(wanted.config):
            raise Fault("Debezium refuses its settings:\n" + "\n".join(f"  {each}" for each in faults))
        before = await connectors.state(wanted.name)
        await _forget_void_orders(settings, connectors)
        changed = await connectors.put(wanted.name, wanted.config)
        if before and before.state in {"PAUSED", "STOPPED"}:
            await connectors.resume(wanted.name)
        await _await_running(settings, connectors, tell)
    ordered = await _order_first_snapshot(settings, tell)
    return Applied(changed, added, removed, ordered, round(time.monotonic() - began, 2))


async def _forget_void_orders(settings: Settings, connectors: Connectors) -> None:
    """Takes away orders for snapshots that nobody will carry out any more.

    The slot brings an order to Debezium, and its position remembers how far the snapshot has come: when either is gone,
    or was never there, so is the snapshot.
    """
    async with source.connected(settings) as connection:
        slot = await source.read_slot(connection, definition().slot)
        if slot is None or not await connectors.offset(definition().name):
            await source.forget_orders(connection)


async def _order_first_snapshot(settings: Settings, tell: Tell) -> tuple[str, ...]:
    """Orders a snapshot of the tables that no order names. Debezium takes none on its own account.

    Its own begins anew when it is cut off, at the log's end instead of the slot's position: what was deleted or moved
    between both attempts would stay in ClickHouse. This one goes on, and the stream has every change since the slot.
    """
    async with source.connected(settings) as connection:
        ordered = await source.ordered_whole(connection)
        wanted = tuple(table for table in captured(()) if table not in ordered)
        if wanted:
            tell(f"ordering the first snapshot of {', '.join(wanted)}")
            await source.signal_snapshot(connection, wanted)
    return wanted


async def _await_running(settings: Settings, connectors: Connectors, tell: Tell) -> None:
    """Until the connector runs and has what an order for a snapshot needs: its slot and a durable position."""
    name = definition().name
    deadline = time.monotonic() + RUNNING_TIMEOUT_S
    while True:
        state = await connectors.state(name)
        tell(f"waiting for {name}: {'not there yet' if state is None else _shown(state)}")
        # A task that was just told to start anew may still show its former end for a moment: ask twice.
        if state and state.failure and time.monotonic() > deadline - RUNNING_TIMEOUT_S + 2 * POLL_S:
            raise Fault(f"{name} has failed: {state.failure}\n`./afluente cdc status` says what to do.")
        if state and state.runs:
            found = await report(settings)
            if found.slot is not None and found.read_lsn is not None:
                return
        if time.monotonic() > deadline:
            raise Fault(f"{name} does not run after {RUNNING_TIMEOUT_S:.0f} s. `./afluente logs connect` tells why.")
        await asyncio.sleep(POLL_S)


def _shown(state: Any) -> str:
    return ", ".join([state.state.lower(), *(f"task {task.number} {task.state.lower()}" for task in state.tasks)])


async def restart(settings: Settings, tell: Tell) -> Report:
    """Starts failed tasks again, and waits until they run or fail once more."""
    async with Connectors(settings.connect_url) as connectors:
        if await connectors.state(definition().name) is None:
            raise Fault("There is no connector yet: run `./afluente cdc apply`.")
        await connectors.restart_failed(definition().name)
        await _await_running(settings, connectors, tell)
    return await report(settings)


def captured(names: Sequence[str]) -> tuple[str, ...]:
    """The tables of a snapshot, by their short or full names; all that hold tenants' rows when none is named."""
    known = [table for table in definition().tables if not table.endswith(source.HEARTBEATS)]
    wanted = [name if "." in name else f"public.{name}" for name in names] or known
    if unknown := sorted(set(wanted) - set(known)):
        raise Fault(f"Not captured: {', '.join(unknown)}. There are {', '.join(known)}.")
    return tuple(dict.fromkeys(wanted))


def condition(tenant: str, where: str) -> str:
    """The rows of a snapshot, as SQL that Debezium runs as the role afluente_cdc, which may only read."""
    parts = []
    if tenant:
        try:
            parts.append(f"tenant_id = '{uuid.UUID(tenant)}'")
        except ValueError:
            raise Fault(f"--tenant {tenant!r} is no tenant's id (a UUID): `./afluente tenant list`.") from None
    if where:
        if len(where) > CONDITION_CHARS_MAX or ";" in where:
            raise Fault(f"--where is one condition of at most {CONDITION_CHARS_MAX} characters, without a semicolon.")
        parts.append(f"({where})")
    return " AND ".join(parts)


async def check_condition(settings: Settings, tables: Sequence[str], where: str) -> None:
    """Lets Postgres plan the operator's condition: Debezium only logs one that is wrong, and sends nothing."""
    async with source.connected(settings) as connection:
        for table in tables:
            try:
                await connection.execute(f"EXPLAIN SELECT 1 FROM {table} WHERE {where}")  # nosec B608 # noqa: S608
            except asyncpg.PostgresError as error:
                raise Fault(f"Postgres refuses the condition for {table}: {error}") from None


async def snapshot(settings: Settings, tables: Sequence[str], where: str, tell: Tell, *, wait: bool) -> Snapshot:
    """Sends these rows once more, in chunks, while the stream goes on."""
    if where:
        await check_condition(settings, tables, where)
    now = await report(settings)
    if now.verdict not in {"running", "behind", "slot in danger"}:
        raise Fault(f"A snapshot needs a running connector, and it is: {now.verdict}. `./afluente cdc status` tells.")
    async with source.connected(settings) as connection:
        number, lsn = await source.signal_snapshot(connection, tables, where)
    began = time.monotonic()
    if wait:
        await await_snapshot(settings, lsn, tell)
    return Snapshot(number, tuple(tables), round(time.monotonic() - began, 2) if wait else None)


async def await_snapshot(settings: Settings, lsn: int, tell: Tell, restarts: int = 0) -> None:
    """Returns when Connect's position is behind the signal and no snapshot is open in it. Raises when it fails."""
    name = definition().name
    async with Connectors(settings.connect_url) as connectors:
        while True:
            offset = await connectors.offset(name)
            reached = int(offset.get("lsn") or 0) >= lsn
            progress = progress_of(offset)
            if reached and progress is None:
                return
            state = await connectors.state(name)
            if state is None or (state.failure and restarts == 0):
                raise Fault(f"The connector failed during the snapshot: {state.failure if state else 'it was deleted'}")
            if state.failure:
                restarts -= 1
                tell("the task has failed: starting it again")
                await connectors.restart_failed(name)
                await _await_running(settings, connectors, tell)
            if reached and progress is not None:
                tell(f"snapshot under way: {progress.text}")
            else:
                tell("waiting for Debezium to read the signal")
            await asyncio.sleep(POLL_S)


async def _forget_lost_slot(settings: Settings, connectors: Connectors, tell: Tell) -> None:
    """Drops the slot while the task still waits for it, and waits until the task has noticed.

    Debezium asks for a lost slot for half an hour and cannot be stopped meanwhile: Connect would leave the task behind,
    and it would take something of its successor along when it ends.
    """
    tell("dropping the lost slot")
    async with source.connected(settings) as connection:
        await source.drop_slot(connection, definition().slot)
    deadline = time.monotonic() + NOTICE_TIMEOUT_S
    while time.monotonic() < deadline:
        state = await connectors.state(definition().name)
        if state is None or state.failure or not state.tasks:
            return
        await asyncio.sleep(POLL_S)


async def mend(settings: Settings, tell: Tell, *, force: bool, wait: bool) -> Snapshot | None:
    """A new slot in the place of a lost one, and every row once more. None when nothing was wrong.

    The signal is in the log behind the new slot before the connector is told to begin there: whatever is killed in
    between, either the connector refuses to run (and this command may be run again) or it finds the signal.
    """
    wanted = definition()
    now = await report(settings)
    if now.verdict == "not applied":
        raise Fault("There is no connector to mend: run `./afluente cdc apply`, whose first snapshot brings every row.")
    if now.verdict not in {"slot lost", "slot missing"} and not force:
        return None
    if not now.connect_answers:
        raise Fault("Kafka Connect does not answer, and it must be told its new position: start it first.")
    tables = captured(())
    async with Connectors(settings.connect_url) as connectors:
        if now.slot is not None and now.slot.is_lost:
            await _forget_lost_slot(settings, connectors, tell)
        tell("stopping the connector")
        await connectors.stop(wanted.name)
        async with source.connected(settings) as connection:
            tell("making a new slot (it waits for open transactions)")
            start = await source.make_slot(connection, wanted.slot, wanted.config["plugin.name"])
            number, lsn = await source.signal_snapshot(connection, tables)
        position = {"lsn": start, "lsn_proc": start, "lsn_commit": start, "ts_usec": int(time.time() * 1e6)}
        await connectors.set_offset(wanted.name, wanted.partition, position)
        await connectors.resume(wanted.name)
        began = time.monotonic()
        await _await_running(settings, connectors, tell)
    if wait:
        await await_snapshot(settings, lsn, tell, restarts=RESTARTS_MAX)
    return Snapshot(number, tables, round(time.monotonic() - began, 2) if wait else None)
