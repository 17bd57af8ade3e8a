"""Data of the calling program as a source: Arrow tables and datasets, data frames.

Write path: **read** → encode → partition → sort → seal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import duckdb
import pyarrow as pa

from venice.errors import InvalidRequest
from venice.push.columns import quote
from venice.push.sources import Format, Source

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_TABLE: Final = "venice push data"

DATA: Final = Source(format=Format.SQL, query=f"FROM {quote(_TABLE)}", query_name="the data")
"""The rows that were registered with the connection."""


def register(connection: duckdb.DuckDBPyConnection, data: object) -> None:
    """Make `DATA` stand for an Arrow table or dataset, or a data frame of pandas or polars. Raises InvalidRequest."""
    if isinstance(data, pa.RecordBatchReader):
        raise InvalidRequest("a reader of record batches can be read once only", hint="push its table: reader.read_all()")
    if _is_arrow(data) and any(_has_struct_in_struct(field.type) for field in data.schema):
        data = _Unsliced(data)
    try:
        connection.register(_TABLE, data)
    except (duckdb.Error, TypeError) as error:
        hint = "give an Arrow table or dataset, or a data frame of pandas or polars"
        raise InvalidRequest(f"DuckDB cannot read a {type(data).__name__}", hint=hint) from error


def _is_arrow(data: object) -> TypeGuard[pa.Table | pa.RecordBatch | ds.Dataset]:
    # Whoever has a dataset has imported it. Imported here, it would bring pandas along, at 0.3 s in every push of files.
    dataset = sys.modules.get("pyarrow.dataset")
    return isinstance(data, pa.Table | pa.RecordBatch) or (dataset is not None and isinstance(data, dataset.Dataset))


class _Unsliced:
    """The same rows in arrays that begin at their first row.

    DuckDB 1.5 overlooks where a slice begins in structs within structs, and would take the values of other rows. Slices need
    not be the caller's doing: a dataset hands its row groups out in slices.
    """

    def __init__(self, data: pa.Table | pa.RecordBatch | ds.Dataset) -> None:
        self._data = data

    def __arrow_c_stream__(self, requested_schema: object = None) -> Any:
        """The protocol by which Arrow data is handed over; each call is one reading of all rows."""
        return pa.RecordBatchReader.from_batches(self._data.schema, self._batches()).__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        batches = [self._data] if isinstance(self._data, pa.RecordBatch) else self._data.to_batches()
        for batch in batches:
            columns = [column if column.offset == 0 else _copied(column) for column in batch.columns]
            yield pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _copied(column: pa.Array) -> pa.Array:
    # Joined to an empty one: of a single array Arrow would return the array itself.
    return pa.concat_arrays([column, pa.array([], column.type)])


def _has_struct_in_struct(kind: pa.DataType, within: bool = False) -> bool:
    if pa.types.is_struct(kind):
        return within or any(_has_struct_in_struct(field.type, True) for field in kind.fields)
    return any(_has_struct_in_struct(kind.field(i).type) for i in range(kind.num_fields))
