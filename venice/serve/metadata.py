"""What the catalog knows of a store, as answers: the same from a router and from any worker.

Read path: client → wire → **metadata** → catalog.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from venice import wire
from venice.control.catalog import Catalog
from venice.errors import InvalidRequest, NotFound, Unavailable
from venice.message import Headers, Request, Response
from venice.model import NO_VERSION, Assignment, Store

_POLL_S = 0.002


def answer(catalog: Catalog, request: Request) -> Response:
    """The answer to every path but /storage.

    Raises:
        NotFound: No such path, store or schema.
        InvalidRequest: The path names no schema id.
    """
    path = request.target.partition(b"?")[0].decode("latin-1")
    name, _, rest = path[1:].partition("/")
    if request.method != b"GET":
        return refuse_method(request, b"GET")
    if name == "health" and not rest:
        return _json(catalog, {"status": "ok", "sequence": catalog.sequence})
    view = _VIEWS.get(name)
    store_name, slash, schema_id = rest.partition("/")
    if view is None or (slash and name != "value_schema"):
        raise NotFound(f"no path {path!r}", hint="the paths are listed in docs/formats/wire.md")
    store = store_of(catalog, store_name)
    if slash:
        return _json(catalog, _one_schema(store, schema_id))
    return _json(catalog, view(catalog, store))


def refuse_method(request: Request, allowed: bytes) -> Response:
    """405, with the methods that the path takes."""
    method = request.method.decode("latin-1")
    error = InvalidRequest(f"{method} is not allowed on this path", hint=f"use {allowed.decode()}")
    return wire.error_response(error, 405, {b"allow": allowed})


def store_of(catalog: Catalog, name: str) -> Store:
    """The store of that name. Raises NotFound, naming those there are."""
    store = catalog.stores.get(name)
    if store is None:
        known = ", ".join(sorted(catalog.stores)[:10]) or "none yet"
        raise NotFound(f"no store {name[:128]!r}", hint=f"stores there are: {known}", store=name[:128])
    return store


def metadata_of(catalog: Catalog, store: Store) -> wire.Metadata:
    """What a client needs to read the store. Where nothing serves yet, version and partition count are 0."""
    version = store.version(store.current)
    assignment = catalog.assignments.get((store.name, store.current))
    return wire.Metadata(
        store=store.name,
        sequence=catalog.sequence,
        version=version.number if version else NO_VERSION,
        partition_count=version.partition_count if version else 0,
        compression=version.compression.value if version else "none",
        key_schema=store.key_schema,
        value_schemas=store.value_schemas,
        replicas=replica_urls(catalog, assignment) if assignment else (),
    )


def replica_urls(catalog: Catalog, assignment: Assignment) -> tuple[tuple[str, ...], ...]:
    """URLs of the workers that hold each partition; workers the catalog does not know are left out."""
    workers = catalog.workers
    return tuple(tuple(workers[worker].url for worker in ids if worker in workers) for ids in assignment.replicas)


def misdirected(catalog: Catalog, store: str, message: str) -> Response:
    """421: this process cannot answer; what it knows of the store comes along so that the caller can go elsewhere."""
    found = catalog.stores.get(store)
    facts = wire.metadata_facts(metadata_of(catalog, found)) if found else None
    error = Unavailable(message, hint="redo the whole call on fresh metadata", store=store, sequence=catalog.sequence, metadata=facts)
    return wire.error_response(error, wire.MISDIRECTED, {wire.CATALOG_SEQUENCE: b"%d" % catalog.sequence})


async def catalog_from(source: Callable[[], Catalog], sequence: int, timeout_s: float) -> Catalog:
    """The catalog once it has come to `sequence`.

    Raises:
        Unavailable: It has not within `timeout_s`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while (catalog := source()).sequence < sequence:
        if loop.time() >= deadline:
            raise Unavailable(
                f"this process knows the catalog up to {catalog.sequence}, and {sequence} is asked for",
                hint="try again; if the cluster was made anew, open a new client",
                sequence=catalog.sequence,
            )
        await asyncio.sleep(_POLL_S)
    return catalog


def _json(catalog: Catalog, facts: Any) -> Response:
    headers = Headers({**wire.COMMON, wire.CATALOG_SEQUENCE: b"%d" % catalog.sequence, b"content-type": wire.JSON})
    return Response(200, headers, wire.encode_json(facts))


def _current_version(catalog: Catalog, store: Store) -> dict[str, Any]:
    return {"store": store.name, "version": store.current, "sequence": catalog.sequence}


def _key_schema(catalog: Catalog, store: Store) -> dict[str, Any]:
    return {"store": store.name, "id": 1, "schema": store.key_schema}


def _value_schemas(catalog: Catalog, store: Store) -> dict[str, Any]:
    return {"store": store.name, "schemas": [{"id": schema.id, "schema": schema.text} for schema in store.value_schemas]}


def _one_schema(store: Store, text: str) -> dict[str, Any]:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidRequest(f"{text[:20]!r} is not a schema id", hint="schema ids are numbers from 1")
    for schema in store.value_schemas:
        if schema.id == int(text):
            return {"store": store.name, "id": schema.id, "schema": schema.text}
    ids = ", ".join(str(schema.id) for schema in store.value_schemas)
    raise NotFound(f"store {store.name!r} has no value schema {text}", hint=f"its schema ids are: {ids}", store=store.name)


_VIEWS: Mapping[str, Callable[[Catalog, Store], dict[str, Any]]] = {
    "metadata": lambda catalog, store: wire.metadata_facts(metadata_of(catalog, store)),
    "current_version": _current_version,
    "key_schema": _key_schema,
    "value_schema": _value_schemas,
}
