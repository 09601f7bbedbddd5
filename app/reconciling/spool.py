"""Keys on disk: a comparison may find millions of rows that differ, and memory must not hold them."""

import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Final, NamedTuple, Self

from app.reconciling.rows import Key

NO_STAMP: Final = -1  # ClickHouse has no row of that id, not even a tombstone


class Candidate(NamedTuple):
    """A row that differed, in that month, when it was last looked at; and the stamp that ClickHouse had of it then."""

    key: Key
    month: int
    stamp: int


class Spool:
    """Candidates in the order in which they came; read back in chunks of one table and tenant."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="ascii")  # noqa: SIM115 - closed by __exit__
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, candidate: Candidate) -> None:
        self._file.write("\t".join((*candidate.key, str(candidate.month), str(candidate.stamp))) + "\n")
        self.count += 1

    def chunks(self, most: int) -> Iterator[list[Candidate]]:
        """At most so many at a time, never two tables or tenants in one."""
        self._file.seek(0)
        chunk: list[Candidate] = []
        for line in self._file:
            table, tenant_id, row_id, month, stamp = line.rstrip("\n").split("\t")
            candidate = Candidate(Key(table, tenant_id, row_id), int(month), int(stamp))
            if chunk and (len(chunk) == most or chunk[0].key[:2] != candidate.key[:2]):
                yield chunk
                chunk = []
            chunk.append(candidate)
        if chunk:
            yield chunk
