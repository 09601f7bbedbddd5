"""The ClickHouse engine inside the stand-in: chdb's connections, settings, inserts in streams, bounded memory.

chdb has one engine a process and any number of connections to it; a connection is a session (its own SET and USE),
opens in 0.1 ms, releases the interpreter lock while it works, and may be used from one thread after another. So each
request gets a fresh connection and settings never leak from one request into the next.
"""

import contextlib
import fcntl
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape  # nosec B406 # it parses nothing

from chdb import _chdb as chdb_native

from infra.local.clickhouse_recovery import forget_lost_parts
from infra.local.clickhouse_sql import quoted
from infra.local.home import exports

connect: Any = getattr(chdb_native, "connect")  # noqa: B009 - absent from chdb's type stubs

MIB = 1 << 20
SERVER_MEMORY_BYTES = 600 * MIB  # the engine's share of an embedded stack that idles under 1.5 GB
QUERY_MEMORY_BYTES = 400 * MIB  # one query cannot take it all: inserts go on beside it
CACHE_BYTES = 16 * MIB  # of each cache: the defaults are 5 GB, sized for servers with hundreds of GB
BACKGROUND_THREADS = 2  # merges and mutations: two cores
THREADS_MAX = 200  # of the global pool; the default of 10,000 is for a large server

# Server settings of a small machine. Parts are fsynced before an insert is acknowledged: the offset of its records is
# committed right after, so the rows must outlive a power cut, not only a kill -9.
SERVER_SETTINGS: dict[str, int] = {
    "max_server_memory_usage": SERVER_MEMORY_BYTES,
    "mark_cache_size": CACHE_BYTES,
    "primary_index_cache_size": CACHE_BYTES,
    "index_mark_cache_size": CACHE_BYTES,
    "query_condition_cache_size": CACHE_BYTES,
    "compiled_expression_cache_size": CACHE_BYTES,
    "vector_similarity_index_cache_size": CACHE_BYTES,
    "text_index_tokens_cache_size": CACHE_BYTES,
    "text_index_header_cache_size": CACHE_BYTES,
    "text_index_postings_cache_size": CACHE_BYTES,
    "parquet_metadata_cache_size": CACHE_BYTES,
    "background_pool_size": BACKGROUND_THREADS,
    "background_schedule_pool_size": BACKGROUND_THREADS,
    "max_thread_pool_size": THREADS_MAX,
}
MERGE_TREE_SETTINGS: dict[str, int] = {"fsync_after_insert": 1, "fsync_part_directory": 1}
INSERT_BLOCK_ROWS = "16384"  # read at a time, where nothing is said; then gathered up to INSERT_GATHER_BYTES
INSERT_GATHER_BYTES = 32 * MIB  # rows of 1 KB in blocks of this size were seen to take 330 MiB: copies, and doubling
INSERT_CUT_BYTES = 128 * MIB  # four batches of the worker, which gathers by its own settings: never cuts one of them
SESSION_DEFAULTS: dict[str, int] = {
    "max_memory_usage": QUERY_MEMORY_BYTES,
    "min_insert_block_size_bytes": INSERT_GATHER_BYTES,
    "max_insert_block_size_bytes": INSERT_CUT_BYTES,
    "input_format_parallel_parsing": 0,  # 100 MiB more at the peak, and the cores are Kafka's and the worker's too
    # chdb says nothing of an insert that it refuses at its end for having more than 100 months in it.
    "max_partitions_per_insert_block": 0,
    "async_insert": 0,  # an acknowledged insert is a part on disk, never a buffer
}
# Codes of ClickHouse's ErrorCodes.cpp that an insert can end with after its rows were taken: the file system, memory.
WRITE_FAULTS = (74, 75, 76, 77, 173, 241, 242, 243, 252)
_WRITE_FAULTS = ", ".join(map(str, WRITE_FAULTS))
UNKNOWN_EXCEPTION = 1002  # ClickHouse's code for what has none
ERROR_CODE = re.compile(r"Code: (\d+)")
ERROR_NAME = re.compile(r"\(([A-Z][A-Z0-9_]+)\)(?: \(version [^)]*\))?\s*$")
PATH_ALLOWED = re.compile(r"[^?&%#'\\\n]+")  # the engine takes its folder inside a URL-like string

ENGINE_ERRORS = (RuntimeError, UnicodeDecodeError)


class QueryFailed(Exception):  # noqa: N818 - named as the client sees it
    """The engine said no: its code and its text, as a ClickHouse server would send them."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        found = ERROR_CODE.search(text)
        self.code = int(found.group(1)) if found else UNKNOWN_EXCEPTION
        name = ERROR_NAME.search(text)
        self.name = name.group(1) if name else "UNKNOWN_EXCEPTION"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one statement gave: its output (empty when it went into a pipe) and the figures of the summary header."""

    body: bytes = b""
    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    elapsed_ns: int = 0


def _config_xml(exported: Path) -> str:
    def lines(settings: Mapping[str, int]) -> str:
        return "".join(f"<{escape(name)}>{value}</{escape(name)}>" for name, value in settings.items())

    merge_tree = f"<merge_tree>{lines(MERGE_TREE_SETTINGS)}</merge_tree>"
    backups = f"<backups><allowed_path>{escape(str(exported))}/</allowed_path></backups>"
    return f"<clickhouse>{lines(SERVER_SETTINGS)}{merge_tree}{backups}</clickhouse>\n"


class Engine:
    """The one engine of this process, open on its data folder for as long as this object is."""

    def __init__(self, folder: Path) -> None:
        folder = folder.resolve()
        if not PATH_ALLOWED.fullmatch(str(folder)):
            raise ValueError(f"data folder {folder}: the characters ? & % # ' \\ are not allowed in AFLUENTE_HOME")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = (folder / "afluente.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it when we are killed
        except OSError as error:
            raise ValueError(f"{folder} is in use by another process") from error
        forget_lost_parts(folder)
        shutil.rmtree(exports(folder), ignore_errors=True)  # what a backup that was killed has left
        config = folder / "afluente-config.xml"
        config.write_text(_config_xml(exports(folder)))
        options = "&".join(f"{name}={value}" for name, value in SESSION_DEFAULTS.items())
        self._url = f"{folder}?config-file={config}&{options}"
        try:
            self._anchor = connect(self._url)  # the engine lives as long as one connection is open
        except ENGINE_ERRORS as error:
            raise ValueError(f"the ClickHouse engine cannot open {folder}: {error}") from error
        self._counters = connect(self._url)
        self._asking = threading.Lock()  # a connection is for one thread at a time
        row = self.execute(b"SELECT version(), timezone()", {}, "").body.decode().rstrip("\n")
        self.version, self.timezone = row.split("\t")

    def session(self, settings: Mapping[str, str], database: str) -> Any:
        """A fresh connection with the request's settings; raises QueryFailed when one of them is refused."""
        connection = connect(self._url)
        try:
            if settings:
                assignments = ", ".join(f"{_name(name)} = {quoted(value)}" for name, value in settings.items())
                connection.query(f"SET {assignments}", "Null")
            if database:
                escaped = database.replace("\\", "\\\\").replace("`", "\\`")
                connection.query(f"USE `{escaped}`", "Null")
        except ENGINE_ERRORS as error:
            connection.close()
            raise self.failure(error) from None
        return connection

    def execute(self, sql: bytes, settings: Mapping[str, str], database: str, output_format: str = "TSV") -> Answer:
        """Run one statement to its end and give its whole output."""
        started = time.monotonic_ns()
        connection = self.session(settings, database)
        try:
            result = connection.query(sql, output_format)
            return Answer(
                body=result.bytes(),
                read_rows=result.storage_rows_read(),
                read_bytes=result.bytes_read(),
                written_rows=result.rows_written(),
                written_bytes=result.bytes_written(),
                result_rows=result.rows_read(),
                elapsed_ns=time.monotonic_ns() - started,
            )
        except ENGINE_ERRORS as error:
            raise self.failure(error) from None
        finally:
            connection.close()

    def write_faults(self) -> int:
        """How often the engine failed to write since it was opened."""
        # Asked twice an insert: on a connection that stays, and added up here, it takes half the time.
        sql = f"SELECT value FROM system.errors WHERE code IN ({_WRITE_FAULTS})"  # nosec B608 # noqa: S608
        with self._asking:
            try:
                found = self._counters.query(sql, "TSV").bytes()
            except ENGINE_ERRORS as error:
                raise self.failure(error) from None
        return sum(map(int, found.split()))

    def last_write_fault(self) -> str:
        """The last such error as the engine would tell it."""
        sql = (
            "SELECT argMax(concat('Code: ', toString(code), '. DB::Exception: ',"  # noqa: S608 - constants
            " replaceRegexpAll(last_error_message, '\\s+', ' '), ' (', name, ')'), last_error_time)"
            f" FROM system.errors WHERE code IN ({_WRITE_FAULTS})"  # nosec B608
        )
        return self.execute(sql.encode(), {}, "default").body.decode("utf-8", "replace").rstrip("\n")

    def statement_count(self, sql: bytes) -> int:
        """How many statements the engine's parser sees; 0 when it cannot parse the text."""
        try:
            return int(self._anchor.classify_query(sql)["statement_count"])
        except (RuntimeError, UnicodeDecodeError):
            return 0

    def kill(self, mark: str) -> None:
        """Stop the queries that carry `mark` as their log_comment; done when the request is made."""
        sql = f"KILL QUERY WHERE Settings['log_comment'] = {quoted(mark)} ASYNC"
        with contextlib.suppress(QueryFailed):
            self.execute(sql.encode(), {}, "")

    def kill_all(self) -> None:
        """Stop every query, for a shutdown that has waited long enough."""
        with contextlib.suppress(QueryFailed):
            self.execute(b"KILL QUERY WHERE 1 ASYNC", {}, "")

    def release_memory(self) -> None:
        """Give freed pages back to the system: the allocator keeps them otherwise, hundreds of MB after a burst."""
        with contextlib.suppress(QueryFailed):
            self.execute(b"SYSTEM JEMALLOC PURGE", {}, "")

    def failure(self, error: RuntimeError | UnicodeDecodeError) -> QueryFailed:
        """The engine's error as a server words it: with the version at the end."""
        # The engine quotes bytes of the rows it refuses; when they are no UTF-8, chdb fails on its own error text.
        raw = error.object.decode("utf-8", "replace") if isinstance(error, UnicodeDecodeError) else str(error)
        text = raw.rstrip()
        return QueryFailed(text if "(version " in text else f"{text} (version {self.version})")

    def close(self) -> None:
        """Flush and let go of the data folder."""
        self._counters.close()
        self._anchor.close()
        self._lock.close()


class Insert:
    """One INSERT whose rows arrive in pieces, and are given to the engine when they are all here.

    chdb has inserts in streams of its own, but they hide what happens at their end: with too little memory for the last
    block, the only one of a batch, they answer that all rows are written and none is. As a file that a statement reads,
    the same rows are inserted or refused with the engine's own error.
    """

    def __init__(
        self, engine: Engine, statement: bytes, rows_format: str, settings: Mapping[str, str], database: str
    ) -> None:
        self._engine = engine
        self._statement = statement
        self._format = rows_format
        # What bounds an insert's blocks on a server bounds a file's through the setting for reads.
        blocks = {"max_block_size": settings.get("max_insert_block_size", INSERT_BLOCK_ROWS)}
        self._settings = {**settings, **blocks}
        self._database = database
        self._rows = tempfile.TemporaryFile(dir=engine.folder)  # noqa: SIM115 - lives as long as the insert
        self._faults = engine.write_faults()

    def append(self, rows: bytes) -> None:
        """Keep a piece, cut anywhere, on disk: an insert may be larger than memory."""
        self._rows.write(rows)

    def finish(self) -> Answer:
        """Commit. When this returns, the rows are parts on disk."""
        self._rows.flush()
        self._rows.seek(0)
        source = f" FROM INFILE '/proc/self/fd/{self._rows.fileno()}' FORMAT {self._format}".encode()
        try:
            answer = self._engine.execute(self._statement + source, self._settings, self._database)
        finally:
            self._rows.close()
        # The library says yes to an insert whose part could not be written (seen with a full disk): its rows are gone.
        # Another insert's fault at the same time is taken for ours: a retry too many, never a row too few.
        if self._engine.write_faults() > self._faults:
            raise QueryFailed(self._engine.last_write_fault())
        return replace(answer, read_rows=answer.written_rows, read_bytes=answer.written_bytes)

    def cancel(self) -> None:
        """Give up: nothing of it is inserted."""
        self._rows.close()


def _name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
        raise QueryFailed(f"Code: 115. DB::Exception: Unknown setting {quoted(name)}. (UNKNOWN_SETTING)")
    return name
