"""The rule: what a row's two sides say about it. Pure; the words are those of reports, metrics and alerts."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from app.reconciling.rows import Key, MirrorRow

MISSING: Final = "missing"  # Postgres has it, ClickHouse does not
EXTRA: Final = "extra"  # ClickHouse has it, Postgres does not
OLD_VERSION: Final = "old_version"  # ClickHouse has an earlier state
CHANGED: Final = "changed"  # the same version, other values
GHOST: Final = "ghost"  # alive in ClickHouse on a day that the row has left
NEWER_VERSION: Final = "newer_version"  # ClickHouse is ahead: Postgres was put back to an earlier state
KINDS: Final = (MISSING, EXTRA, OLD_VERSION, CHANGED, GHOST, NEWER_VERSION)


class Difference(NamedTuple):
    """One row that differs, on one day; `month` is that day's. `fields` are the columns with other values."""

    key: Key
    month: int
    kind: str
    fields: tuple[str, ...] = ()
    postgres: MirrorRow | None = None
    clickhouse: MirrorRow | None = None


def differences(key: Key, there: MirrorRow | None, mirrored: Sequence[MirrorRow]) -> list[Difference]:
    """What differs between the row in Postgres and its rows in ClickHouse, of which each day may have one."""
    if there is None:
        return [Difference(key, row.month, EXTRA, clickhouse=row) for row in mirrored]
    day = there.values["due_date"]
    ghosts = [row for row in mirrored if row.values["due_date"] != day]
    found = [Difference(key, row.month, GHOST, (), there, row) for row in ghosts]
    own = next((row for row in mirrored if row.values["due_date"] == day), None)
    if own is None:
        return [Difference(key, there.month, MISSING, (), there), *found]
    fields = tuple(name for name, value in there.values.items() if own.values[name] != value)
    if not fields:
        return found
    ours, theirs = there.values["version"], own.values["version"]
    kind = CHANGED if ours == theirs else OLD_VERSION if theirs < ours else NEWER_VERSION
    return [Difference(key, there.month, kind, fields, there, own), *found]
