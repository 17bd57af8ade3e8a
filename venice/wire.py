"""FORMAT of HTTP: what requests, answers, batches and errors look like between clients, routers and workers.

Read path: client → **wire** → router → worker → storage. The page is `docs/formats/wire.md`; the Avro schemas of the bodies are
`schemas/wire/*.avsc`, and the codecs here are the same by hand. Nothing here does I/O: bytes in, values out.

Garbage gives `Corrupt` and nothing else. A message of a newer version is refused by name.
"""

from __future__ import annotations

import json
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from venice.errors import BY_KIND, Conflict, Corrupt, Fenced, Full, Incompatible, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.message import Headers, Response, shown
from venice.model import ValueSchema
from venice.schema.varint import decode_long, encode_long

API_VERSION = 1
"""The version this release speaks, and the newest it understands. A message that does not name one is of version 1."""

# Header names, in lower case as every mapping here holds them; they go out as X-VENICE-….
API_VERSION_HEADER = b"x-venice-api-version"
STORE_VERSION = b"x-venice-store-version"
"""Request: answer from this version or not at all. Answer: the version it is from."""
CATALOG_SEQUENCE = b"x-venice-catalog-seq"
"""Request: the lowest catalog sequence to answer from. Answer: the one it was decided by."""
SCHEMA_ID = b"x-venice-schema-id"
COMPRESSION = b"x-venice-compression-strategy"
STREAMING = b"x-venice-streaming"
STREAMING_RESPONSE = b"x-venice-streaming-response"
ROUTED = b"x-venice-routed"
"""The keys of the body are routed keys; X-VENICE-STORE-VERSION is required."""
ERROR = b"x-venice-error"
"""Kind of the error that the body tells; a missing key is a 404 without it."""

AVRO = b"avro/binary"
JSON = b"application/json"

MISDIRECTED = 421
"""This process cannot answer for that version and partition: redo the whole call on fresh metadata."""

_STATUS: dict[type[VeniceError], int] = {
    InvalidRequest: 400,
    NotFound: 404,
    Conflict: 409,
    Incompatible: 422,
    Unavailable: 503,
    Corrupt: 500,
    Fenced: 409,
    Full: 507,
}

COMMON = {API_VERSION_HEADER: b"%d" % API_VERSION}
"""What every answer carries."""

_GARBAGE = "the bytes are not what this release of Venice writes"


def status_of(error: VeniceError) -> int:
    """The HTTP status that says what kind of error it is."""
    return _STATUS.get(type(error), 500)


def error_json(error: VeniceError) -> bytes:
    """The body of an error answer: kind, message, hint, data."""
    facts = {"kind": error.kind, "message": error.message, "hint": error.hint, "data": error.data}
    return encode_json(facts)


def error_response(error: VeniceError, status: int = 0, headers: Mapping[bytes, bytes] | None = None) -> Response:
    """The answer that tells of `error`, with its usual status unless another is given."""
    fields = Headers({**(headers or {}), **COMMON, ERROR: error.kind.encode(), b"content-type": JSON})
    return Response(status or status_of(error), fields, error_json(error))


def error_of(status: int, body: bytes) -> VeniceError:
    """The error that an answer tells of; one that Venice did not write is named by its status."""
    try:
        facts = json.loads(body)
        cls, message, hint, data = BY_KIND[facts["kind"]], str(facts["message"]), str(facts["hint"]), dict(facts["data"])
    except (ValueError, KeyError, TypeError, RecursionError):
        cls = InvalidRequest if 400 <= status < 500 and status != MISDIRECTED else Unavailable
        return cls(f"the server answered {status}: {body[:200]!r}", hint="check that the URL names a Venice router", status=status)
    return cls(message, hint=hint, **{name: value for name, value in data.items() if name not in ("self", "message", "hint")})


def check_api_version(headers: Mapping[bytes, bytes]) -> None:
    """Raises InvalidRequest if the message is of a version this release does not understand."""
    version = headers.get(API_VERSION_HEADER, b"1")
    if version != b"1":
        raise InvalidRequest(
            f"wire version {version.decode('latin-1')!r} is not understood; this process speaks version {API_VERSION}",
            hint=f"send X-VENICE-API-VERSION: {API_VERSION}, or upgrade this process",
        )


def number(headers: Mapping[bytes, bytes], name: bytes) -> int | None:
    """A header's non-negative decimal value, None without it. Raises InvalidRequest."""
    text = headers.get(name)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        raise InvalidRequest(f"header {shown(name).decode()} is {text.decode('latin-1')!r}, not a number", hint="send decimal digits")
    return int(text)


# ------------------------------------------------------------------ keys in a path

FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_TO_URL_SAFE = bytes.maketrans(b"+/", b"-_")
PADDING = (b"", b"", b"==", b"=")


def path_of_key(key: bytes) -> bytes:
    """base64url of a key's Avro bytes, without padding: what stands before `?f=b64`."""
    return b2a_base64(key, newline=False).translate(_TO_URL_SAFE).rstrip(b"=")


def key_of_path(text: bytes) -> bytes:
    """The key's Avro bytes from its base64url form in a path; padding may be left out.

    Raises:
        InvalidRequest: It is not base64url.
    """
    if b"%" in text:
        text = unquote_to_bytes(text)
    text = text.rstrip(b"=").translate(FROM_URL_SAFE)
    try:
        return a2b_base64(text + PADDING[len(text) & 3], strict_mode=True)
    except (Base64Error, ValueError) as error:
        raise InvalidRequest(f"a key in the path is not base64url: {error}", hint="leave f=b64 out to send a plain key") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a client needs to know of a store: schemas, the version that serves and where its replicas are."""

    store: str
    sequence: int
    """Of the catalog this was taken from."""
    version: int
    """The one that serves; 0 before the first."""
    partition_count: int
    compression: str
    key_schema: str
    value_schemas: tuple[ValueSchema, ...]
    """Ascending by id."""
    replicas: tuple[tuple[str, ...], ...]
    """URLs of the workers that hold each partition, preferred first."""


def metadata_facts(metadata: Metadata) -> dict[str, Any]:
    """The body of GET /metadata/{store} before it is JSON, also part of a 421: one member per field."""
    schemas = [{"id": schema.id, "schema": schema.text} for schema in metadata.value_schemas]
    return {**{name: getattr(metadata, name) for name in Metadata.__slots__}, "value_schemas": schemas}


def encode_json(facts: Any) -> bytes:
    """A JSON body."""
    return json.dumps(facts, default=str).encode() + b"\n"


def decode_metadata(body: bytes) -> Metadata:
    """The metadata in an answer's body; members it does not know are left alone. Raises Corrupt."""
    try:
        facts = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"metadata of {len(body)} bytes: {error!r}", hint=_GARBAGE) from error
    return parse_metadata(facts)


def parse_metadata(facts: Any) -> Metadata:
    """What `metadata_facts` made, after JSON. Raises Corrupt."""
    try:
        return Metadata(
            store=_text(facts["store"]),
            sequence=_count(facts["sequence"]),
            version=_count(facts["version"]),
            partition_count=_count(facts["partition_count"]),
            compression=_text(facts["compression"]),
            key_schema=_text(facts["key_schema"]),
            value_schemas=tuple(ValueSchema(id=_count(schema["id"]), text=_text(schema["schema"])) for schema in facts["value_schemas"]),
            replicas=tuple(tuple(_text(url) for url in urls) for urls in facts["replicas"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"metadata that is none: {error!r}", hint=_GARBAGE) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r} is not a count")
    return value


class RoutedKey(NamedTuple):
    """One key from router to worker (`MultiGetRouterRequestKey`)."""

    position: int
    key: bytes
    partition: int


class Row(NamedTuple):
    """One row of a batch's answer (`MultiGetResponseRecord`)."""

    position: int
    value: bytes
    schema_id: int


class Footer(NamedTuple):
    """The end of a stream (`StreamingFooterRecord`): status 200, or the error that cut the rows short."""

    status: int
    detail: bytes = b""


_MISSING = -1000
_FOOTER = -1001
_FOOTER_POSITION = -1_000_000

_INT_MAX = 2**31 - 1

_SHORT = tuple(encode_long(value) for value in range(2048))


def _natural(value: int) -> bytes:
    return _SHORT[value] if value < 2048 else encode_long(value)


def _read_long(data: bytes, at: int) -> tuple[int, int]:
    """(value, offset behind it). IndexError where the data ends too early, Corrupt beyond 64 bits."""
    byte = data[at]
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at + 1
    try:
        return decode_long(data, at)
    except ValueError as error:
        raise Corrupt(str(error), hint=_GARBAGE) from error


def _read_int(data: bytes, at: int) -> tuple[int, int]:
    value, at = _read_long(data, at)
    if not -_INT_MAX - 1 <= value <= _INT_MAX:
        raise Corrupt(f"{value} is not a 32-bit number", hint=_GARBAGE)
    return value, at


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    length, at = _read_long(data, at)
    if length < 0:
        raise Corrupt(f"bytes of length {length}", hint=_GARBAGE)
    end = at + length
    if end > len(data):
        raise IndexError
    return data[at:end], end


def _cut(what: str, data: bytes) -> Corrupt:
    return Corrupt(f"{what} of {len(data)} bytes ends within a record", hint=_GARBAGE)


def encode_keys(keys: Iterable[bytes]) -> bytes:
    """The body of a batch get: Avro `bytes`, one after another."""
    return b"".join([part for key in keys for part in (_natural(len(key)), key)])


def decode_keys(body: bytes) -> list[bytes]:
    """The keys of a batch get, in order. Raises Corrupt."""
    keys: list[bytes] = []
    at = 0
    try:
        while at < len(body):
            key, at = _read_bytes(body, at)
            keys.append(key)
    except IndexError:
        raise _cut("a list of keys", body) from None
    return keys


def encode_routed_key(position: int, key: bytes, partition: int) -> bytes:
    """One routed key; a body is these, one after another."""
    return b"%b%b%b%b" % (_natural(position), _natural(len(key)), key, _natural(partition))


def decode_routed_keys(body: bytes) -> list[RoutedKey]:
    """The keys of a routed batch get, in order. Raises Corrupt."""
    keys: list[RoutedKey] = []
    at = 0
    try:
        while at < len(body):
            position, at = _read_int(body, at)
            key, at = _read_bytes(body, at)
            partition, at = _read_int(body, at)
            keys.append(RoutedKey(position, key, partition))
    except IndexError:
        raise _cut("a list of routed keys", body) from None
    return keys


def encode_row(position: int, value: bytes, schema_id: int) -> bytes:
    """One found key; a body is these, one after another, in any order."""
    return b"%b%b%b%b" % (_natural(position), _natural(len(value)), value, _natural(schema_id))


def encode_missing(position: int) -> bytes:
    """One missing key of a stream."""
    return encode_long(-1 - position) + b"\x00" + encode_long(_MISSING)


def encode_footer(footer: Footer) -> bytes:
    """The last record of a stream."""
    value = encode_long(footer.status) + _natural(len(footer.detail)) + footer.detail + b"\x00"
    return encode_long(_FOOTER_POSITION) + _natural(len(value)) + value + encode_long(_FOOTER)


def decode_rows(body: bytes) -> list[Row]:
    """The found keys of a batch's answer. Raises Corrupt."""
    stream = RowStream()
    rows = stream.feed(body)
    stream.finish()
    return rows


class RowStream:
    """The body of a batch's answer, in pieces of any size → rows as they complete."""

    __slots__ = ("_rest", "footer", "missing")

    def __init__(self) -> None:
        self._rest = b""
        self.footer: Footer | None = None
        """Set by the last record of a stream."""
        self.missing: list[int] = []
        """Positions of the keys the stream has named as missing so far."""

    def feed(self, data: bytes) -> list[Row]:
        """The rows completed by `data`. Raises Corrupt."""
        data = self._rest + data if self._rest else data
        rows: list[Row] = []
        at = done = 0
        try:
            while at < len(data):
                if self.footer is not None:
                    raise Corrupt("a row behind the footer of a stream", hint=_GARBAGE)
                position, at = _read_int(data, at)
                value, at = _read_bytes(data, at)
                schema_id, at = _read_int(data, at)
                done = at
                if schema_id > 0 and position >= 0:
                    rows.append(Row(position, value, schema_id))
                else:
                    self._mark(position, value, schema_id)
        except IndexError:
            pass
        self._rest = data[done:]
        return rows

    def finish(self) -> None:
        """Raises Corrupt if the data ended within a record."""
        if self._rest:
            raise _cut("the rest of a batch", self._rest)

    def _mark(self, position: int, value: bytes, schema_id: int) -> None:
        if schema_id == _MISSING and position < 0 and not value:
            self.missing.append(-1 - position)
        elif schema_id == _FOOTER and position == _FOOTER_POSITION:
            self.footer = _decode_footer(value)
        else:
            raise Corrupt(f"row with position {position} and schema id {schema_id}", hint=_GARBAGE)


def _decode_footer(data: bytes) -> Footer:
    try:
        status, at = _read_int(data, 0)
        detail, at = _read_bytes(data, at)
    except IndexError:
        raise _cut("a footer", data) from None
    if data[at:] != b"\x00":
        raise Corrupt("a footer with trailer headers", hint="it was written by a newer release: upgrade this client")
    return Footer(status, detail)
