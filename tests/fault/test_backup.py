"""A backup is taken under load, the stores are destroyed, and what comes back agrees with what was promised."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from app.batch import TP
from infra.local.backup_manifest import Manifest
from loadtest.history import History, Outcome
from schemas.topics import BILLS_CHANGES, GATEWAY_RECEIVED, TRACKING_COLLECTED
from tests.fault.case import Case
from tests.support.bills_stack import PARTS, BillsStack
from tests.support.oracle import Oracle
from tests.support.traffic import Channel, Traffic
from tests.support.workers import Fleet

pytestmark = pytest.mark.full  # a stack of its own is destroyed and restored, a minute a case

BEFORE, LATER = 1_500, 600  # events
EVENTS_A_SECOND = 300.0
BILLS, BILLS_LATER = 60, 15
QUIET_S = 60.0


def nobody() -> None:
    """The stack's own supervisor looks after its worker."""


@dataclass(slots=True)
class Site:
    """A stack of these cases alone, what was sent to it around its backup, and where that is."""

    made: BillsStack
    folder: Path
    channel: Channel
    tenant: str
    forgotten: str = ""  # a tenant that came after the backup
    parts: dict[str, Traffic] = field(default_factory=dict)
    backup: Path = Path()
    ends: dict[TP, int] = field(default_factory=dict)  # of the topics, after all of it
    figures: dict[str, Any] = field(default_factory=dict)  # of Postgres, when the backup was taken

    def oracle(self) -> Oracle:
        oracle = Oracle(self.made.settings)
        oracle.forbid_merges()
        return oracle

    def case(self, case: Case) -> Case:
        """The same case on this stack, after it was restored."""
        fleet = Fleet(self.made.stack.environ, self.folder)
        return Case(self.made.stack, fleet, self.oracle(), self.channel, case.results, case.id, case.fault)

    def postgres_figures(self) -> dict[str, Any]:
        return {table: self.made.figures(self.tenant, table)[1] for table in ("bills", "bill_occurrences")}

    def destroy(self, *names: str) -> None:
        """Everything dies, and these folders of the home are gone; the home itself when none is named."""
        self.made.stack.kill_everything()
        self.made.stack.down()
        root = self.made.stack.home.root
        for path in [root / name for name in names] or [root]:
            shutil.rmtree(path)

    def restore(self, backup: Path) -> tuple[dict[str, Any], float]:
        """Put back what is missing, start, and how long that took."""
        began = time.monotonic()
        document = self.made.afluente("backup", "restore", str(backup), "--yes", "--json")
        self.made.stack.up(PARTS)
        self.channel.close()  # its producer knows the Kafka that was
        self.channel = Channel(self.made.settings.kafka_url)
        return document, time.monotonic() - began


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Events and bills, a backup while more come, and more after it."""
    root = Path(tempfile.mkdtemp(prefix="afluente-backup-"))
    root.chmod(0o711)  # Postgres may be another user
    with BillsStack.running(root / "home") as made:
        site = Site(made, root, Channel(made.settings.kafka_url), made.tenant())
        _fill(site)
        yield site
        site.channel.close()
    shutil.rmtree(root, ignore_errors=True)


def _fill(site: Site) -> None:
    made, oracle = site.made, site.oracle()
    made.fill(site.tenant, BILLS)
    made.converge(site.tenant)
    for part in ("before", "during", "after"):
        site.parts[part] = Traffic(site.channel, len(part))
    site.parts["before"].burst(BEFORE)
    oracle.await_quiet(nobody, QUIET_S)
    with site.parts["during"].flowing(EVENTS_A_SECOND):
        site.backup = Path(made.afluente("backup", "create", str(site.folder / "backups"), "--json")["path"])
    site.figures = site.postgres_figures()
    # A future that Postgres will forget: bills that change, come, and go.
    site.parts["after"].burst(LATER)
    site.forgotten = made.tenant()
    made.fill(site.forgotten, BILLS_LATER)
    made.postgres("UPDATE bills SET amount = amount + 1, category = 'lost' WHERE user_id = 'u1'")
    made.postgres("DELETE FROM bill_occurrences WHERE user_id = 'u2'")
    made.converge(site.tenant, site.forgotten)
    oracle.await_quiet(nobody, QUIET_S)
    site.ends = oracle.ends(TRACKING_COLLECTED.name, BILLS_CHANGES.name, GATEWAY_RECEIVED.name)
    oracle.close()


def promised(site: Site, *parts: str) -> History:
    """What was accepted in these parts must be there; what was accepted in the others may be."""
    history = History()
    for name, traffic in site.parts.items():
        for stream in traffic.history.streams:
            ids = traffic.history.promised(stream)
            history.note(Outcome.INVOKED, stream, ids)
            history.note(Outcome.ACCEPTED if name in parts else Outcome.UNKNOWN, stream, ids)
    return history


def agree(site: Site, case: Case, history: History) -> None:
    """The verdict on events; then bills: Postgres as it was at the backup, ClickHouse as Postgres."""
    case.traffic.history = history
    for traffic in site.parts.values():
        case.again |= traffic.poison  # offered again, it goes to the DLQ once more
    case.settle(check=nobody)
    assert site.postgres_figures() == site.figures
    site.made.afluente("reconcile", "bills", "--repair", "--json", status=None)
    assert site.made.afluente("reconcile", "bills", "--json")["equal"] is True
    for table in ("bills", "bill_occurrences"):
        theirs, ours = site.made.figures(site.tenant, table)
        assert theirs == ours
        assert site.made.figures(site.forgotten, table) == ([], [])


def goes_on(site: Site, case: Case) -> None:
    """The restored stack takes and shows what comes now."""
    traffic = Traffic(site.channel, 4)
    traffic.burst(150, poisons=0)
    case.quiet(check=nobody)
    found = case.oracle.judge(traffic.history, set(), case.oracle.dead_ends(), traffic.tenants)
    assert found.right, found
    new = site.made.tenant()
    site.made.fill(new, 5)
    site.made.converge(new)


def test_stores_destroyed_kafka_kept(case: Case, site: Site) -> None:
    """ClickHouse, Postgres and the workers' disks are gone and Kafka is not: every accepted event is a row, once."""
    site.destroy("clickhouse", "postgres", "worker")
    began = time.monotonic()
    document, seconds = site.restore(site.backup)
    own = site.case(case)
    own.lifted_at = began
    own.fired = f"restored and up in {seconds:.0f} s, {document['group']['records']} records from Kafka once more"
    agree(site, own, promised(site, "before", "during", "after"))
    goes_on(site, own)


def test_mutant_offsets_read_after_the_stores(case: Case, site: Site) -> None:
    """A backup that reads the group's offsets last calls done what its ClickHouse lacks: the checker misses rows."""
    site.destroy("clickhouse", "worker")
    planted = site.folder / "planted"
    shutil.copytree(site.backup, planted)
    manifest = Manifest.read(planted)
    manifest.positions = [replace(one, committed=site.ends[TP(one.topic, one.partition)]) for one in manifest.positions]
    manifest.write(planted)
    site.restore(planted)
    own = site.case(case)
    own.traffic.history = promised(site, "before", "during", "after")
    own.fired = "offsets of after the backup"
    found = own.finding("offsets_read_after_the_stores", "backup/stores_destroyed_kafka_kept", check=nobody)
    assert found.missing > 0
    assert not found.duplicates


def test_everything_destroyed(case: Case, site: Site) -> None:
    """The whole home is gone: what was a row when the backup began is there, once, and of the rest nothing twice."""
    site.destroy()
    began = time.monotonic()
    document, seconds = site.restore(site.backup)
    assert document["group"] is None
    own = site.case(case)
    own.lifted_at = began
    own.fired = f"restored and up in {seconds:.0f} s, Kafka empty"
    agree(site, own, promised(site, "before"))
    goes_on(site, own)
