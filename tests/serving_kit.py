"""A cluster's read path in one process: catalogs made by hand, replicas in RAM, workers and router behind real sockets."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from venice.control.catalog import Catalog
from venice.message import Headers, Request, Response
from venice.model import Assignment, Store, StoreConfig, ValueSchema, Version, VersionStatus, Worker
from venice.rules.partitioning import partition_of
from venice.schema.codec import Codec, key_codec
from venice.serve.http import HttpServer
from venice.serve.requests import Limits
from venice.serve.router import Router
from venice.serve.server import WorkerHandler
from venice.storage import Identity, Mutation, PartitionStorage, Position
from venice.storage.format import encode_value
from venice.storage.memory import MemoryStorage

KEY_SCHEMA = '"long"'
VALUE_SCHEMA = json.dumps(
    {"type": "record", "name": "Row", "fields": [{"name": "edition", "type": "int"}, {"name": "name", "type": "string"}]}
)
WIDER_SCHEMA = json.dumps(
    {
        "type": "record",
        "name": "Row",
        "fields": [
            {"name": "edition", "type": "int"},
            {"name": "name", "type": "string"},
            {"name": "extra", "type": "double", "default": 0.5},
        ],
    }
)

StoragesOf = dict[tuple[str, int], dict[int, PartitionStorage]]


def a_version(number: int, partition_count: int) -> Version:
    return Version(
        number=number,
        push_id=f"push-{number}",
        status=VersionStatus.ONLINE,
        partition_count=partition_count,
        replication_factor=1,
        topic_id=f"topic-{number}",
        created_ms=0,
        status_ms=0,
        value_schema_id=1,
    )


def a_store(name: str, key_schema: str = KEY_SCHEMA, *value_schemas: str) -> Store:
    schemas = tuple(ValueSchema(id=id_, text=text) for id_, text in enumerate(value_schemas or (VALUE_SCHEMA,), 1))
    return Store(name=name, owner="tests", key_schema=key_schema, value_schemas=schemas, config=StoreConfig())


def row(key: int, edition: int) -> dict[str, Any]:
    return {"edition": edition, "name": f"row {key}"}


def ask(handler: Callable[[Request], Any], method: str, target: str, body: bytes = b"", /, **headers: str) -> Response:
    """A request straight into a handler, without sockets; `store_version="1"` is the header X-VENICE-STORE-VERSION."""
    fields = {}
    for name, value in headers.items():
        known = name.replace("_", "-")
        fields[(known if known in ("accept", "content-type") else f"x-venice-{known}").encode()] = value.encode()
    answer = handler(Request(method.encode(), target.encode(), Headers(fields), body))
    assert isinstance(answer, Response)
    return answer


@dataclass
class ServedWorker:
    """A worker: what it holds, and its endpoint."""

    id: str
    replicas: Mapping[tuple[str, int], Mapping[int, PartitionStorage]] = field(default_factory=dict)
    corrupt: list[tuple[str, int, int]] = field(default_factory=list)
    server: HttpServer | None = None
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, catalog: Callable[[], Catalog]) -> None:
        handler = WorkerHandler(catalog, lambda: self.replicas, on_corrupt=lambda *replica: self.corrupt.append(replica))
        self.server = HttpServer(handler.handle, "127.0.0.1", self.port, Limits(drain_s=1.0), lanes=handler.lane)
        self.server.start()
        self.port = self.server.port

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None


class ServedCluster:
    """Workers, a catalog that tests change, and a router. `catalog` is what router and workers see."""

    def __init__(self, worker_count: int = 1, *, deadline_s: float = 5.0, attempt_s: float = 2.0) -> None:
        self.catalog = Catalog()
        self.workers = [ServedWorker(f"w{number}") for number in range(worker_count)]
        for worker in self.workers:
            worker.start(lambda: self.catalog)
        self.router = Router(self, deadline_s=deadline_s, attempt_s=attempt_s)
        self.server = HttpServer(self.router.handle, "127.0.0.1", 0, Limits(drain_s=1.0), self.router.close, self.router.lane)
        self.server.start()
        self.advance(workers={worker.id: Worker(id=worker.id, url=worker.url, incarnation="1") for worker in self.workers})

    @property
    def url(self) -> str:
        return self.server.url

    def close(self) -> None:
        self.server.stop()
        for worker in self.workers:
            worker.stop()

    def advance(self, **changes: Any) -> None:
        """The next catalog: as the one before, but for `changes`."""
        self.catalog = replace(self.catalog, sequence=self.catalog.sequence + 1, **changes)

    def add_store(self, store: Store) -> None:
        self.advance(stores={**self.catalog.stores, store.name: store})

    def push(
        self,
        store: str,
        rows: Mapping[Any, Any] | Iterable[tuple[Any, Any]],
        *,
        partition_count: int = 4,
        replication: int = 1,
        schema_id: int = 1,
        swap: bool = True,
        storage: Callable[[Identity], PartitionStorage] = MemoryStorage,
    ) -> int:
        """A new version of `rows`, spread over the workers; current unless `swap` is false. Returns its number."""
        before = self.catalog.stores[store]
        number = before.largest_version + 1
        keys = key_codec(before.key_schema)
        values = Codec(before.value_schemas[schema_id - 1].text)
        mutations: dict[int, list[Mutation]] = {partition: [] for partition in range(partition_count)}
        for key, value in rows.items() if isinstance(rows, Mapping) else rows:
            raw = keys.encode(key)
            mutations[partition_of(raw, partition_count)].append(Mutation(raw, encode_value(schema_id, values.encode(value))))
        holders: list[tuple[str, ...]] = []
        for partition, changes in mutations.items():
            chosen = [self.workers[(partition + copy) % len(self.workers)] for copy in range(replication)]
            holders.append(tuple(worker.id for worker in chosen))
            for worker in chosen:
                identity = Identity(store=store, version=number, partition=partition, topic_id="t", incarnation=f"{worker.id}-{number}")
                held = storage(identity)
                held.apply(changes, Position(next_offset=1))
                version_replicas = {**worker.replicas.get((store, number), {}), partition: held}
                worker.replicas = {**worker.replicas, (store, number): version_replicas}
        version = a_version(number, partition_count)
        after = replace(before, versions=(*before.versions, version), largest_version=number, current=number if swap else before.current)
        self.advance(
            stores={**self.catalog.stores, store: after},
            assignments={**self.catalog.assignments, (store, number): Assignment(store=store, version=number, replicas=tuple(holders))},
        )
        return number

    def swap(self, store: str, number: int) -> None:
        self.advance(stores={**self.catalog.stores, store: replace(self.catalog.stores[store], current=number)})

    def retire(self, store: str, number: int) -> None:
        """Take the version out of the catalog, as the controller does; workers still hold it."""
        before = self.catalog.stores[store]
        assignments = {key: value for key, value in self.catalog.assignments.items() if key != (store, number)}
        after = replace(before, versions=tuple(version for version in before.versions if version.number != number))
        self.advance(stores={**self.catalog.stores, store: after}, assignments=assignments)

    def drop(self, store: str, number: int) -> None:
        """Close the version's replicas, as workers do after their grace."""
        for worker in self.workers:
            held = worker.replicas.get((store, number), {})
            worker.replicas = {key: value for key, value in worker.replicas.items() if key != (store, number)}
            for storage in held.values():
                storage.close()


@contextlib.contextmanager
def cluster_of(worker_count: int = 1, **options: float) -> Iterator[ServedCluster]:
    cluster = ServedCluster(worker_count, **options)
    try:
        yield cluster
    finally:
        cluster.close()
