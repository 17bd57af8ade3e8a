"""Source × type × compression × client: rows out equal rows in.

Each store has one pair of source and compression and one key type; its values are records of every type that the source can hold, and
every client reads every row. So each source meets each compression, each type stands in values of each source and compression that can
hold it, and everything is read by each client. Key types are dealt out to the pairs in turn, not each to each: what a source makes of a
type does not depend on which column it stands in.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import cycle, product
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matrix_kit import KINDS, SOURCES, Data, Servers, as_json, make_data, servers
from waiting import eventually

from venice.client.davinci import DaVinciClient
from venice.client.fast import AsyncFastClient, FastClient
from venice.client.thin import AsyncThinClient, ThinClient
from venice.clock import SystemClock
from venice.config import Settings, load
from venice.control.remote import ControllerClient
from venice.errors import InvalidRequest
from venice.model import Compression, StoreConfig
from venice.push.batch import push
from venice.sql import export, query

ROWS = 12
PAIRS = list(product(SOURCES, Compression))


def _cases() -> list[tuple[tuple[str, Compression], str]]:
    """(source and compression, key type), until each pair and each type has occurred."""
    pairs, keys = cycle(PAIRS), list(KINDS)
    cases = []
    for number in range(max(len(PAIRS), len(KINDS))):
        source, compression = next(pairs)
        key = keys[number % len(keys)]
        # What it cannot hold, another source has had or will have.
        held = (name for name in (key, "record", "string") if source not in KINDS[name].not_in)
        cases.append(((source, compression), next(held)))
    assert {key for _, key in cases} == set(KINDS), "some type is no key anywhere"
    return cases


CASES = _cases()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[..., int]) -> Iterator[Settings]:
    from venice.supervisor import Cluster  # Not above: see `tests/clusters.py`.

    cluster = Cluster(
        load(
            data=tmp_path_factory.mktemp("data"),
            controller_url=f"http://127.0.0.1:{free_port()}",
            router_url=f"http://127.0.0.1:{free_port()}",
            worker_port=free_port(1),
            workers=1,
        )
    )
    cluster.start()
    yield cluster.settings
    cluster.stop()


@pytest.fixture(scope="module")
def there(free_port: Callable[..., int]) -> Iterator[Servers]:
    with servers(free_port) as found:
        yield found


@pytest.fixture(scope="module")
def pushed(settings: Settings, there: Servers, tmp_path_factory: pytest.TempPathFactory) -> list[Data | None]:
    """The rows of each store, which serves them: a push mostly waits for its version to be loaded, so several wait at a time."""

    def make(number: int) -> Data | None:
        (source, compression), key = CASES[number]
        if source == "postgres" and there.postgres is None:
            return None
        data = make_data(source, key, rows=ROWS, seed=number)
        config = StoreConfig(partition_count=2, compression=compression)
        controller = ControllerClient(settings.controller_url, SystemClock())
        controller.create_store(f"m{number}", key_schema=data.key_schema, value_schema=data.value_schema, config=config)
        given = SOURCES[source](data, tmp_path_factory.mktemp(f"source{number}"), there)
        result = push(settings, f"m{number}", key="key", **given)
        assert (result.rows, result.skipped, result.duplicates) == (len(data.rows), 0, 0)
        return data

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(make, range(len(CASES))))


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{source}-{compression.value}-{key}" for (source, compression), key in CASES])
def test_rows_out_equal_rows_in(settings: Settings, pushed: list[Data | None], tmp_path: Path, number: int) -> None:
    data, store = pushed[number], f"m{number}"
    if data is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")  # not every developer has it
    wanted = {repr(key): repr(value) for key, value in data.rows}
    for open_client in (ThinClient, FastClient):
        with open_client(settings.router_url, store) as client:
            check(client, data, wanted)
    with DaVinciClient(settings, store, folder=tmp_path / "davinci") as davinci:
        check(davinci, data, wanted)
    asyncio.run(check_async(settings.router_url, store, data, wanted))
    check_http(settings.router_url, store, data)
    check_tables(settings, store, data, tmp_path)


def check(client: Any, data: Data, wanted: dict[str, str]) -> None:
    keys = [key for key, _ in data.rows]
    assert {repr(key): repr(client.get(key)) for key in keys} == wanted
    assert {repr(key): repr(value) for key, value in client.streaming_batch_get(keys)} == wanted
    hashed = [key for key in keys if not isinstance(key, dict | list)]
    if len(hashed) < len(keys) or len(set(hashed)) < len(hashed):  # 0 and False, 0.0 and -0.0 are one to a dict
        with pytest.raises(InvalidRequest, match=r"dict|equal in Python"):
            client.batch_get(keys)
        hashed = list(dict.fromkeys(hashed))
    assert {repr(key): repr(value) for key, value in client.batch_get(hashed).items()} == {repr(key): wanted[repr(key)] for key in hashed}


async def check_async(url: str, store: str, data: Data, wanted: dict[str, str]) -> None:
    keys = [key for key, _ in data.rows]
    for open_client in (AsyncThinClient, AsyncFastClient):
        async with open_client(url, store) as client:
            assert repr(await client.get(keys[0])) == wanted[repr(keys[0])]
            assert {repr(key): repr(value) async for key, value in client.streaming_batch_get(keys)} == wanted


def http(url: str, body: Any = None) -> Any:
    headers = {"accept": "application/json"} | ({"content-type": "application/json"} if body is not None else {})
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def check_http(url: str, store: str, data: Data) -> None:
    """As curl does it. That `?f=b64` gives the Avro bytes is what the clients above live on."""
    plain = json.loads(data.key_schema) == "string"
    for key, value in data.rows:
        text = key if plain else json.dumps(as_json(key))
        assert http(f"{url}/storage/{store}/{quote(text, safe='')}") == as_json(value), key
    found = http(f"{url}/storage/{store}", [as_json(key) for key, _ in data.rows])
    assert found == [{"key": as_json(key), "value": as_json(value)} for key, value in data.rows]


def check_tables(settings: Settings, store: str, data: Data, folder: Path) -> None:
    export(settings, store, to=folder / "out.parquet")
    for found in (query(settings, f"FROM {store}"), pq.read_table(folder / "out.parquet")):
        assert sorted(map(repr, plain(found, data))) == sorted(map(repr, data.table.to_pylist(maps_as_pydicts="strict")))


def plain(found: pa.Table, data: Data) -> list[dict[str, Any]]:
    """The rows of a table that was read, with the columns of the one that was pushed."""
    if "key" not in found.column_names:  # A record's fields are columns of their own.
        names = [field["name"] for field in json.loads(data.key_schema)["fields"]]
        rows = found.to_pylist(maps_as_pydicts="strict")
        return [{"key": {name: row.pop(name) for name in names}, **row} for row in rows]
    return list(found.to_pylist(maps_as_pydicts="strict"))


def evolving(*fields: dict[str, Any]) -> str:
    return json.dumps({"type": "record", "name": "Row", "fields": [{"name": "n", "type": "long"}, *fields]})


OLD = evolving({"name": "removed", "type": "string", "default": "gone"}, {"name": "before", "type": "int", "default": 0})
NEW = evolving(
    {"name": "added", "type": ["null", "double"], "default": None},
    {"name": "after", "aliases": ["before"], "type": "int", "default": 7},
)


def test_rows_are_read_in_the_newest_schema_that_a_client_knows(settings: Settings, tmp_path: Path) -> None:
    """Rows of each schema, read by clients from before and after the newer one: a field that is new, removed, under another name."""
    controller = ControllerClient(settings.controller_url, SystemClock())
    controller.create_store("evolving", key_schema='"long"', value_schema=OLD, config=StoreConfig(partition_count=2))
    push(settings, "evolving", sql="SELECT 1::BIGINT AS key, 10::BIGINT AS n, 'x' AS removed, 5 AS before")
    old_row = {"n": 10, "removed": "x", "before": 5}
    with ExitStack() as stack:
        early = open_all(settings, tmp_path / "early", stack)
        assert [client.get(1) for client in early] == [old_row] * 3
        controller.add_schema("evolving", NEW)
        late = open_all(settings, tmp_path / "late", stack)
        old_as_new = {"n": 10, "added": None, "after": 5}
        assert [client.get(1) for client in late] == [old_as_new] * 3, "written in the old one"
        for client in early:  # those that go on hear of it in their own time; until then as before
            assert client.get(1) in (old_row, old_as_new)
        push(settings, "evolving", sql="SELECT 1::BIGINT AS key, 11::BIGINT AS n, 0.5::DOUBLE AS added, 6 AS after")
        new_row = {"n": 11, "added": 0.5, "after": 6}
        for client in (*early, *late):
            eventually(partial(reads, client, new_row), timeout_s=30)
            assert client.batch_get([1, 2]) == {1: new_row}
        controller.rollback("evolving")
        for client in (*early, *late):
            eventually(partial(reads, client, old_as_new), timeout_s=30)


def reads(client: Any, row: dict[str, Any]) -> bool:
    return bool(client.get(1) == row)


def open_all(settings: Settings, folder: Path, stack: ExitStack) -> list[Any]:
    return [
        stack.enter_context(ThinClient(settings.router_url, "evolving")),
        stack.enter_context(FastClient(settings.router_url, "evolving")),
        stack.enter_context(DaVinciClient(settings, "evolving", folder=folder)),
    ]
