"""The types that the columns of CSV files have by the look of all their cells, for whoever asks to have a schema made of them.

Write path: **read** → encode → partition → sort → seal. A type is given where the push, told to read it, reads every cell. Numbers
with a point are doubles, and `-0`; whole numbers that are written otherwise than a long is (`007`), or larger, are text.
"""

from __future__ import annotations

import sys
from typing import Final, NamedTuple

import duckdb
import pyarrow as pa

from venice.push.columns import quote, quote_text
from venice.push.sources import Source, read_error

_NAME: Final = quote("venice push name")
_CELL: Final = quote("venice push cell")
_DATE: Final = r"\d{4}-\d\d-\d\d"
_MOMENT: Final = _DATE + r"[ T]\d\d:\d\d:\d\d(\.\d{1,6})?"
_FIRST: Final = "0001-01-01 00:00:00+00"
_LAST: Final = "9999-12-31 23:59:59.999999+00"


class _Look(NamedTuple):
    """How all cells of a type look, the type DuckDB reads them as, and what they lie between: DuckDB reads more than a push takes."""

    pattern: str
    reads: str
    least: str
    most: str
    type: pa.DataType


_LOOKS: Final = (
    _Look("true|false", "BOOLEAN", "false", "true", pa.bool_()),
    _Look(r"0|-?[1-9]\d*", "BIGINT", str(-1 << 63), str((1 << 63) - 1), pa.int64()),
    _Look(r"-?(0|[1-9]\d{0,14})(\.\d+)?([eE][+-]?\d+)?", "DOUBLE", str(-sys.float_info.max), str(sys.float_info.max), pa.float64()),
    _Look(_DATE, "DATE", _FIRST[:10], _LAST[:10], pa.date32()),
    _Look(_MOMENT, "TIMESTAMP", _FIRST[:-3], _LAST[:-3], pa.timestamp("us")),
    _Look(_MOMENT + r" ?(Z|[+-]\d\d(:?\d\d)?)", "TIMESTAMPTZ", _FIRST, _LAST, pa.timestamp("us", "UTC")),
    _Look(r"\d\d:\d\d:\d\d(\.\d{1,6})?", "TIME", _FIRST[11:-3], _LAST[11:-3], pa.time64("us")),
)


def csv_types(connection: duckdb.DuckDBPyConnection, source: Source) -> pa.Schema:
    """Reads all cells; a column without any is text. Raises InvalidRequest."""
    names = dict.fromkeys(name for columns in source.describe(connection).values() for name in columns)
    # An expression of its own for each look of each column would take some megabytes for each column.
    cells = f"UNPIVOT (SELECT * FROM {source.relation({})} AS source) ON COLUMNS(*) INTO NAME {_NAME} VALUE {_CELL}"
    looks = ", ".join(f"bool_and({_fits(look)})" for look in _LOOKS)
    try:
        found = connection.execute(f"SELECT {_NAME}, {looks} FROM ({cells}) GROUP BY ALL").fetchall()
    except duckdb.Error as error:
        raise read_error(error, str(source), source.hide) from error
    types = {name: next((look.type for look, fit in zip(_LOOKS, fits, strict=True) if fit), pa.string()) for name, *fits in found}
    return pa.schema([pa.field(name, types.get(name, pa.string())) for name in names])


def _fits(look: _Look) -> str:
    least, most = (f"CAST({quote_text(bound)} AS {look.reads})" for bound in (look.least, look.most))
    in_bounds = f"coalesce(TRY_CAST({_CELL} AS {look.reads}) BETWEEN {least} AND {most}, false)"
    return f"regexp_full_match({_CELL}, {quote_text(look.pattern)}) AND {in_bounds}"
