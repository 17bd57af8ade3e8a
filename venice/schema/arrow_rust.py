"""The Rust library `pyruhvro`, called so that neither its errors nor its panics reach anybody.

It is given only what `arrow_lowering.py` makes: it panics on most other types, and a panic is a `BaseException`, which no
caller would expect. Both functions release the GIL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyruhvro


class RustError(Exception):
    """The library failed or panicked; the codec can do the same, slowly."""


def record_text(documents: Sequence[Any]) -> str:
    """The schema of a record with fields of these lowered types."""
    return json.dumps({"type": "record", "name": "Row", "fields": [{"name": f"f{i}", "type": d} for i, d in enumerate(documents)]})


def serialize(columns: Sequence[pa.Array], schema_json: str) -> pa.Array:
    """Lowered columns as Avro bytes, one value per row; `schema_json` is from `record_text`.

    Raises:
        RustError: It did not work.
    """
    if not len(columns[0]):
        return pa.array([], pa.binary())
    batch = pa.RecordBatch.from_arrays(columns, names=[f"f{i}" for i in range(len(columns))])
    return _call(pyruhvro.serialize_record_batch, batch, schema_json, 1)[0]


def deserialize(values: list[bytes], schema_json: str) -> list[pa.Array]:
    """Avro bytes as lowered columns. Bytes after a value and text that is no UTF-8 are passed over.

    Raises:
        RustError: The bytes are damaged, or it did not work.
    """
    columns: list[pa.Array] = _call(pyruhvro.deserialize_array, values, schema_json).columns
    return columns


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise RustError(str(error)) from error
