"""One value ⇄ Avro bytes, for one schema."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import fastavro

from venice.errors import Corrupt, InvalidRequest


class Codec:
    """Encodes and decodes the values of one Avro schema.

    Args:
        schema_json: The schema as JSON text.

    Raises:
        InvalidRequest: The text is not an Avro schema.
    """

    __slots__ = ("_parsed", "schema_json")

    def __init__(self, schema_json: str) -> None:
        self.schema_json = schema_json
        try:
            self._parsed = fastavro.parse_schema(json.loads(schema_json))
        except Exception as error:
            raise InvalidRequest(f"not an Avro schema: {error}", hint="pass the schema as Avro JSON") from error

    def encode(self, value: Any) -> bytes:
        out = io.BytesIO()
        try:
            fastavro.schemaless_writer(out, self._parsed, value, strict_allow_default=True)
        except Exception as error:
            raise InvalidRequest(f"value does not fit the schema: {error}", hint="compare the value with the schema") from error
        return out.getvalue()

    def decode(self, data: bytes, offset: int = 0) -> Any:
        value, end = self.decode_from(data, offset)
        if end != len(data):
            raise Corrupt(f"{len(data) - end} bytes after the end of an Avro value", hint="the bytes were written with another schema")
        return value

    def decode_from(self, data: bytes, offset: int = 0) -> tuple[Any, int]:
        source = io.BytesIO(data)
        source.seek(offset)
        try:
            value = fastavro.schemaless_reader(source, self._parsed, None)
        except Exception as error:
            raise Corrupt(f"not an Avro value of this schema: {error}", hint="the bytes were written with another schema") from error
        return value, source.tell()


def reader(writer_schema: str, reader_schema: str) -> Callable[[bytes, int], Any]:
    """A function (data, offset) → value of the reader schema, for bytes written with the writer schema."""
    writer = Codec(writer_schema)
    if writer_schema == reader_schema:
        return writer.decode
    wanted = fastavro.parse_schema(json.loads(reader_schema))

    def read(data: bytes, offset: int = 0) -> Any:
        source = io.BytesIO(data)
        source.seek(offset)
        try:
            return fastavro.schemaless_reader(source, writer._parsed, wanted)
        except Exception as error:
            raise Corrupt(f"not an Avro value of this schema: {error}", hint="the bytes were written with another schema") from error

    return read


def copier(schema_json: str) -> Callable[[Any], Any]:
    """A function that copies a decoded value deeply enough that changing the copy leaves the original as it is."""
    from copy import deepcopy

    Codec(schema_json)
    return deepcopy
