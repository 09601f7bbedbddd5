"""Before the engine opens: deduplication tokens whose rows a kill -9 took are forgotten, so that a retry inserts them.

A MergeTree table without replication writes the token of an insert into its deduplication log a moment before the part
is renamed into place. Killed in between, the engine comes back knowing the token and lacking the rows, and drops the
retry without a word: seen in 2 of 12 kills aimed at that moment. Nobody was told yes for such an insert, so its token
has no right to exist. The engine reads the log when it opens a table; here, before that, a log entry whose part is
not on disk gets the DROP entry that the engine itself would write for a dropped part.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LOGS_FOLDER = "deduplication_logs"
LOG_NUMBER = re.compile(r"deduplication_log_(\d+)\.txt")
PART_NAME = re.compile(r"(?P<partition>[^_]+)_(?P<first>\d+)_(?P<last>\d+)_\d+(?:_\d+)?")
ADD, DROP = b"1", b"2"
BLOCKS_IN_DOUBT = 1_000  # only the newest inserts can have been under way; an older part may be gone by TTL
log = logging.getLogger("afluente.clickhouse")


@dataclass(frozen=True, slots=True)
class Blocks:
    """The insert blocks a part holds: after merges, a range."""

    partition: str
    first: int
    last: int

    def holds(self, other: "Blocks") -> bool:
        """True when the other's rows are in this part."""
        return self.partition == other.partition and self.first <= other.first and other.last <= self.last


def blocks_of(part_name: str) -> Blocks | None:
    """Read a part's name; None for a folder that is not a part."""
    found = PART_NAME.fullmatch(part_name)
    return Blocks(found["partition"], int(found["first"]), int(found["last"])) if found else None


def forget_lost_parts(engine_folder: Path) -> int:
    """Repair the deduplication log of every table; how many tokens were forgotten. The engine must not be running."""
    forgotten = 0
    for logs in sorted(engine_folder.glob(f"store/*/*/{LOGS_FOLDER}")):
        forgotten += _repair(logs)
    return forgotten


def _repair(logs: Path) -> int:
    numbered = sorted((int(found[1]), path) for path in logs.iterdir() if (found := LOG_NUMBER.fullmatch(path.name)))
    if not numbered:
        return 0
    newest = numbered[-1][1]
    _cut_torn_line(newest)
    tokens: dict[bytes, bytes] = {}
    for _, path in numbered:
        for operation, part, token in _entries(path):
            if operation == ADD:
                tokens[token] = part
            else:
                tokens.pop(token, None)
    present = [blocks for folder in logs.parent.iterdir() if folder.is_dir() and (blocks := blocks_of(folder.name))]
    newest_block = max((blocks.last for blocks in present), default=0)
    lost: list[bytes] = []
    for token, part in tokens.items():
        wanted = blocks_of(part.decode())
        if wanted is None or wanted.last <= newest_block - BLOCKS_IN_DOUBT:
            continue
        if not any(blocks.holds(wanted) for blocks in present):
            lost.append(b"%b\t%b\t%b\n" % (DROP, part, token))
            log.warning("clickhouse: %s: insert %s was killed before its rows were kept", logs.parent, part.decode())
    if lost:
        with newest.open("ab") as stream:
            stream.write(b"".join(lost))
    return len(lost)


def _entries(path: Path) -> Iterator[tuple[bytes, bytes, bytes]]:
    for line in path.read_bytes().splitlines():
        fields = line.split(b"\t")
        if len(fields) == 3:
            yield fields[0], fields[1], fields[2]


def _cut_torn_line(path: Path) -> None:
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        with path.open("r+b") as stream:
            stream.truncate(whole)
