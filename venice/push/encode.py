"""Arrow rows → serialized keys and stored values, with every row that must not pass refused by name.

Write path: read → **encode** → partition → sort → seal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from venice.errors import Full, InvalidRequest, VeniceError
from venice.push.columns import quote
from venice.push.digits import Digits
from venice.push.documents import Cells
from venice.push.duplicates import describe_key, shown
from venice.push.plan import Field, Plan, Side
from venice.push.runs import raw
from venice.push.sources import Format
from venice.push.stored import StoredValues
from venice.schema.arrow_buffers import binary_scalar
from venice.schema.columnar import ColumnEncoder


class Encoded(NamedTuple):
    """What became of some rows: keys and stored values, aligned; rows left out because they have no value."""

    keys: pa.Array
    values: pa.Array
    skipped: int
    value_bytes: int
    """As of `Stored`."""
    compressed_bytes: int


class RowEncoder:
    """Encodes the rows of a plan. Safe to share between threads.

    Args:
        plan: What feeds what.
        schema: Arrow schema of the rows of `plan.select`.
        stored: Makes stored values of encoded ones; None: leave them as they are encoded.
        value_bytes_max: Largest encoded value.
        connection: Where to look a wrong row up.
    """

    def __init__(
        self,
        plan: Plan,
        schema: pa.Schema,
        *,
        stored: StoredValues | None = None,
        value_bytes_max: int,
        connection: duckdb.DuckDBPyConnection,
    ) -> None:
        self._plan = plan
        self._stored = stored
        self._prefix = prefix = stored.ready_prefix if stored is not None else b""
        self._value_bytes_max = value_bytes_max
        self._connection = connection
        self._key_columns = range(len(plan.key.fields))
        self._value_columns = range(len(plan.key.fields), len(plan.key.fields) + len(plan.value.fields))
        self._cells: dict[str, Cells | Digits] = {}
        for side in (plan.key, plan.value):
            self._cells |= {field.output: Cells(side.schema, field.type) for field in side.fields if field.is_text}
            for field in side.fields:
                if field.has_digits:
                    kind, json = schema.field(field.output).type, plan.source.format is Format.JSON
                    self._cells[field.output] = Digits(side.schema, field.type, kind, json=json)
        schema = pa.schema([field.with_type(self._cells[field.name].type) if field.name in self._cells else field for field in schema])
        self._key = ColumnEncoder(plan.key.row_schema, _part_schema(plan.key, schema, self._key_columns), key=True)
        self._value = ColumnEncoder(plan.value.row_schema, _part_schema(plan.value, schema, self._value_columns), prefix=prefix)

    def encode(self, batch: pa.RecordBatch) -> Encoded:
        """Encode the rows of one batch.

        A row whose value columns are all null has no value: it is left out, and counted.

        Raises:
            InvalidRequest: A null key, or a null where the schema has none; names the column, the file and the rows.
            Full: A value is too large; names the key and the size.
        """
        for field, column in zip(self._plan.key.fields, self._key_columns, strict=True):
            if not field.nullable and batch.column(column).null_count:
                raise self._null_error(self._plan.key, field)
        batch, skipped = self._drop_empty(batch)
        for field, column in zip(self._plan.value.fields, self._value_columns, strict=True):
            if not field.nullable and batch.column(column).null_count:
                raise self._null_error(self._plan.value, field)
        try:
            batch = self._read_cells(batch)
            keys = self._key.encode(_part(batch, self._plan.key, self._key_columns))
            if self._plan.value.fields:
                values = self._value.encode(_part(batch, self._plan.value, self._value_columns))
            else:
                values = pa.repeat(binary_scalar(self._prefix), batch.num_rows)  # A record without fields has no columns.
        except InvalidRequest as error:
            raise self._misfit_error(batch, error) from error
        self._check_sizes(keys, values)
        if self._stored is None:
            return Encoded(keys, values, skipped, 0, 0)
        stored = self._stored.finish(values, batch.column(batch.num_columns - 1) if self._plan.timestamp is not None else None)
        return Encoded(keys, stored.values, skipped, stored.value_bytes, stored.compressed_bytes)

    def _read_cells(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        for field in (*self._plan.key.fields, *self._plan.value.fields) if self._cells else ():
            if field.output in self._cells:
                column = self._cells[field.output].read(field.column, batch.column(field.output))
                batch = batch.set_column(batch.schema.get_field_index(field.output), field.output, column)
        return batch

    def _drop_empty(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, int]:
        columns = [batch.column(column) for column in self._value_columns]
        if not columns or not all(column.null_count for column in columns):
            return batch, 0
        filled = np.zeros(batch.num_rows, np.bool_)
        for column in columns:
            filled |= column.is_valid().to_numpy(zero_copy_only=False)
        kept = int(filled.sum())
        return (batch, 0) if kept == batch.num_rows else (batch.filter(pa.array(filled)), batch.num_rows - kept)

    def _check_sizes(self, keys: pa.Array, values: pa.Array) -> None:
        if values.nbytes <= self._value_bytes_max:
            return  # All of them together are smaller than one may be.
        sizes = np.diff(raw(values)[0]) - len(self._prefix)
        row = int(sizes.argmax())
        if sizes[row] > self._value_bytes_max:
            raise Full(
                f"the value of key {describe_key(self._plan.key.row_schema, keys[row].as_py())} has {sizes[row]} bytes, "
                f"and values of this store may have {self._value_bytes_max}",
                hint="make the value smaller, or raise the store's record_bytes_max",
                size=int(sizes[row]),
            )

    def _misfit_error(self, batch: pa.RecordBatch, error: InvalidRequest) -> InvalidRequest:
        """The encoder's error with the row's key in the place of its number, which counts from wherever the batch began."""
        message, row = error.message, error.data.get("row")
        if isinstance(row, int) and row < batch.num_rows:
            key = {
                field.column: batch.column(column)[row].as_py()
                for field, column in zip(self._plan.key.fields, self._key_columns, strict=True)
            }
            message = message.replace(f"row {row}", f"the row of key {shown(next(iter(key.values())) if len(key) == 1 else key)}")
        return InvalidRequest(f"{self._plan.source}: {message}", hint=error.hint, **error.data)

    def _null_error(self, side: Side, field: Field) -> VeniceError:
        found: list[tuple[str, int]] = []
        try:
            condition = f"{quote(field.column)} IS NULL"
            if side.name == "value":
                condition += f" AND NOT ({' AND '.join(f'{quote(f.column)} IS NULL' for f in side.fields)})"
            cursor = self._connection.cursor()
            self._plan.source.prepare(cursor)
            found = cursor.execute(self._plan.rows_where(condition)).fetchall()
        except duckdb.Error:
            pass  # What cannot be looked up again is reported without its place.
        file, rows = found[0] if found else (str(self._plan.source), 0)
        others = f" (and in {sum(n for _, n in found[1:])} rows of {len(found) - 1} other files)" if len(found) > 1 else ""
        count = f"{rows} row{'s'[: rows != 1]}" if rows else "some rows"
        what = "every row needs a key" if side.name == "key" else f"the field {field.output.partition('.')[2]!r} cannot be null"
        return InvalidRequest(
            f"column {field.column!r} of {file} is null in {count}{others}: {what}",
            hint="fill or drop those rows, for instance with a query (--sql)" if side.name == "key"
            else "fill or drop those rows, or register a value schema in which the field may be null",
            file=file, column=field.column, rows=rows,
        )  # fmt: skip


def _part_schema(side: Side, schema: pa.Schema, columns: Sequence[int]) -> pa.Schema:
    return pa.schema([pa.field(_name(field), schema.field(column).type) for field, column in zip(side.fields, columns, strict=True)])


def _part(batch: pa.RecordBatch, side: Side, columns: Sequence[int]) -> pa.RecordBatch:
    names = [_name(field) for field in side.fields]
    return pa.RecordBatch.from_arrays([batch.column(column) for column in columns], names=names)


def _name(field: Field) -> str:
    return field.output.partition(".")[2]
