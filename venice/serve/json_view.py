"""Keys and values as JSON, for people with curl: the same paths, `Accept: application/json`.

Read path: client → wire → **json** → router | server.

How types look in JSON says `schema/json_values.py`. A key in a path is the JSON of the key, or its plain text where the key is a
string of some kind. Pure functions: the handler between a request and its answer knows Avro only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from venice import wire
from venice.errors import InvalidRequest
from venice.message import Headers, Request, Response
from venice.model import Compression
from venice.schema.codec import Codec, Decode
from venice.schema.json_values import from_json, to_json
from venice.schema.types import Primitive, Schema

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
        key = wire.path_of_key(keys.encode(key_of_text(keys.schema, text)))
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


def key_of_text(schema: Schema, text: bytes) -> Any:
    """The key that a path shows, percent-encoded: JSON, or plain text where the key is a string of some kind."""
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
