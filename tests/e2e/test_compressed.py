"""Compressed versions in a real cluster: every compression, read by every client, written to in real time, queried, exported."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from waiting import eventually

from venice.client.changes import Change, ChangeFeed, ChangeReader
from venice.client.davinci import DaVinciClient
from venice.client.fast import AsyncFastClient, FastClient
from venice.client.producer import Producer
from venice.client.thin import AsyncThinClient, ThinClient
from venice.clock import SystemClock
from venice.config import Settings, environment, load
from venice.control.remote import ControllerClient
from venice.errors import NotFound
from venice.model import Compression, HybridConfig, StoreConfig
from venice.push.batch import push
from venice.sql import export, query
from venice.storage import packed

VALUE = json.dumps({"type": "record", "name": "Row", "fields": [{"name": "n", "type": "long"}, {"name": "text", "type": "string"}]})
SHARED = "the same text in all rows, " * 5 + "number "
ROWS = f"SELECT i AS key, i + {{plus}} AS n, '{SHARED}' || i AS text FROM range(2000) t(i)"
COMPRESSIONS = list(Compression)


def row(key: int, plus: int = 0) -> dict[str, Any]:
    return {"n": key + plus, "text": f"{SHARED}{key}"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[..., int]) -> Iterator[Settings]:
    from venice.supervisor import Cluster  # Not above: see `tests/clusters.py`.

    cluster = Cluster(
        load(
            data=tmp_path_factory.mktemp("data"),
            controller_url=f"http://127.0.0.1:{free_port()}",
            router_url=f"http://127.0.0.1:{free_port()}",
            worker_port=free_port(2),
            workers=2,
            checkpoint_records=50,
            checkpoint_s=1.0,
        )
    )
    cluster.start()
    yield cluster.settings
    cluster.stop()


def new_store(settings: Settings, name: str, compression: Compression, hybrid: HybridConfig | None = None) -> ControllerClient:
    client = ControllerClient(settings.controller_url, SystemClock())
    client.create_store(
        name, key_schema='"long"', value_schema=VALUE, hybrid=hybrid, config=StoreConfig(partition_count=3, compression=compression)
    )
    return client


def http(settings: Settings, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(f"{settings.router_url}{path}", body, {name.replace("_", "-"): text for name, text in headers.items()})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, {name.lower(): text for name, text in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, {}, error.read()


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_client_reads_what_was_pushed(settings: Settings, tmp_path: Path, compression: Compression) -> None:
    store = f"batch-{compression.value}"
    controller = new_store(settings, store, compression)
    result = push(settings, store, sql=ROWS.format(plus=0))
    expected = {key: row(key) for key in range(0, 2000, 7)}
    for open_client in (ThinClient, FastClient):
        with open_client(settings.router_url, store) as client:
            for _ in range(2):  # a fast client's second read of a size is another way than its first
                assert {key: client.get(key) for key in list(expected)[:20]} == {key: row(key) for key in list(expected)[:20]}
            assert client.batch_get([*expected, 5000]) == expected
            assert dict(client.streaming_batch_get([*expected, 5000])) == expected
            assert client.get(5000) is None

    async def read() -> None:
        for open_client in (AsyncThinClient, AsyncFastClient):
            async with open_client(settings.router_url, store) as client:
                assert await client.get(7) == row(7)
                assert await client.batch_get(expected) == expected

    asyncio.run(read())
    with DaVinciClient(settings, store, folder=tmp_path / "davinci") as davinci:
        assert davinci.get(7) == row(7)
        assert davinci.batch_get(expected) == expected
    with DaVinciClient(settings, store, folder=tmp_path / "davinci", cache_objects=10) as davinci:
        assert [davinci.get(7), davinci.get(7)] == [row(7), row(7)]
    status, headers, body = http(settings, f"/storage/{store}/7", accept="application/json")
    assert (status, json.loads(body)) == (200, row(7))
    assert headers["x-venice-compression-strategy"] == "none", "JSON is not compressed"
    status, _, body = http(settings, f"/storage/{store}", b"[7, 9000]", accept="application/json", content_type="application/json")
    assert (status, json.loads(body)) == (200, [{"key": 7, "value": row(7)}])
    assert query(settings, f'SELECT count(*) AS c, sum(n) AS s FROM "{store}"').to_pylist() == [{"c": 2000, "s": 1999000}]
    assert export(settings, store, to=tmp_path / "rows.parquet") == 2000
    assert {one["key"]: one["n"] for one in pq.read_table(tmp_path / "rows.parquet").to_pylist()} == {key: key for key in range(2000)}
    version = controller.list_versions(store)[-1].version
    assert (version.compression, version.value_bytes, version.compressed_bytes) == (
        compression, result.value_bytes, result.compressed_bytes
    )  # fmt: skip
    if compression is not Compression.NONE:
        assert version.value_bytes > version.compressed_bytes > 0


def test_a_dictionary_is_served_for_its_version_only(settings: Settings) -> None:
    controller = new_store(settings, "dictionaries", Compression.ZSTD_DICT)
    push(settings, "dictionaries", sql=ROWS.format(plus=0))
    status, headers, first = http(settings, "/dictionary/dictionaries/1")
    assert (status, headers["x-venice-store-version"], headers["content-type"]) == (200, "1", "application/octet-stream")
    assert SHARED.encode()[:20] in first
    controller.update_store("dictionaries", compression="gzip")
    push(settings, "dictionaries", sql=ROWS.format(plus=5))
    with ThinClient(settings.router_url, "dictionaries") as thin:
        assert thin.get(3) == row(3, 5)
        assert http(settings, "/dictionary/dictionaries/1")[2] == first, "the older version keeps its own"
        assert http(settings, "/dictionary/dictionaries/2")[0] == 404
        assert http(settings, "/dictionary/dictionaries/9")[0] == 404
        assert http(settings, "/dictionary/dictionaries/x")[0] == 400
        assert http(settings, "/dictionary/nothing/1")[0] == 404
        controller.rollback("dictionaries")
        eventually(lambda: thin.get(3) == row(3), timeout_s=30)


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
def test_writes_to_a_compressed_hybrid_version(settings: Settings, tmp_path: Path, compression: Compression) -> None:
    store = f"hybrid-{compression.value}"
    new_store(settings, store, compression, HybridConfig())
    push(settings, store, sql=ROWS.format(plus=0))
    with Producer(settings, store) as producer, ThinClient(settings.router_url, store) as thin:
        for key in range(300):
            producer.put(key, row(key, 1000), timestamp_ms=1_700_000_000_000 + key)
        # Equal times: the larger value stands, as if nothing were compressed.
        producer.put(299, {"n": 0, "text": "b" * 50}, timestamp_ms=1_800_000_000_000)
        producer.put(299, {"n": 0, "text": "a" * 50}, timestamp_ms=1_800_000_000_000)
        producer.delete(298)
        producer.flush()
        wanted = {key: row(key, 1000) for key in range(298)} | {299: {"n": 0, "text": "b" * 50}, 1500: row(1500)}
        eventually(lambda: thin.batch_get([*range(300), 1500]) == wanted, timeout_s=30)
        with DaVinciClient(settings, store, folder=tmp_path / "davinci") as davinci:
            eventually(lambda: davinci.batch_get([*range(300), 1500]) == wanted, timeout_s=30)
        assert query(settings, f'SELECT count(*) AS c FROM "{store}" WHERE n >= 1000 AND key < 298').to_pylist() == [{"c": 298}]
        with closing(ChangeFeed(settings.log_url, store, SystemClock())) as feed, ExitStack() as stack:
            readers = [stack.enter_context(closing(ChangeReader(feed, part, None, "beginning"))) for part in range(feed.parts)]
            changed = {key: value for key, value in wanted.items() if key < 300} | {298: None}
            assert changes(readers, 1, 302) == changed
            push(settings, store, sql=ROWS.format(plus=7))
            wanted[1500] = row(1500, 7)
            eventually(lambda: thin.batch_get([*range(300), 1500]) == wanted, timeout_s=30)
            if compression is Compression.ZSTD_DICT:
                lose_dictionary_for_a_while(settings, store, readers)
            assert changes(readers, 2, 302) == changed


def changes(readers: list[ChangeReader], version: int, count: int) -> dict[int, Any]:
    """The values after so many changes of a version at least, by key."""
    found: list[Change] = []

    def enough() -> bool:
        found.extend(change for reader in readers for change in reader.read() if change.version == version)
        return len(found) >= count and {298, 299} <= {change.key for change in found}

    eventually(enough, lambda: len(found), timeout_s=30)
    return {change.key: change.value for change in found}


def _reads_nothing_more(reader: ChangeReader) -> bool:
    reader.read()
    return False


def lose_dictionary_for_a_while(settings: Settings, store: str, readers: list[ChangeReader]) -> None:
    """A reader that cannot open the next version's dictionary says so, and takes nothing from the log that it would lose."""
    version = ControllerClient(settings.controller_url, SystemClock()).list_versions(store)[-1].version
    assert version.snapshot is not None
    manifest = Path(version.snapshot.uri) / "manifest.json"
    hidden = manifest.rename(manifest.with_name("hidden.json"))
    packed._kept.clear()
    try:
        for reader in readers:
            with pytest.raises(NotFound):
                eventually(partial(_reads_nothing_more, reader), timeout_s=30)  # until it comes to that version
    finally:
        hidden.rename(manifest)


def test_the_command_line_says_compression_and_ratio(settings: Settings) -> None:
    def venice(*arguments: str) -> str:
        command = [sys.executable, "-m", "venice.cli", *arguments]
        return subprocess.run(command, env=environment(settings), capture_output=True, text=True, check=True).stdout

    venice("store", "create", "told", "--key", "long", "--value", VALUE, "--compression", "zstd-dict")
    assert "zstd-dict" in venice("store", "describe", "told")
    assert "zstd-dict " in venice("push", "told", "--sql", ROWS.format(plus=0))
    line = venice("version", "list", "told").splitlines()[-1]
    assert "zstd-dict " in line
    venice("store", "update", "told", "--compression", "none")
    venice("push", "told", "--sql", ROWS.format(plus=0))
    assert "none" in venice("version", "list", "told").splitlines()[-1]
    wrong = subprocess.run(
        [sys.executable, "-m", "venice.cli", "store", "update", "told", "--compression", "lz9"],
        env=environment(settings), capture_output=True, text=True,
    )  # fmt: skip
    assert wrong.returncode != 0
    assert "'lz9'" in wrong.stderr
    assert "zstd-dict" in wrong.stderr
