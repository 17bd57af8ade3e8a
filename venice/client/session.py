"""What a remote client asks and what it makes of the answers: no sockets, no threads, no event loop.

Read path: **client** → transport → wire → router | worker.

Each operation is a generator: it yields requests, is sent their answers and returns its result. The sync and the async
client run the same ones, each over its own transport.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple, TypeVar

from venice import wire
from venice.errors import Corrupt, Incompatible, Unavailable
from venice.message import Headers, Request, Response
from venice.naming import check_store_name
from venice.schema.codec import Codec, Decode, key_codec, reader

T = TypeVar("T")
Steps = Generator[Request, Response, T]


class Versioned(NamedTuple):
    """A result and the one version it was read from."""

    value: Any
    version: int


class KeyedMapping(Mapping[Any, Any]):
    """Found keys → values, where keys are records, arrays or maps, which a dict does not take.

    Two keys are the same if their Avro bytes are.
    """

    def __init__(self, pairs: Iterable[tuple[Any, Any]], encode: Callable[[Any], bytes]) -> None:
        self._encode = encode
        self._pairs = {encode(key): (key, value) for key, value in pairs}

    def __getitem__(self, key: Any) -> Any:
        return self._pairs[self._encode(key)][1]

    def __iter__(self) -> Iterator[Any]:
        return (key for key, _ in self._pairs.values())

    def __len__(self) -> int:
        return len(self._pairs)

    def __contains__(self, key: object) -> bool:
        return self._encode(key) in self._pairs

    def __repr__(self) -> str:
        return f"KeyedMapping({list(self._pairs.values())!r})"


class Session:
    """What one client knows of its store. Safe to share between threads.

    It remembers the highest catalog sequence it was ever answered from and asks for no older one: reads never go back.
    """

    def __init__(self, store: str, token: str | None) -> None:
        self.store = check_store_name(store)
        self.last_version = 0
        """Version of the answer that came last; 0 before the first."""
        self._path = b"/storage/%b" % store.encode()
        self._fields = dict(wire.COMMON)
        if token is not None:
            self._fields[b"authorization"] = b"Bearer " + token.encode()
        self._headers = Headers(self._fields)
        self._sequence = 0
        self._lock = Lock()
        self._keys: Codec | None = None
        self._schemas: dict[int, str] = {}
        self._decoders: dict[bytes | int, Decode] = {}
        """By schema id, as a number and as the header says it."""

    # Operations.

    def get(self, key: Any) -> Steps[Versioned]:
        keys = self._keys or (yield from self._learn())
        target = b"%b/%b?f=b64" % (self._path, wire.path_of_key(keys.encode(key)))
        answer = yield Request(b"GET", target, self._headers)
        if answer.status == 404 and wire.ERROR not in answer.headers:
            return Versioned(None, self._note(answer))
        version = self._note(self._checked(answer))
        schema_id = answer.headers.get(wire.SCHEMA_ID, b"")
        decode = self._decoders.get(schema_id) or (yield from self._decoder(schema_id))
        return Versioned(decode(answer.body, 0), version)

    def batch_get(self, keys: Iterable[Any]) -> Steps[Versioned]:
        request, asked = yield from self.ask(keys)
        answer = self._checked((yield request))
        pairs = yield from self.pairs(wire.decode_rows(answer.body), asked)
        return Versioned(self._mapping(pairs), self._note(answer))

    def ask(self, keys: Iterable[Any], *, streaming: bool = False) -> Steps[tuple[Request, Sequence[Any]]]:
        """The request for a batch, and the keys by position in it; a key given twice is asked for once."""
        codec = self._keys or (yield from self._learn())
        asked = {codec.encode(key): key for key in keys}
        headers = {**self._headers, b"content-type": wire.AVRO}
        if streaming:
            headers[wire.STREAMING] = b"1"
        return Request(b"POST", self._path, Headers(headers), wire.encode_keys(asked)), list(asked.values())

    def pairs(self, rows: Iterable[wire.Row], asked: Sequence[Any]) -> Steps[list[tuple[Any, Any]]]:
        """(key, value) of rows of an answer."""
        found = []
        for position, value, schema_id in rows:
            decode = self._decoders.get(schema_id) or (yield from self._decoder(b"%d" % schema_id))
            if position >= len(asked):
                raise Corrupt(f"row {position} answers {len(asked)} keys", hint="client and server do not understand each other")
            found.append((asked[position], decode(value, 0)))
        return found

    def begin(self, head: Response) -> int:
        """The version of a stream that begins with `head`. Raises what a failed answer tells of."""
        return self._note(self._checked(head))

    def end(self, stream: wire.RowStream) -> None:
        """Raises what went wrong with a stream whose data have ended."""
        stream.finish()
        if stream.footer is None:
            raise Unavailable(f"a stream of store {self.store!r} was cut short", hint="ask again for the keys that are missing")
        if stream.footer.status != 200:
            raise wire.error_of(stream.footer.status, stream.footer.detail)

    # What is known of the store.

    def _learn(self) -> Steps[Codec]:
        answer = self._checked((yield Request(b"GET", b"/metadata/%b" % self.store.encode(), self._headers)))
        metadata = wire.decode_metadata(answer.body)
        with self._lock:
            self._schemas = {**self._schemas, **{schema.id: schema.text for schema in metadata.value_schemas}}
            self._keys = codec = key_codec(metadata.key_schema)
        return codec

    def _decoder(self, text: bytes) -> Steps[Decode]:
        """Reads values written with schema `text`, an id, as values of the newest schema known."""
        if not text.isdigit():
            raise Corrupt(f"a value of {self.store!r} names no schema: {text!r}", hint="check that the URL names a Venice router")
        schema_id = int(text)
        if schema_id not in self._schemas:
            target = b"/value_schema/%b/%d" % (self.store.encode(), schema_id)
            schema = _schema_of(self._checked((yield Request(b"GET", target, self._headers))).body)
            with self._lock:
                self._schemas = {**self._schemas, schema_id: schema}
                self._decoders = {}  # they read as the newest schema, which may be this one now
        with self._lock:
            schemas, decoders = self._schemas, self._decoders
        decode = reader(schemas[schema_id], schemas[max(schemas)])
        decoders[text] = decoders[schema_id] = decode
        return decode

    def _mapping(self, pairs: list[tuple[Any, Any]]) -> Mapping[Any, Any]:
        try:
            return dict(pairs)
        except TypeError:
            assert self._keys is not None, "a batch was asked for"
            return KeyedMapping(pairs, self._keys.encode)

    # What every answer says.

    def _checked(self, answer: Response) -> Response:
        if answer.status != 200:
            raise wire.error_of(answer.status, answer.body)
        wire.check_api_version(answer.headers)
        compression = answer.headers.get(wire.COMPRESSION, b"none")
        if compression != b"none":
            raise Incompatible(
                f"values of {self.store!r} are compressed with {compression.decode('latin-1')!r}, which this client does not know",
                hint="upgrade venice-data",
            )
        return answer

    def _note(self, answer: Response) -> int:
        """The answer's version; keeps what later requests must not fall behind."""
        sequence = wire.number(answer.headers, wire.CATALOG_SEQUENCE) or 0
        if sequence > self._sequence:
            with self._lock:
                if sequence > self._sequence:
                    self._sequence = sequence
                    self._headers = Headers({**self._fields, wire.CATALOG_SEQUENCE: b"%d" % sequence})
        version = wire.number(answer.headers, wire.STORE_VERSION) or 0
        self.last_version = version
        return version


def _schema_of(body: bytes) -> str:
    try:
        text = json.loads(body)["schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Corrupt(f"no schema in an answer of {len(body)} bytes: {error!r}", hint="check that the URL names a Venice router") from error
    return str(text)
