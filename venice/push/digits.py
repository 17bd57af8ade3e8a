"""Decimals in CSV and JSON files, which DuckDB would round to what their fields hold: carried with all their digits, or refused.

Write path: **read** → encode → partition → sort → seal. Such columns are read with text in the place of decimals; what else is in
them has its type already. In JSON the text is that of JSON: a number without quotes has gone through a double.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from venice.errors import InvalidRequest
from venice.push.columns import sql_type
from venice.push.duplicates import shown
from venice.schema.arrow_types import arrow_type, only_branch
from venice.schema.json_values import DOUBLE_DIGITS
from venice.schema.types import Array, Fixed, Logical, MapType, Primitive, Record, Schema, Type, Union


def has_decimals(schema: Schema, node: Type) -> bool:
    """Whether columns of this type are read as `Digits` wants them."""
    return sql_type(schema, node, decimal="VARCHAR") is not None and _has_decimals(schema, node)


def _has_decimals(schema: Schema, node: Type) -> bool:
    node = schema.resolve(node)
    match node:
        case Primitive(_, Logical("decimal")) | Fixed(_, _, _, Logical("decimal")):
            return True
        case Array(inner) | MapType(inner):
            return _has_decimals(schema, inner)
        case Record(_, fields):
            return any(_has_decimals(schema, field.type) for field in fields)
        case Union():
            only = only_branch(node)
            return only is not None and _has_decimals(schema, only)
    return False


class Digits:
    """Columns with text in the place of decimals → columns of `type`.

    Args:
        kind: The type of those columns.
        json: The text is that of JSON.
    """

    def __init__(self, schema: Schema, node: Type, kind: pa.DataType, *, json: bool) -> None:
        self._schema = schema
        self._node = node
        self._json = json
        self.type: pa.DataType = self._converted(pa.array([], kind), node).type

    def read(self, name: str, texts: pa.Array) -> pa.Array:
        """Raises InvalidRequest, naming the column and the row of a decimal that its field does not hold exactly."""
        try:
            return self._converted(texts, self._node)
        except ValueError:
            for row in range(len(texts)):
                one = texts.take(pa.array([row]))
                try:
                    self._converted(one, self._node)
                except ValueError as error:
                    raise InvalidRequest(
                        f"column {name!r} does not fit its field in row {row}: {shown(one[0].as_py())}: {error}",
                        hint="write decimals as text" if self._json else "correct that row, or round it in a query (--sql)",
                        column=name, row=row,
                    ) from error  # fmt: skip
            raise

    def _converted(self, array: pa.Array, node: Type) -> pa.Array:
        node = self._schema.resolve(node)
        match node:
            case Primitive(_, Logical("decimal")) | Fixed(_, _, _, Logical("decimal")):
                return self._decimals(array).cast(arrow_type(self._schema, node))
            case Array(items):
                offsets = pa.array(array.offsets.to_numpy())
                return pa.ListArray.from_arrays(offsets, self._converted(array.values, items), mask=array.is_null())
            case MapType(values):
                offsets = pa.array(array.offsets.to_numpy())
                return pa.MapArray.from_arrays(offsets, array.keys, self._converted(array.items, values), mask=array.is_null())
            case Record(_, fields):
                kinds = {field.name: field.type for field in fields}
                names = [field.name for field in array.type]
                members = [self._converted(member, kinds[name]) for name, member in zip(names, array.flatten(), strict=True)]
                return pa.StructArray.from_arrays(members, names, mask=array.is_null())
            case Union():
                only = only_branch(node)
                assert only is not None, "`has_decimals` takes no others"
                return self._converted(array, only)
        return array

    def _decimals(self, texts: pa.Array) -> pa.Array:
        """Text that Arrow takes for decimals."""
        if self._json:
            texts = pc.if_else(pc.equal(texts, "null"), None, texts)
            number = pc.and_(pc.invert(pc.starts_with(texts, '"')), pc.match_substring_regex(texts, "[.eE]"))
            significant = pc.utf8_trim(pc.replace_substring_regex(texts, "[eE].*|[^0-9]", ""), "0")
            if pc.any(pc.and_(number, pc.greater(pc.utf8_length(significant), DOUBLE_DIGITS))).as_py():
                raise ValueError(f"a number of more than {DOUBLE_DIGITS} digits has been rounded")
            texts = pc.utf8_trim(texts, '"')
        return pc.utf8_trim_whitespace(texts)
