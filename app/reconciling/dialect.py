"""One row, written alike by Postgres and ClickHouse: so its fingerprint can be made on either side and compared.

Free text carries its length in bytes, so that no two rows are written alike. A fingerprint is the first 60 bits of the
text's MD5, which both databases have; fingerprints are summed modulo 2^64, so their order does not matter and a row
that is there twice does not cancel itself.
"""

from collections.abc import Callable
from typing import Final

from schemas.mirrors import Column, Kind, Mirror

SUM_MODULUS: Final = 1 << 64
SEPARATOR: Final = 31  # a control character; lengths make the text unambiguous, this makes it readable

_POSTGRES: Final[dict[Kind, str]] = {
    Kind.UUID: "{0}::text",
    Kind.TEXT: "{0}",
    Kind.NUMBER: "{0}::bigint",
    Kind.MONEY: "({0} * 100)::bigint",
    Kind.DAY: "{0} - date '1970-01-01'",
    Kind.MOMENT: "(extract(epoch FROM {0}) * 1000000)::bigint",
}
_CLICKHOUSE: Final[dict[Kind, str]] = {
    Kind.UUID: "toString({0})",
    Kind.TEXT: "toString({0})",
    Kind.NUMBER: "toInt64({0})",
    Kind.MONEY: "toInt64({0} * 100)",
    Kind.DAY: "toInt32({0} - toDate('1970-01-01'))",
    Kind.MOMENT: "toUnixTimestamp64Micro({0})",
}
POSTGRES_MONTH: Final = "(extract(year FROM due_date) * 100 + extract(month FROM due_date))::int"
CLICKHOUSE_MONTH: Final = "toYYYYMM(due_date)"


def postgres_values(mirror: Mirror) -> str:
    """The columns of a row as texts and whole numbers."""
    return ", ".join(_POSTGRES[column.kind].format(column.name) for column in mirror.columns)


def clickhouse_values(mirror: Mirror) -> str:
    """The same, in ClickHouse; each under a name of its own, since an alias would hide the column."""
    return ", ".join(_CLICKHOUSE[one.kind].format(one.name) + f" AS out_{one.name}" for one in mirror.columns)


def postgres_fingerprint(mirror: Mirror) -> str:
    """The fingerprint of a row in Postgres, a bigint."""

    def written(column: Column) -> str:
        value = _POSTGRES[column.kind].format(column.name)
        if column.kind is Kind.TEXT:
            return f"octet_length({column.name}) || ':' || {column.name}"
        return f"coalesce(({value})::text, '')"

    return f"('x' || left(md5({_joined(mirror, written, 'chr')}), 15))::bit(60)::bigint"


def clickhouse_fingerprint(mirror: Mirror) -> str:
    """The fingerprint of a row in ClickHouse, a UInt64."""

    def written(column: Column) -> str:
        value = _CLICKHOUSE[column.kind].format(column.name)
        if column.kind is Kind.TEXT:
            return f"length({column.name}) || ':' || {column.name}"
        return f"ifNull(toString({value}), '')"

    text = _joined(mirror, written, "char")
    return f"bitShiftRight(reinterpretAsUInt64(reverse(substring(MD5({text}), 1, 8))), 4)"


def _joined(mirror: Mirror, written: Callable[[Column], str], character: str) -> str:
    return f" || {character}({SEPARATOR}) || ".join(written(column) for column in mirror.columns)


def postgres_bucket(digits: int) -> str:
    """The last hexadecimal digits of the id: they are random in every version of UUID that anybody makes ids of."""
    return f"right(id::text, {digits})"


def clickhouse_bucket(digits: int) -> str:
    """The same, in ClickHouse."""
    return f"substring(toString(id), {37 - digits}, {digits})"
