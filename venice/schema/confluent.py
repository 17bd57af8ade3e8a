"""Avro as Kafka clients of a Confluent Schema Registry frame it: a zero byte, the schema's id, the value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any

from venice.errors import Corrupt, InvalidRequest
from venice.schema.codec import Codec

HEADER_BYTES = 5
_MAGIC = 0

Schemas = str | Mapping[int, str] | Callable[[int], str | None]
"""One schema's text for every id; a text for each id; or what finds the text of an id (None: there is no such schema)."""


@lru_cache(maxsize=1 << 16)
def schema_id_of(text: str) -> int:
    """The id of a registered schema in every registry of ours: 1 … 2³¹ − 1, made of its text.

    DO NOT CHANGE WHAT IT RETURNS: the ids stand in other people's Kafka messages.
    """
    return (int.from_bytes(sha256(text.encode()).digest()[:4], "big") & 0x7FFF_FFFF) or 1


def decoder(schemas: Schemas) -> Callable[[bytes], Any]:
    """`decode(message) -> value` of framed messages, each with the schema it was written with.

    Raises:
        InvalidRequest: A text is not an Avro schema. `decode` raises Corrupt for bytes that are not a framed value, and for
            a schema id that is not among `schemas`.
    """
    only = Codec(schemas).decode if isinstance(schemas, str) else None
    known = {number: Codec(text).decode for number, text in schemas.items()} if isinstance(schemas, Mapping) else {}
    look_up = schemas if callable(schemas) else None
    if only is None and not known and look_up is None:
        raise InvalidRequest("no schema to decode Avro messages with", hint="give the schema's text, or a text for each schema id")

    def looked_up(schema_id: int) -> Callable[[bytes, int], Any] | None:
        text = look_up(schema_id) if look_up is not None else None
        if text is None:
            return None
        try:
            decode = known[schema_id] = Codec(text).decode
        except InvalidRequest as error:
            raise Corrupt(f"message is of schema {schema_id}, which cannot be read: {error.message}", hint=error.hint) from error
        return decode

    def decode(message: bytes) -> Any:
        if len(message) < HEADER_BYTES or message[0] != _MAGIC:
            raise Corrupt(f"message of {len(message)} bytes is not framed Avro", hint="it begins with a zero byte and a schema id")
        schema_id = int.from_bytes(message[1:HEADER_BYTES], "big")
        decode_value = only or known.get(schema_id) or looked_up(schema_id)
        if decode_value is None:
            raise Corrupt(f"message is of schema {schema_id}, which is not known here", hint=f"known: {sorted(known)}")
        return decode_value(message, HEADER_BYTES)

    return decode
