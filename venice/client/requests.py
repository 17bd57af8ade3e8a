"""What a remote client asks of a store and how it understands the answers. No I/O.

Read path: **client** → wire → router → worker → storage.

An operation is a generator: it yields requests, is sent their answers and returns its result. So the same decisions serve
a client of threads and one of asyncio, which only carry messages (`thin.py`).

A client never goes back: the highest catalog sequence seen in any answer goes along with every request, and no process
may answer from less.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from venice.client.unpacking import KNOWN, PLAIN, Unpackers
from venice.errors import Corrupt, InvalidRequest, Unavailable, VeniceError
from venice.message import Headers, Request, Response
from venice.naming import check_store_name
from venice.schema.codec import Decode, key_codec, reader
from venice.wire import (
    API_VERSION,
    API_VERSION_HEADER,
    AVRO,
    CATALOG_SEQUENCE,
    COMPRESSION,
    ERROR,
    SCHEMA_ID,
    STORE_VERSION,
    STREAMING,
    STREAMING_RESPONSE,
    RowStream,
    check_api_version,
    decode_metadata,
    encode_keys,
    error_of,
    number,
    path_of_key,
)

T = TypeVar("T")
Steps = Generator[Request, Response, T]
"""An operation under way."""

PATH_KEY_MAX = 4096
"""A longer key is asked for as a batch of one: servers limit the head of a request."""

SPOKEN = b"%d" % API_VERSION
"""What the header of a message that is understood here says."""

FOREIGN = "check that the URL names a Venice router"


@dataclass(frozen=True, slots=True)
class _Schemas:
    """A store's schemas as of one catalog sequence."""

    sequence: int
    versions: frozenset[int]
    """Versions they are known to describe. A deleted store's name may come back with other schemas, but with new versions."""
    key_schema: str
    encode_key: Callable[[Any], bytes]
    value_schemas: Mapping[int, str]
    latest: str
    """Every value is read with it."""
    decoders: dict[int, Decode]
    """By schema id; filled as ids come."""

    def decoder(self, schema_id: int) -> Decode:
        """Reads values of an id in `value_schemas`."""
        decode = self.decoders.get(schema_id)
        if decode is None:
            decode = self.decoders[schema_id] = reader(self.value_schemas[schema_id], self.latest)
        return decode


class _Source(NamedTuple):
    """Where an answer is from, as its headers say."""

    version_text: bytes | None
    sequence_text: bytes | None
    version: int


class StoreRequests:
    """All that a client knows of one store, and its operations. Safe to share between threads.

    Args:
        store: Its name.
        token: Sent as `Authorization: Bearer`.

    Raises:
        InvalidRequest: The name cannot be a store's, or the token cannot stand in a header.
    """

    def __init__(self, store: str, token: str | None) -> None:
        self.store = check_store_name(store)
        self.last_version = 0
        """The store version that answered last; 0 before the first answer."""
        name = store.encode()
        self._get_prefix = b"/storage/%b/" % name
        self._batch_target = b"/storage/%b" % name
        self._metadata_target = b"/metadata/%b" % name
        self._unpackers = Unpackers(store)
        self._fields = {API_VERSION_HEADER: SPOKEN, **authorization(token)}
        self._schemas: _Schemas | None = None
        self._source = _Source(None, None, 0)
        self._sequence = 0
        self._lock = threading.Lock()
        """Held while the sequence or the schemas advance."""
        self._set_headers()

    # Operations.

    def get(self, key: Any) -> Steps[Any]:
        """The value of `key`, or None."""
        while True:
            schemas = self._schemas or (yield from self._learn())
            raw = schemas.encode_key(key)
            if not 0 < len(raw) <= PATH_KEY_MAX:
                pairs = yield from self._pairs((key,))
                return pairs[0][1] if pairs else None
            response = yield Request(b"GET", b"%b%b?f=b64" % (self._get_prefix, path_of_key(raw)), self._headers)
            version = self.judge(response)
            if version not in schemas.versions and not (yield from self.describes(schemas, version)):
                continue
            if response.status == 404:
                return None
            schema_id = schema_id_of(response.headers)
            decode = schemas.decoders.get(schema_id) or (yield from self.schemas_with({schema_id})).decoder(schema_id)
            if response.headers.get(COMPRESSION, PLAIN) == PLAIN:
                return decode(response.body, 0)
            unpack = yield from self.unpacker(response, version)
            return decode(unpack(response.body), 0)

    def batch_get(self, keys: Iterable[Any]) -> Steps[dict[Any, Any]]:
        """key → value of those keys that exist, in the order of `keys`."""
        return dict((yield from self._pairs(list(keys), hashed=True)))

    def batch(self, keys: Iterable[Any], *, streaming: bool) -> Steps[Batch]:
        """A batch get, ready to be sent."""
        schemas = self._schemas or (yield from self._learn())
        by_bytes: dict[bytes, Any] = {}
        for key in keys:
            by_bytes.setdefault(schemas.encode_key(key), key)
        headers = self._stream_headers if streaming else self._batch_headers
        return Batch(self, schemas, tuple(by_bytes.values()), Request(b"POST", self._batch_target, headers, encode_keys(by_bytes)))

    def _pairs(self, keys: Sequence[Any], *, hashed: bool = False) -> Steps[list[tuple[Any, Any]]]:
        """(key, value) of those keys that exist, in the order of `keys`; `hashed`: refuse keys that no dict can hold."""
        while True:
            batch = yield from self.batch(keys, streaming=False)
            if hashed:
                check_dict_keys(batch.keys)
            if not batch.keys:
                return []
            response = yield batch.request
            if (yield from batch.accepts(response)):
                found = yield from batch.feed(response.body)
                batch.finish()
                return found

    # What answers say.

    def judge(self, response: Response) -> int:
        """The version that answered, with a value or with none.

        Raises:
            VeniceError: The one that the answer tells of.
            Corrupt: The answer is none of Venice's.
        """
        status, headers, _ = response
        if headers.get(API_VERSION_HEADER) == SPOKEN:
            source = self._source
            if headers.get(CATALOG_SEQUENCE) != source.sequence_text or headers.get(STORE_VERSION) != source.version_text:
                source = self._note(headers)
            if (status == 200 and headers.get(COMPRESSION, PLAIN) in KNOWN) or (status == 404 and ERROR not in headers):
                if not source.version:
                    raise Corrupt("an answer does not say which version it is from", hint=FOREIGN)
                self.last_version = source.version
                return source.version
        raise refusal(self.store, response)

    def _note(self, headers: Headers) -> _Source:
        """Remember where an answer is from."""
        source = _Source(headers.get(STORE_VERSION), headers.get(CATALOG_SEQUENCE), number_of(headers, STORE_VERSION))
        sequence = number_of(headers, CATALOG_SEQUENCE)
        with self._lock:
            if sequence > self._sequence:
                self._sequence = sequence
                self._set_headers()
        self._source = source
        return source

    def _set_headers(self) -> None:
        fields = self._fields
        if self._sequence:
            fields = {**fields, CATALOG_SEQUENCE: b"%d" % self._sequence}
        self._headers = Headers(fields)
        self._batch_headers = Headers({**fields, b"content-type": AVRO})
        self._stream_headers = Headers({**self._batch_headers, STREAMING: b"1"})

    def unpacker(self, response: Response, version: int) -> Steps[Callable[[bytes], bytes]]:
        """What makes Avro bytes of the values of an answer that says they are compressed; `version` is its version."""
        return self._unpackers.find(response.headers[COMPRESSION], version, self._headers)

    # Schemas.

    def _learn(self) -> Steps[_Schemas]:
        """Ask for the store's schemas."""
        response = yield Request(b"GET", self._metadata_target, self._headers)
        if response.status != 200 or response.headers.get(API_VERSION_HEADER) != SPOKEN:
            raise refusal(self.store, response)
        metadata = decode_metadata(response.body)
        texts = {schema.id: schema.text for schema in metadata.value_schemas}
        try:
            encode_key = key_codec(metadata.key_schema).encode
        except InvalidRequest as error:
            raise Corrupt(f"the key schema of {self.store!r} is none: {error.message}", hint="upgrade this client") from error
        learned = _Schemas(
            metadata.sequence,
            frozenset({metadata.version}),
            metadata.key_schema,
            encode_key,
            texts,
            texts[max(texts)] if texts else "",
            {},
        )
        with self._lock:
            known = self._schemas
            if known is None or learned.sequence >= known.sequence:
                if known is not None and known.key_schema == learned.key_schema:
                    learned = replace(learned, versions=learned.versions | known.versions)
                self._schemas = known = learned
            return known

    def describes(self, schemas: _Schemas, version: int) -> Steps[bool]:
        """Whether a key encoded with `schemas` could be understood by a version that is new here; if not, ask again."""
        current = self._schemas
        if current is None or version not in current.versions:
            current = yield from self._learn()
            with self._lock:
                if self._schemas is current:
                    self._schemas = replace(current, versions=current.versions | {version})
        return current.key_schema == schemas.key_schema

    def schemas_with(self, schema_ids: set[int]) -> Steps[_Schemas]:
        """Schemas that have all of these value schemas.

        Raises:
            Unavailable: The router does not know one of them.
        """
        schemas = self._schemas
        if schemas is None or not schema_ids <= schemas.value_schemas.keys():
            schemas = yield from self._learn()
        missing = schema_ids - schemas.value_schemas.keys()
        if missing:
            raise Unavailable(
                f"a value of {self.store!r} is written with value schema {min(missing)}, which the router does not know",
                hint="try again: its catalog is behind",
            )
        return schemas


class Batch:
    """One batch get: send `request`, ask `accepts`, feed the body in pieces of any size, finish.

    A body that answers a key twice, or one that was not asked for, is refused.
    """

    __slots__ = ("_answered", "_named", "_requests", "_rows", "_schemas", "_streamed", "_unpack", "keys", "request")

    def __init__(self, requests: StoreRequests, schemas: _Schemas, keys: tuple[Any, ...], request: Request) -> None:
        self.keys = keys
        """Each key once."""
        self.request = request
        self._requests = requests
        self._schemas = schemas
        self._rows = RowStream()
        self._answered: set[int] = set()
        self._named = 0
        """How many of the missing keys named in the stream have been looked at."""
        self._streamed = False
        self._unpack: Callable[[bytes], bytes] | None = None
        """None: values are not compressed."""

    def accepts(self, response: Response) -> Steps[bool]:
        """Whether the body can be read; if not, the store is another one now and the whole call must be made again.

        Args:
            response: With a body only if it is an error.

        Raises:
            VeniceError: The one that the answer tells of.
        """
        version = self._requests.judge(response)
        if response.status != 200:
            raise error_of(response.status, response.body)
        self._streamed = STREAMING_RESPONSE in response.headers
        if response.headers.get(COMPRESSION, PLAIN) != PLAIN:
            self._unpack = yield from self._requests.unpacker(response, version)
        return version in self._schemas.versions or (yield from self._requests.describes(self._schemas, version))

    def feed(self, data: bytes) -> Steps[list[tuple[Any, Any]]]:
        """(key, value) of the rows completed by `data`, in the order of the keys. Raises Corrupt, Unavailable."""
        rows = self._rows.feed(data)
        for position in self._rows.missing[self._named :]:
            self._answer(position)
        self._named = len(self._rows.missing)
        if not rows:
            return []
        rows.sort()
        schemas = yield from self._requests.schemas_with({row.schema_id for row in rows})
        pairs = []
        unpack = self._unpack
        for position, value, schema_id in rows:
            self._answer(position)
            pairs.append((self.keys[position], schemas.decoder(schema_id)(value if unpack is None else unpack(value), 0)))
        return pairs

    def finish(self) -> None:
        """The body is complete.

        Raises:
            VeniceError: The one that the end of a stream tells of.
            Unavailable: The stream has no end.
            Corrupt: The body ends within a row, or a stream that says it is whole is not.
        """
        self._rows.finish()
        footer = self._rows.footer
        if footer is not None and footer.status != 200:
            raise error_of(footer.status, footer.detail)
        if not self._streamed:
            return
        if footer is None:
            raise Unavailable(f"the answer ended after {len(self._answered)} of {len(self.keys)} keys", hint="try again")
        if len(self._answered) != len(self.keys):
            raise Corrupt(f"{len(self._answered)} of {len(self.keys)} keys were answered", hint="upgrade router and workers to one release")

    def _answer(self, position: int) -> None:
        if position >= len(self.keys) or position in self._answered:
            raise Corrupt(f"an answer to key {position} of {len(self.keys)}, or a second one", hint=FOREIGN)
        self._answered.add(position)


def refusal(store: str, response: Response) -> VeniceError:
    """The error that an answer to a read of `store` amounts to. Raises InvalidRequest if it is of a newer wire version."""
    status, headers, body = response
    check_api_version(headers)
    if status != 200:
        return error_of(status, body)
    if API_VERSION_HEADER not in headers:
        return Corrupt(f"the answer is not one of Venice: {body[:80]!r}", hint=FOREIGN)
    name = headers.get(COMPRESSION, PLAIN).decode("latin-1")
    return InvalidRequest(f"values of {store!r} are compressed with {name!r}, which this client cannot read", hint="upgrade it")


def check_dict_keys(keys: Sequence[Any]) -> None:
    """Raises InvalidRequest if no dict can hold these keys, of which no two have the same bytes."""
    try:
        if len(set(keys)) == len(keys):
            return
        told = "two of these keys are equal in Python but not in the store, as 0 and False or 0.0 and -0.0 are"
    except TypeError as error:
        told = f"these keys cannot be those of a dict: {error}"
    raise InvalidRequest(told, hint="use streaming_batch_get, which gives pairs of key and value")


def schema_id_of(headers: Headers) -> int:
    """The id of the value schema that an answer's value is written with. Raises Corrupt."""
    text = headers.get(SCHEMA_ID, b"")
    if not text.isdigit() or len(text) > 9:
        raise Corrupt(f"an answer says its value schema is {text.decode('latin-1')!r}", hint=FOREIGN)
    return int(text)


def number_of(headers: Headers, name: bytes) -> int:
    """A header's number, 0 without it. Raises Corrupt."""
    try:
        return number(headers, name) or 0
    except InvalidRequest as error:
        raise Corrupt(f"in an answer, {error.message}", hint=FOREIGN) from error


def authorization(token: str | None) -> dict[bytes, bytes]:
    """The header that carries a token, if there is one. Raises InvalidRequest."""
    if token is None:
        return {}
    if not token.isascii() or not token.isprintable() or not token or " " in token:
        raise InvalidRequest("the token has characters that no HTTP header can carry", hint="give it without spaces and line ends")
    return {b"authorization": b"Bearer " + token.encode()}
