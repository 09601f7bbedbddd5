"""Where a statement ends and its rows begin: what the ClickHouse stand-in must read of SQL before the engine sees it.

The engine parses everything else. Three questions only, over tokens so that strings, comments and quoted names never
mislead: does this INSERT carry its rows behind it (and where), what is the output format, and where does an
`INTO OUTFILE` clause go that sends the answer into our pipe.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

TOKEN = re.compile(
    rb"""(?P<blank>\s+|--[^\n]*|\#[!\ ][^\n]*|/\*.*?\*/)
    |(?P<quoted>'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|"(?:[^"\\]|\\.)*"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    |(?P<word>\w+)
    |(?P<mark>.)""",
    re.DOTALL | re.VERBOSE,
)
AFTER_FORMAT = re.compile(rb"[ \t\f]*;?[ \t\f]*\r?\n?")  # the engine's own rule: rows start after at most one newline
NAMES_FOLLOW = frozenset({b"INTO", b"TABLE", b"FROM", b"JOIN", b"AS", b".", b","})  # a keyword here is an identifier
OPENING = frozenset({b"'", b'"', b"`", b"$"})  # alone they are the start of something whose end has not arrived
OUTPUT_STATEMENTS = frozenset({b"SELECT", b"WITH", b"FROM", b"(", b"SHOW", b"DESCRIBE", b"DESC", b"EXPLAIN", b"EXISTS"})


@dataclass(frozen=True, slots=True)
class Token:
    """A significant token: its text (words in upper case), where it stands, and how many parentheses enclose it."""

    text: bytes
    start: int
    end: int
    depth: int
    is_word: bool


def tokens(sql: bytes) -> Iterator[Token]:
    """The significant tokens, read as needed: the rows behind an INSERT are never scanned."""
    depth = 0
    for match in TOKEN.finditer(sql):
        kind = match.lastgroup
        if kind == "blank":
            continue
        text = match.group()
        if text in {b")", b"]", b"}"}:
            depth -= 1
        yield Token(text.upper() if kind == "word" else text, match.start(), match.end(), depth, kind == "word")
        if text in {b"(", b"[", b"{"}:
            depth += 1


@dataclass(frozen=True, slots=True)
class InsertHead:
    """An INSERT whose rows follow: the statement without FORMAT, the format's name, and where the rows begin."""

    statement: bytes
    format: str
    rows_at: int


class StatementRefused(ValueError):  # noqa: N818 - named as the client sees it
    """A statement the stand-in refuses before the engine sees it, with ClickHouse's own error code."""

    def __init__(self, code: int, name: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.name = name


def quoted(text: str) -> str:
    """A string literal of ClickHouse SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def is_insert(sql: bytes) -> bool:
    """True when the statement is an INSERT of any kind."""
    first = next(tokens(sql), None)
    return first is not None and first.text == b"INSERT"


def insert_head(sql: bytes, *, complete: bool) -> InsertHead | None:
    """The head of an INSERT with rows. None for an INSERT ... SELECT, or when more of `sql` has to arrive first.

    `complete` says that nothing follows: then an INSERT without FORMAT is one of VALUES.
    """
    previous = b""
    expects_format_name = None
    for token in tokens(sql):
        if not complete and (token.end == len(sql) or token.text in OPENING or previous + token.text == b"/*"):
            return None  # a word, a string or a comment that goes on in the next chunk
        if expects_format_name is not None:
            rows = AFTER_FORMAT.match(sql, token.end)
            assert rows is not None
            if rows.end() == len(sql) and not complete:
                return None  # the newline before the rows may be in the next chunk
            name = sql[token.start : token.end].decode()
            return InsertHead(sql[: expects_format_name.start], name, rows.end())
        is_keyword = token.is_word and previous not in NAMES_FOLLOW
        if is_keyword and token.depth == 0 and token.text == b"VALUES":
            return InsertHead(sql[: token.start], "Values", token.end)
        if is_keyword and token.depth == 0 and token.text == b"FORMAT":
            expects_format_name = token
        elif is_keyword and token.text in {b"SELECT", b"WITH"} and (token.depth == 0 or previous == b"("):
            return None
        elif token.text == b"INFILE" and previous == b"FROM":
            raise StatementRefused(78, "UNKNOWN_TYPE_OF_QUERY", "Query has infile and was send directly to server")
        previous = token.text
    return InsertHead(sql.rstrip().rstrip(b";"), "Values", len(sql)) if complete and not expects_format_name else None


def refuse_unserved_insert(sql: bytes) -> None:
    """INSERT ... SELECT FROM input(...): the engine in-process drops its rows without a word, so it is refused."""
    previous = b""
    for token in tokens(sql):
        if token.text == b"(" and previous == b"INPUT":
            raise StatementRefused(
                48, "NOT_IMPLEMENTED", "INSERT ... SELECT FROM input() is not supported by this server"
            )
        previous = token.text


@dataclass(frozen=True, slots=True)
class OutputClause:
    """Where the output clause of a query goes: `head` + INTO OUTFILE + FORMAT `format` + `tail`."""

    head: bytes
    format: str
    tail: bytes

    def into(self, path: str) -> bytes:
        """The query with its answer going to `path`, byte for byte as it would go over the wire."""
        clause = f" INTO OUTFILE '{path}' TRUNCATE COMPRESSION 'none' FORMAT {self.format} "
        return self.head + clause.encode() + self.tail


def output_clause(sql: bytes, default_format: str) -> OutputClause | None:
    """Split a reading statement at its output clause; None for a statement that has no rows to give."""
    significant = list(tokens(sql))
    while significant and significant[-1].text == b";":
        significant.pop()
    if not significant or significant[0].text not in OUTPUT_STATEMENTS:
        return None
    if any(one.text == b"INTO" and next_.text == b"OUTFILE" for one, next_ in itertools.pairwise(significant)):
        raise StatementRefused(358, "INTO_OUTFILE_NOT_ALLOWED", "INTO OUTFILE is not allowed")
    end = significant[-1].end
    for index in range(len(significant) - 2, 0, -1):
        token, name, before = significant[index], significant[index + 1], significant[index - 1]
        if token.depth or not token.is_word:
            continue
        if token.text != b"FORMAT" or not name.is_word or before.text in NAMES_FOLLOW:
            continue
        if index + 2 == len(significant) or significant[index + 2].text == b"SETTINGS":
            format_name = sql[name.start : name.end].decode()
            return OutputClause(sql[: token.start], format_name, sql[name.end : end])
    return OutputClause(sql[:end], default_format, b"")
