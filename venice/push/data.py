"""Data of the calling program as a source: Arrow tables and datasets, data frames.

Write path: **read** → encode → partition → sort → seal.
"""

from __future__ import annotations

from typing import Final

import duckdb
import pyarrow as pa

from venice.errors import InvalidRequest
from venice.push.columns import quote
from venice.push.sources import Format, Source

_TABLE: Final = "venice push data"

DATA: Final = Source(format=Format.SQL, query=f"FROM {quote(_TABLE)}", query_name="the data")
"""The rows that were registered with the connection."""


def register(connection: duckdb.DuckDBPyConnection, data: object) -> None:
    """Make `DATA` stand for an Arrow table or dataset, or a data frame of pandas or polars. Raises InvalidRequest."""
    if isinstance(data, pa.RecordBatchReader):
        raise InvalidRequest("a reader of record batches can be read once only", hint="push its table: reader.read_all()")
    try:
        connection.register(_TABLE, data)
    except (duckdb.Error, TypeError) as error:
        hint = "give an Arrow table or dataset, or a data frame of pandas or polars"
        raise InvalidRequest(f"DuckDB cannot read a {type(data).__name__}", hint=hint) from error
