"""Which column of an Arrow schema feeds which field of an Avro schema."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

from venice.errors import InvalidRequest
from venice.schema.arrow_casting import WrongType, WrongValues, check_type, is_normalizable
from venice.schema.arrow_lowering import Lowered, lower
from venice.schema.arrow_types import VALUE_COLUMN
from venice.schema.types import Field, Record, Schema, describe


class Column(NamedTuple):
    """A field, and where its values come from."""

    field: Field
    name: str
    """Of the column."""
    position: int | None
    """In the batch; None: the field's default stands for all rows."""
    lowered: Lowered | None
    """How the column is lowered for the Rust encoder, if it can be."""
    normalized: bool
    """Whether the column is brought to the Arrow type of its field first."""


def as_record(schema: Schema) -> Record:
    """The root itself, or a record around it: its bytes are those of its only field."""
    root = schema.resolve(schema.root)
    return root if isinstance(root, Record) else Record("Row", (Field(VALUE_COLUMN, schema.root),))


def match_columns(schema: Schema, arrow: pa.Schema, *, sort_maps: bool) -> list[Column]:
    """A column for each field of the schema's record, in the order of the fields.

    Raises:
        InvalidRequest: A column is missing, left over, or of a type that cannot feed its field.
    """
    root, record = schema.resolve(schema.root), as_record(schema)
    names = list(arrow.names)
    if not isinstance(root, Record) and len(names) != 1:
        raise InvalidRequest(f"{describe(root)} takes one column, and there are {len(names)}", hint="select the one column")
    if len(set(names)) != len(names):
        raise InvalidRequest(f"two columns have one name: {', '.join(names)}", hint="give each column a name of its own")
    columns = []
    for field in record.fields:
        name = field.name if isinstance(root, Record) else names[0]
        position = names.index(name) if name in names else None
        if position is None:
            if field.default is None:
                raise InvalidRequest(
                    f"no column {name!r} for the field {describe(record)}.{name} ({describe(field.type)})",
                    hint=f"the columns are {', '.join(names)}; rename or add one, or give the field a default", column=name,
                )  # fmt: skip
            columns.append(Column(field, name, None, None, False))
            continue
        kind = arrow.field(position).type
        _check(schema, field, name, kind)
        normalized = is_normalizable(schema, field.type, kind)
        lowered = lower(schema, field.type) if normalized and not (sort_maps and _has_map(kind)) else None
        columns.append(Column(field, name, position, lowered, normalized))
    if isinstance(root, Record):
        left = [name for name in names if name not in {field.name for field in record.fields}]
        if left:
            raise InvalidRequest(f"no field of {describe(record)} takes column {left[0]!r}", hint="leave the column out", column=left[0])
    return columns


def _check(schema: Schema, field: Field, name: str, kind: pa.DataType) -> None:
    try:
        check_type(schema, field.type, kind)
    except WrongType as error:
        raise InvalidRequest(
            f"column {name + error.path!r} is {error.found} (Arrow), and its field is {error.expected} (Avro)",
            hint="cast the column, or register a schema that takes it", column=name, found=error.found, expected=error.expected,
        ) from error  # fmt: skip


def _has_map(kind: pa.DataType) -> bool:
    return pa.types.is_map(kind) or any(_has_map(kind.field(i).type) for i in range(kind.num_fields))


def refusal(name: str, error: WrongValues) -> InvalidRequest:
    """What is said of values of a column that do not fit."""
    count, first = len(error.rows), int(error.rows[0])
    rows = f"row {first}" if count == 1 else f"{count} rows, the first is row {first}"
    return InvalidRequest(
        f"column {name + error.path!r} does not fit its field in {rows}: {error.reason}",
        hint="correct or drop those rows, or register a schema that takes them", column=name, row=first, rows=count,
    )  # fmt: skip
