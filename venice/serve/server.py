"""A worker's read endpoint: requests answered from the replicas this process holds.

Read path: client → router → http → **server** → storage.

An answer is of one version, which it names. A request that names a version gets that one if it is open here, whatever
the catalog says; one that names none gets the current one. What this worker does not hold is a 421 with what it knows,
and the caller redoes its whole call: so a batch never mixes versions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from venice import wire
from venice.control.catalog import Catalog
from venice.errors import Corrupt, Full, InvalidRequest, NotFound, Unavailable
from venice.message import Request, Response
from venice.model import NO_VERSION, Compression, Store, Version
from venice.rules.partitioning import partition_of
from venice.rules.routing import KEYS_MAX, check_key_count
from venice.schema.codec import Decode, key_codec, reader
from venice.serve import dictionary, json_view, metadata
from venice.serve.connection import Lane
from venice.serve.lane import make_lane
from venice.serve.opened import Misdirected, OpenVersion, OpenVersions
from venice.storage.format import PREFIX_SIZE
from venice.storage.packed import dictionary_of, unpacker_of
from venice.wire import API_VERSION_HEADER, CATALOG_SEQUENCE, JSON, STORE_VERSION, key_of_path

_STORAGE = b"/storage/"
NONE = Compression.NONE.value.encode()
_new = tuple.__new__


class WorkerHandler:
    """Answers reads from open replicas. Called in the endpoint's thread only.

    Args:
        catalog: The latest catalog this process has folded.
        replicas: The versions that can be read now.
        on_corrupt: Told (store, version, partition) when a read came upon corrupt bytes there.
        wait_s: How long a request may wait for the catalog sequence it asks for.
        keys_max: Most keys in one batch.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        replicas: Callable[[], OpenVersions],
        *,
        on_corrupt: Callable[[str, int, int], object] | None = None,
        wait_s: float = 1.0,
        keys_max: int = KEYS_MAX,
    ) -> None:
        self._catalog = catalog
        self._replicas = replicas
        self._on_corrupt = on_corrupt
        self._wait_s = wait_s
        self._keys_max = keys_max
        self._seen_catalog: Catalog | None = None
        self._seen_replicas: OpenVersions | None = None
        self._views: dict[tuple[bytes, bytes | None], OpenVersion] = {}
        """By store and the version asked for, None for the current one."""
        self._versions: dict[tuple[str, int], Version] = {}
        """Of all open versions, also those that have left the catalog."""

    def handle(self, request: Request) -> Response | Awaitable[Response]:
        """The answer to any request of the data paths. Raises VeniceError for what is told by its usual status."""
        method, target, headers, _ = request
        if method != b"GET" or target[-6:] != b"?f=b64" or (b"accept" in headers and JSON in headers[b"accept"]):
            return self._handle_rare(request)
        if headers.get(API_VERSION_HEADER, b"1") != b"1":
            wire.check_api_version(headers)
        if CATALOG_SEQUENCE in headers and (waiting := self._waiting(request)):
            return waiting
        if target[:9] != _STORAGE:
            return self._describe(request)
        return self._read(request)

    def lane(self, headers: Mapping[bytes, bytes]) -> Lane | None:
        """A short way for gets with these headers; None if there is something special about them."""
        if headers.get(API_VERSION_HEADER, b"1") != b"1" or JSON in headers.get(b"accept", b""):
            return None
        try:
            sequence = 0 if STORE_VERSION in headers else wire.number(headers, CATALOG_SEQUENCE) or 0
        except InvalidRequest:
            return None
        return make_lane(self._catalog, self._replicas, lambda store: self._view(store, headers), sequence)

    def _handle_rare(self, request: Request) -> Response | Awaitable[Response]:
        wire.check_api_version(request.headers)
        if waiting := self._waiting(request):
            return waiting
        if not request.target.startswith(_STORAGE):
            return self._describe(request)
        if request.method not in (b"GET", b"POST"):
            return metadata.refuse_method(request, b"GET, POST")
        if json_view.is_plain(request):
            return self._read(request)
        try:
            store = metadata.store_of(self._catalog(), split_path(request)[0].decode("latin-1"))
        except NotFound as error:
            return wire.error_response(error, 400)
        keys = key_codec(store.key_schema)
        answer = self._read(json_view.in_avro(request, keys))
        if answer.headers.get(wire.COMPRESSION, NONE) == NONE:
            return json_view.in_json(request, answer, keys, lambda schema_id: value_reader(store, schema_id))
        version = self._versions[store.name, wire.number(answer.headers, STORE_VERSION) or NO_VERSION]
        unpack = unpacker_of(version)
        return json_view.in_json(request, answer, keys, lambda schema_id: value_reader(store, schema_id, unpack))

    def _describe(self, request: Request) -> Response:
        """The answer to all paths but /storage."""
        if not request.target.startswith(dictionary.PATH) or request.method != b"GET":
            return metadata.answer(self._catalog(), request)
        name, number = dictionary.asked_for(request)
        catalog = self._catalog()
        store = metadata.store_of(catalog, name)
        version = dictionary.find(store, store.version(number) or self._versions.get((name, number)), number)
        return dictionary.answer(number, catalog.sequence, dictionary_of(version))

    def _waiting(self, request: Request) -> Awaitable[Response] | None:
        """The answer once the catalog has come to the sequence asked for; None if it is there, or does not matter."""
        headers = request.headers
        if STORE_VERSION in headers:
            return None  # versions are immutable and their numbers are never used again
        sequence = wire.number(headers, CATALOG_SEQUENCE)
        if sequence is None or self._catalog().sequence >= sequence:
            return None
        return self._handle_later(request, sequence)

    async def _handle_later(self, request: Request, sequence: int) -> Response:
        await metadata.catalog_from(self._catalog, sequence, self._wait_s)
        answer = self.handle(request)
        return answer if isinstance(answer, Response) else await answer

    def _read(self, request: Request) -> Response:
        """A get or batch get in Avro."""
        try:
            return self._get(request) if request[0] == b"GET" else self._batch(request)
        except NotFound as error:
            # On /storage a 404 says that the key is not there, and nothing else.
            return wire.error_response(error, 400)
        except Full as error:
            return wire.error_response(error, 413)
        except Misdirected as error:
            return metadata.misdirected(self._catalog(), split_path(request)[0].decode("latin-1"), str(error))

    def _get(self, request: Request) -> Response:
        _, target, headers, _ = request
        store, _, text = target[9:-6].partition(b"/")
        view = self._view(store, headers)
        key = key_of_path(text)
        partition = partition_of(key, view.count) if view.count != 1 else 0
        storage = view.storages.get(partition) or view.storage(partition)
        try:
            stored = storage.get(key)
            if stored is None:
                view.check_missing(key)
                return Response(404, view.missing_headers)
            kept = view.known.get(stored[:PREFIX_SIZE]) or view.keep(stored)
        except (Corrupt, Unavailable) as error:
            raise self._failed(view, partition, error) from error
        return _new(Response, (200, kept[0], stored[kept[1] :]))

    def _batch(self, request: Request) -> Response:
        view = self._view(split_path(request)[0], request.headers)
        routed = wire.ROUTED in request.headers
        streaming = wire.STREAMING in request.headers
        rows: list[bytes] = []
        for partition, (positions, keys) in self._grouped(view, request.body, routed).items():
            storage = view.storage(partition)
            try:
                for position, key, stored in zip(positions, keys, storage.multi_get(keys), strict=True):
                    if stored is not None:
                        _, offset, schema_id = view.known.get(stored[:PREFIX_SIZE]) or view.keep(stored)
                        rows.append(wire.encode_row(position, stored[offset:], schema_id))
                        continue
                    view.check_missing(key)
                    if streaming:
                        rows.append(wire.encode_missing(position))
            except (Corrupt, Unavailable) as error:
                raise self._failed(view, partition, error) from error
        if not streaming:
            return Response(200, view.batch_headers, b"".join(rows))
        if not routed:  # a router ends the stream itself
            rows.append(wire.encode_footer(wire.Footer(200)))
        return Response(200, view.stream_headers, b"".join(rows))

    def _grouped(self, view: OpenVersion, body: bytes, routed: bool) -> dict[int, tuple[list[int], list[bytes]]]:
        """The keys of a batch by partition, with their positions."""
        groups: dict[int, tuple[list[int], list[bytes]]] = {}
        keys: Sequence[tuple[int, bytes, int]] | Iterable[tuple[int, bytes, int]]
        try:
            if routed:
                keys = wire.decode_routed_keys(body)
                total = len(keys)
            else:
                plain = wire.decode_keys(body)
                total = len(plain)
                keys = ((position, key, partition_of(key, view.count)) for position, key in enumerate(plain))
        except Corrupt as error:
            raise InvalidRequest(
                f"the body is no list of keys: {error.message}", hint="docs/formats/wire.md shows how keys are sent"
            ) from error
        check_key_count(total, self._keys_max)
        for position, key, partition in keys:
            group = groups.get(partition)
            if group is None:
                group = groups[partition] = ([], [])
            group[0].append(position)
            group[1].append(key)
        return groups

    def _failed(self, view: OpenVersion, partition: int, error: Corrupt | Unavailable) -> Exception:
        if isinstance(error, Unavailable):
            return Misdirected(f"partition {partition} of {view.name!r} version {view.number} was closed just now")
        if self._on_corrupt is not None:
            self._on_corrupt(view.name, view.number, partition)
        return error

    def _view(self, store: bytes, headers: Mapping[bytes, bytes]) -> OpenVersion:
        catalog, replicas = self._catalog(), self._replicas()
        if catalog is not self._seen_catalog or replicas is not self._seen_replicas:
            self._look_again(catalog, replicas)
        pinned = headers.get(STORE_VERSION)
        view = self._views.get((store, pinned))
        if view is None:
            view = self._views[store, pinned] = self._make_view(
                catalog, replicas, store.decode("latin-1"), wire.number(headers, STORE_VERSION)
            )
        return view

    def _look_again(self, catalog: Catalog, replicas: OpenVersions) -> None:
        self._views.clear()
        known = self._versions
        self._versions = {}
        for name, number in replicas:
            store = catalog.stores.get(name)
            version = (store.version(number) if store else None) or known.get((name, number))
            if version is not None:
                self._versions[name, number] = version
        self._seen_catalog, self._seen_replicas = catalog, replicas

    def _make_view(self, catalog: Catalog, replicas: OpenVersions, name: str, pinned: int | None) -> OpenVersion:
        if pinned is not None and name not in catalog.stores:
            raise Misdirected(f"store {name!r} is not known here")  # whoever chose the version may know more
        store = metadata.store_of(catalog, name)
        number = store.current if pinned is None else pinned
        if number == NO_VERSION:
            raise no_version(name)
        version = self._versions.get((name, number))
        if version is None:
            raise Misdirected(f"version {number} of {name!r} is not open here")
        return OpenVersion(store, version, catalog.sequence, replicas[name, number])


def no_version(store: str) -> Unavailable:
    """The answer for a store that nothing was pushed to yet."""
    return Unavailable(f"store {store!r} has no version that serves", hint=f"push one: venice push {store} --input FILE", store=store)


def value_reader(store: Store, schema_id: int, unpack: Callable[[bytes], bytes] | None = None) -> Decode:
    """Decoder of values written with a schema of the store, and compressed to what `unpack` takes.

    Raises:
        Unavailable: The catalog does not know the schema yet.
    """
    text = next((schema.text for schema in store.value_schemas if schema.id == schema_id), None)
    if text is None:
        raise Unavailable(f"value schema {schema_id} of {store.name!r} is not known here yet", hint="try again")
    read = reader(text, text)
    return read if unpack is None else lambda data, offset=0, /: read(unpack(data[offset:]), 0)


def split_path(request: Request) -> tuple[bytes, bytes]:
    """Store and key of a path below /storage; the key is empty in a batch get.

    Raises:
        InvalidRequest: A GET names no key.
    """
    store, slash, key = request.target[len(_STORAGE) :].partition(b"?")[0].partition(b"/")
    if request.method == b"GET" and not slash:
        raise InvalidRequest("the path names no key", hint="GET /storage/{store}/{key}, or POST keys to /storage/{store}")
    return store, key
