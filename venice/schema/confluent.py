"""Avro as Kafka clients of a Confluent Schema Registry frame it: a zero byte, the schema's id, the value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from venice.errors import Corrupt, InvalidRequest
from venice.schema.codec import Codec

HEADER_BYTES = 5
_MAGIC = 0


def decoder(schemas: str | Mapping[int, str]) -> Callable[[bytes], Any]:
    """`decode(message) -> value` of framed messages, each with the schema it was written with.

    Args:
        schemas: Schema id → Avro schema as JSON text; one text alone is the schema of every id.

    Raises:
        InvalidRequest: A text is not an Avro schema. `decode` raises Corrupt for bytes that are not a framed value, and for
            a schema id that is not among `schemas`.
    """
    only = Codec(schemas).decode if isinstance(schemas, str) else None
    known = {} if isinstance(schemas, str) else {number: Codec(text).decode for number, text in schemas.items()}
    if only is None and not known:
        raise InvalidRequest("no schema to decode Avro messages with", hint="give the schema's text, or a text for each schema id")

    def decode(message: bytes) -> Any:
        if len(message) < HEADER_BYTES or message[0] != _MAGIC:
            raise Corrupt(f"message of {len(message)} bytes is not framed Avro", hint="it begins with a zero byte and a schema id")
        schema_id = int.from_bytes(message[1:HEADER_BYTES], "big")
        decode_value = only or known.get(schema_id)
        if decode_value is None:
            raise Corrupt(f"message is of schema {schema_id}, which is not known here", hint=f"known: {sorted(known)}")
        return decode_value(message, HEADER_BYTES)

    return decode
