"""One value ⇄ Avro bytes, for one schema: the face of the code generators of this package.

Read path: storage → **codec** → caller. Write path: caller → **codec** → log or snapshot.

Bytes and values are those of fastavro (laws in `tests/laws/test_codec_laws.py`), with what fastavro lets through in
silence refused. Works on plain `bytes`; a codec is immutable and safe to share between threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Protocol

from venice.errors import Incompatible
from venice.schema.compatibility import find_misfit
from venice.schema.copying import generate_copier, generate_lookup
from venice.schema.decoding import generate_decoder
from venice.schema.fast_encoding import generate_encoder
from venice.schema.matching import Matcher
from venice.schema.parsing import parse
from venice.schema.types import Schema, describe

_SCHEMAS_MAX = 256
"""Schemas whose generated functions are kept; generating one takes about a millisecond."""


class Decode(Protocol):
    """Reads the value at `offset`."""

    def __call__(self, data: bytes, offset: int = 0, /) -> Any: ...


class Codec:
    """Encodes and decodes the values of one Avro schema.

    Args:
        schema_json: The schema as JSON text, or the bare name of a primitive type.
        sort_maps: Encode the entries of maps by key. Keys need it (`key_codec`): their identity is their bytes.

    Attributes:
        schema: The parsed schema.
        schema_json: The text it was made from.
        encode: `encode(value) -> bytes`. Raises InvalidRequest, naming the path within the value, if it does not fit.
        decode: `decode(data, offset=0) -> value` of the bytes from `offset` to the end. Raises Corrupt if they are anything
            but one value.
        decode_from: `decode_from(data, offset=0) -> (value, end)`, for values written one after the other. Raises Corrupt.

    Raises:
        InvalidRequest: The text is not an Avro schema; the message names the place.
    """

    __slots__ = ("_sort_maps", "decode", "decode_from", "encode", "schema", "schema_json")

    decode: Decode
    decode_from: Decode
    encode: Callable[[Any], bytes]

    def __init__(self, schema_json: str, *, sort_maps: bool = False) -> None:
        self.schema_json = schema_json
        self.schema: Schema = _parse(schema_json)
        self._sort_maps = sort_maps

    def __getattr__(self, name: str) -> Any:
        # Reached once per function: it then fills its slot, so that a call costs no more than that of a plain attribute.
        generate = _GENERATORS.get(name)
        if generate is None:
            raise AttributeError(name)
        function = generate(self.schema_json, self._sort_maps)
        setattr(self, name, function)
        return function

    def __reduce__(self) -> tuple[Any, ...]:
        # Generated functions do not pickle; the text they came from does.
        return partial(Codec, sort_maps=self._sort_maps), (self.schema_json,)

    def __repr__(self) -> str:
        return f"Codec({self.schema_json!r})"


def key_codec(schema_json: str) -> Codec:
    """The codec of a key schema: equal keys have equal bytes, maps included."""
    return Codec(schema_json, sort_maps=True)


@lru_cache(_SCHEMAS_MAX)
def reader(writer_schema: str, reader_schema: str) -> Decode:
    """`read(data, offset=0)` → value of the reader's schema, from bytes written with the writer's.

    Fields the reader lacks are skipped and those the writer lacked take their defaults, so a reader schema with some of
    the writer's fields is a projection. Resolution is that of the Avro specification; logical types are the reader's.

    Raises:
        Incompatible: Nothing written with the one can be read with the other. `read` itself raises it for a value that
            cannot (a union branch or an enum symbol the reader lacks), and Corrupt for damaged bytes.
        InvalidRequest: One of the two is not an Avro schema.
    """
    writer, wanted = _parse(writer_schema), _parse(reader_schema)
    if writer.root == wanted.root:
        return _decode(writer_schema, False)
    if not Matcher(writer, wanted).resolvable(writer.root, wanted.root):
        path, reason = find_misfit(writer, wanted) or ("", "no value of the one is a value of the other")
        raise Incompatible(
            f"{describe(writer.root)} cannot be read as {describe(wanted.root)}{' at ' + path if path else ''}: {reason}",
            hint="read with the schema it was written with, or one compatible with it",
            path=path,
        )
    return generate_decoder(writer, wanted, whole=True)


@lru_cache(_SCHEMAS_MAX)
def copier(schema_json: str) -> Callable[[Any], Any]:
    """`copy(value)` for decoded values: what is done to the copy does not reach the original.

    Raises:
        InvalidRequest: The text is not an Avro schema.
    """
    return generate_copier(_parse(schema_json))


def lookup(schema_json: str, kept: Mapping[Any, Any], key_class: type | None, otherwise: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`get(key)` that copies decoded values out of `kept`: see `generate_lookup`.

    Raises:
        InvalidRequest: The text is not an Avro schema.
    """
    return generate_lookup(_parse(schema_json), kept, key_class, otherwise)


@lru_cache(_SCHEMAS_MAX)
def _parse(text: str) -> Schema:
    return parse(text)


@lru_cache(_SCHEMAS_MAX)
def _decode(text: str, _sort_maps: bool) -> Decode:
    return generate_decoder(_parse(text), _parse(text), whole=True)


@lru_cache(_SCHEMAS_MAX)
def _decode_from(text: str, _sort_maps: bool) -> Decode:
    return generate_decoder(_parse(text), _parse(text), whole=False)


@lru_cache(_SCHEMAS_MAX)
def _encode(text: str, sort_maps: bool) -> Callable[[Any], bytes]:
    return generate_encoder(_parse(text), sort_maps=sort_maps)


_GENERATORS: dict[str, Callable[[str, bool], Any]] = {"encode": _encode, "decode": _decode, "decode_from": _decode_from}
