"""Keys and values as JSON, for people with curl: the same paths, `Accept: application/json`.

Read path: client → wire → **json** → router | server.

Avro types that JSON lacks are strings: bytes and fixed are base64, decimals are digits, times are ISO 8601, a float that is
no number is "NaN", "Infinity" or "-Infinity". A key in a path is the JSON of the key, or its plain text where the key is a
string of some kind. Pure functions: the handler between a request and its answer knows Avro only.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from decimal import Decimal, DecimalException
from typing import Any
from urllib.parse import unquote_to_bytes
from uuid import UUID

from venice import wire
from venice.errors import InvalidRequest
from venice.message import Headers, Request, Response
from venice.model import Compression
from venice.schema.codec import Codec, Decode
from venice.schema.types import Array, EnumType, Fixed, MapType, Primitive, Record, Schema, Type, Union, describe

_STORAGE = b"/storage/"
_PLAIN = {wire.COMPRESSION: Compression.NONE.value.encode()}


def is_plain(request: Request) -> bool:
    """Whether the request is in Avro and wants Avro: nothing here concerns it."""
    method, target, headers, _ = request
    if b"accept" in headers and wire.JSON in headers[b"accept"]:
        return False
    return target.endswith(b"?f=b64") if method == b"GET" else headers.get(b"content-type") != wire.JSON


def in_avro(request: Request, keys: Codec) -> Request:
    """The request with its keys in Avro, whatever they came as.

    Raises:
        InvalidRequest: A key does not fit the key schema.
    """
    path, _, query = request.target.partition(b"?")
    headers = {name: value for name, value in request.headers.items() if name not in (b"accept", b"content-type", wire.STREAMING)}
    if request.method == b"GET":
        if b"f=b64" in query.split(b"&"):
            return request._replace(target=path + b"?f=b64", headers=headers)
        store, _, text = path.removeprefix(_STORAGE).partition(b"/")
        key = wire.path_of_key(keys.encode(_key_of_text(keys.schema, text)))
        return request._replace(target=_STORAGE + store + b"/" + key + b"?f=b64", headers=headers)
    if request.headers.get(b"content-type") != wire.JSON:
        return request._replace(headers=headers)
    found = _parsed(request.body)
    if not isinstance(found, list):
        raise InvalidRequest("the body is not a JSON array of keys", hint='send for example ["first", "second"]')
    raw = [keys.encode(from_json(keys.schema, keys.schema.root, key)) for key in found]
    return request._replace(headers=headers, body=wire.encode_keys(raw))


def in_json(request: Request, answer: Response, keys: Codec, reader_of: Callable[[int], Decode]) -> Response:
    """What is sent for `answer`, the answer to the Avro form of `request`.

    Args:
        request: As it arrived.
        answer: In Avro.
        keys: Codec of the store's keys.
        reader_of: Schema id → decoder of the values written with it.
    """
    if wire.JSON not in request.headers.get(b"accept", b"") or wire.ERROR in answer.headers:
        return answer
    # What is decoded is compressed no more.
    headers = Headers({**answer.headers, **(_PLAIN if wire.COMPRESSION in answer.headers else {}), b"content-type": wire.JSON})
    if answer.status == 404:
        facts: Any = {"kind": "missing_key", "message": "the version that serves has no such key"}
    elif request.method == b"GET":
        schema_id = wire.number(answer.headers, wire.SCHEMA_ID)
        assert schema_id is not None, "a found value names its schema"
        facts = to_json(reader_of(schema_id)(answer.body, 0))
    else:
        raw = wire.decode_keys(in_avro(request, keys).body)
        facts = [
            {"key": to_json(keys.decode(raw[row.position])), "value": to_json(reader_of(row.schema_id)(row.value, 0))}
            for row in sorted(wire.decode_rows(answer.body))
        ]
    return Response(answer.status, headers, wire.encode_json(facts))


def to_json(value: Any) -> Any:
    """A decoded Avro value as JSON has it."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else _NOT_FINITE[str(value)]
        case bytes():
            return b64encode(value).decode()
        case Mapping():
            return {name: to_json(member) for name, member in value.items()}
        case Decimal():
            return format(value, "f")
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case UUID():
            return str(value)
        case _:
            return [to_json(item) for item in value]


_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def from_json(schema: Schema, node: Type, value: Any) -> Any:
    """The value that `to_json` made `value` of, as far as its type can tell; the codec has the last word.

    Raises:
        InvalidRequest: It cannot be one of type `node`.
    """
    node = schema.resolve(node)
    try:
        match node:
            case Primitive(kind, logical):
                return _TIMES[logical.name](value) if logical and logical.name in _TIMES else _primitive(kind, value)
            case Fixed(logical=logical):
                return Decimal(_expect(value, str)) if logical else b64decode(_expect(value, str), validate=True)
            case EnumType():
                return _expect(value, str)
            case Array(items):
                return [from_json(schema, items, item) for item in _expect(value, list)]
            case MapType(values):
                return {name: from_json(schema, values, member) for name, member in _expect(value, dict).items()}
            case Record(_, fields):
                members = _expect(value, dict)
                kinds = {field.name: field.type for field in fields}
                return {name: from_json(schema, kinds[name], member) for name, member in members.items()}
            case Union(branches):
                return _branch(schema, branches, value)
    except (ValueError, TypeError, KeyError, DecimalException, RecursionError) as error:
        text = repr(value)[:80]
        raise InvalidRequest(f"{text} is not {describe(node)} in JSON", hint="docs/formats/wire.md lists how types look in JSON") from error


def _key_of_text(schema: Schema, text: bytes) -> Any:
    """The key that a path shows: JSON, or plain text where the key is a string of some kind."""
    try:
        plain = unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the key in the path is not UTF-8: {error}", hint="send other keys as base64url with ?f=b64") from error
    node = schema.resolve(schema.root)
    if node == Primitive("string"):
        return plain
    try:
        value = _parsed(plain)
    except InvalidRequest:
        value = plain
    return from_json(schema, node, value)


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"not JSON: {error}", hint="mend the JSON text") from error


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise TypeError
    return value


def _primitive(kind: str, value: Any) -> Any:
    match kind:
        case "bytes":
            return b64decode(_expect(value, str), validate=True)
        case "float" | "double":
            return float(value) if value in _NOT_FINITE.values() or type(value) is int else _expect(value, float)
        case "null":
            return _expect(value, type(None))
        case _:
            return _expect(value, {"string": str, "boolean": bool}.get(kind, int))


def _branch(schema: Schema, branches: tuple[Type, ...], value: Any) -> Any:
    for branch in branches:
        try:
            return from_json(schema, branch, value)
        except InvalidRequest:
            continue
    raise ValueError


def _decimal(value: Any) -> Decimal:
    return Decimal(_expect(value, str))


_TIMES: dict[str, Callable[[Any], Any]] = {
    "date": lambda value: dt.date.fromisoformat(_expect(value, str)),
    "time-millis": lambda value: dt.time.fromisoformat(_expect(value, str)),
    "time-micros": lambda value: dt.time.fromisoformat(_expect(value, str)),
    "timestamp-millis": lambda value: dt.datetime.fromisoformat(_expect(value, str)),
    "timestamp-micros": lambda value: dt.datetime.fromisoformat(_expect(value, str)),
    "local-timestamp-millis": lambda value: dt.datetime.fromisoformat(_expect(value, str)),
    "local-timestamp-micros": lambda value: dt.datetime.fromisoformat(_expect(value, str)),
    "decimal": _decimal,
    "uuid": lambda value: UUID(_expect(value, str)),
}
