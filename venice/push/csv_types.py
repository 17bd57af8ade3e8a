"""The types that the columns of CSV files have by the look of all their cells, for whoever asks to have a schema made of them.

Write path: **read** → encode → partition → sort → seal. A type is given where the push, told to read it, reads every cell. Numbers
with a point are doubles; whole numbers that are written otherwise than a long is (`007`), or larger, are text.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import duckdb
import pyarrow as pa

from venice.push.columns import quote, quote_text
from venice.push.sources import Source, read_error

_DATE: Final = r"\d{4}-\d\d-\d\d"
_MOMENT: Final = _DATE + r"[ T]\d\d:\d\d:\d\d(\.\d{1,6})?"


class _Look(NamedTuple):
    """How all cells of a type look, and the type DuckDB reads them as."""

    pattern: str
    reads: str
    type: pa.DataType


_LOOKS: Final = (
    _Look("true|false", "BOOLEAN", pa.bool_()),
    _Look(r"-?(0|[1-9]\d*)", "BIGINT", pa.int64()),
    _Look(r"-?(0|[1-9]\d{0,14})(\.\d+)?([eE][+-]?\d+)?", "DOUBLE", pa.float64()),
    _Look(_DATE, "DATE", pa.date32()),
    _Look(_MOMENT, "TIMESTAMP", pa.timestamp("us")),
    _Look(_MOMENT + r" ?(Z|[+-]\d\d(:?\d\d)?)", "TIMESTAMPTZ", pa.timestamp("us", "UTC")),
    _Look(r"\d\d:\d\d:\d\d(\.\d{1,6})?", "TIME", pa.time64("us")),
)


def csv_types(connection: duckdb.DuckDBPyConnection, source: Source) -> pa.Schema:
    """Reads all cells; a column without any is text. Raises InvalidRequest."""
    names = list(dict.fromkeys(name for columns in source.describe(connection).values() for name in columns))
    looks = (
        f"bool_and(regexp_full_match({cell}, {quote_text(look.pattern)}) AND TRY_CAST({cell} AS {look.reads}) IS NOT NULL) "
        f"FILTER ({cell} IS NOT NULL)"
        for cell in map(quote, names)
        for look in _LOOKS
    )
    try:
        found = connection.execute(f"SELECT {', '.join(looks)} FROM {source.relation({})} AS source").fetchone()
    except duckdb.Error as error:
        raise read_error(error, str(source), source.hide) from error
    assert found is not None, "an aggregate has a row"
    fields = []
    for number, name in enumerate(names):
        fits = found[number * len(_LOOKS) : (number + 1) * len(_LOOKS)]
        types = (look.type for look, fit in zip(_LOOKS, fits, strict=True) if fit)
        fields.append(pa.field(name, next(types, pa.string())))
    return pa.schema(fields)
