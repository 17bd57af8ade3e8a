"""Da Vinci: the same answers as through the network, from a replica of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import waiting

from venice.client.davinci import AsyncDaVinciClient, DaVinciClient
from venice.client.producer import Producer
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings, load
from venice.control.remote import ControllerClient
from venice.errors import Conflict, InvalidRequest, NotFound, Unavailable
from venice.model import HybridConfig
from venice.push.batch import push
from venice.supervisor import Cluster

eventually = partial(waiting.eventually, timeout_s=30)
ROW = json.dumps(
    {
        "type": "record",
        "name": "Row",
        "fields": [
            {"name": "edition", "type": "int"},
            {"name": "name", "type": ["null", "string"], "default": None},
            {"name": "vector", "type": {"type": "array", "items": "float"}},
        ],
    }
)


def rows(edition: int, count: int = 500) -> str:
    return (
        f"SELECT i AS key, {edition}::INT AS edition, CASE WHEN i % 5 > 0 THEN 'row ' || i END AS name,"
        f" [i::FLOAT, 0.5::FLOAT] AS vector FROM range({count}) t(i)"
    )


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[..., int]) -> Iterator[Settings]:
    made = load(
        data=tmp_path_factory.mktemp("davinci") / "data",
        controller_url=f"http://127.0.0.1:{free_port()}",
        router_url=f"http://127.0.0.1:{free_port()}",
        worker_port=free_port(),
        retire_grace_s=0.5,
    )
    cluster = Cluster(made)
    cluster.start()
    yield made
    cluster.stop()


@pytest.fixture
def controller(settings: Settings) -> ControllerClient:
    return ControllerClient(settings.controller_url, SystemClock())


@pytest.fixture
def store(settings: Settings, controller: ControllerClient, request: pytest.FixtureRequest) -> str:
    """A store of this test's own with one version."""
    name: str = request.node.name.removeprefix("test_")[:60].rstrip("_")
    controller.create_store(name, key_schema='"long"', value_schema=ROW)
    push(settings, name, sql=rows(1))
    return name


def test_it_answers_what_the_thin_client_answers(settings: Settings, store: str) -> None:
    keys = [*range(0, 500, 7), 10_000]
    with DaVinciClient(settings, store) as davinci, ThinClient(settings.router_url, store) as thin:
        assert [davinci.get(key) for key in keys] == [thin.get(key) for key in keys]
        assert davinci.get(10_000) is None
        assert davinci.batch_get(keys) == thin.batch_get(keys)
        assert list(davinci.streaming_batch_get(keys)) == [(key, davinci.get(key)) for key in keys[:-1]]
        assert davinci.version == 1


def test_it_follows_swap_and_rollback(settings: Settings, controller: ControllerClient, store: str) -> None:
    with DaVinciClient(settings, store) as davinci:
        push(settings, store, sql=rows(2))
        eventually(lambda: davinci.get(3)["edition"] == 2)
        controller.rollback(store)
        eventually(lambda: davinci.get(3)["edition"] == 1)
        controller.roll_forward(store)
        eventually(lambda: davinci.get(3)["edition"] == 2)


def test_what_a_caller_does_to_a_cached_value_changes_nothing_for_the_next(settings: Settings, store: str) -> None:
    with DaVinciClient(settings, store, cache_objects=10) as davinci:
        expected = {"edition": 1, "name": "row 3", "vector": [3.0, 0.5]}
        for _ in range(3):
            row = davinci.get(3)
            assert row == expected
            row["vector"].append(9.0)
            row["name"] = "spoilt"
        for key in range(50):  # far more than the cache holds
            assert davinci.get(key)["vector"][0] == key


def test_the_cache_tells_keys_of_different_types_apart(settings: Settings, store: str) -> None:
    with DaVinciClient(settings, store, cache_objects=10) as davinci:
        assert davinci.get(1) is not None
        for wrong in (1.0, True, "1"):
            with pytest.raises(InvalidRequest):
                davinci.get(wrong)


def test_a_swap_ends_what_the_cache_knows(settings: Settings, store: str) -> None:
    with DaVinciClient(settings, store, cache_objects=100) as davinci:
        assert davinci.get(3)["edition"] == 1
        push(settings, store, sql=rows(2))
        eventually(lambda: davinci.get(3)["edition"] == 2)


def test_a_restart_goes_on_with_what_is_there(settings: Settings, store: str, tmp_path: Path) -> None:
    def directories() -> set[Path]:
        return set((tmp_path / "replicas").glob("*/*"))

    with DaVinciClient(settings, store, folder=tmp_path) as davinci:
        assert davinci.get(3) is not None
    before = directories()
    with DaVinciClient(settings, store, folder=tmp_path) as davinci:
        assert davinci.get(3) is not None
        assert directories() == before


def test_one_client_at_a_time_uses_a_folder(settings: Settings, store: str, tmp_path: Path) -> None:
    with DaVinciClient(settings, store, folder=tmp_path), pytest.raises(Conflict, match="another Da Vinci client"):
        DaVinciClient(settings, store, folder=tmp_path)


def test_an_unknown_store_is_named_with_those_there_are(settings: Settings, store: str) -> None:
    with pytest.raises(NotFound, match="nowhere") as raised:
        DaVinciClient(settings, "nowhere")
    assert store in raised.value.hint


def test_a_store_without_a_version_is_not_waited_for_for_ever(settings: Settings, controller: ControllerClient) -> None:
    controller.create_store("empty", key_schema='"long"', value_schema=ROW)
    with pytest.raises(Unavailable, match="no version of 'empty'"):
        DaVinciClient(settings, "empty", ready_timeout_s=0.3)


def test_a_key_of_the_wrong_type_is_refused(settings: Settings, store: str) -> None:
    with DaVinciClient(settings, store) as davinci:
        with pytest.raises(InvalidRequest):
            davinci.get("three")
        with pytest.raises(InvalidRequest):
            davinci.batch_get([1, "three"])


def test_a_closed_client_says_so(settings: Settings, store: str) -> None:
    davinci = DaVinciClient(settings, store)
    davinci.close()
    davinci.close()
    with pytest.raises(Unavailable, match="closed"):
        davinci.get(1)
    with pytest.raises(Unavailable, match="closed"):
        davinci.batch_get([1])


def test_a_deferred_version_is_held_and_waits_for_the_swap(settings: Settings, controller: ControllerClient, store: str) -> None:
    with DaVinciClient(settings, store) as davinci:
        push(settings, store, sql=rows(2), deferred_swap=True)
        eventually(lambda: (store, 2) in davinci._replicas.open)
        assert davinci.version == 1
        controller.roll_forward(store)
        eventually(lambda: davinci.version == 2)


def test_rows_of_a_schema_registered_later_are_read(settings: Settings, controller: ControllerClient) -> None:
    controller.create_store("later", key_schema='"long"', value_schema=ROW, hybrid=HybridConfig(rewind_s=60))
    push(settings, "later", sql=rows(1))
    with DaVinciClient(settings, "later") as davinci:
        wider = json.loads(ROW)
        wider["fields"].append({"name": "note", "type": "string", "default": "none"})
        controller.add_schema("later", json.dumps(wider))
        with Producer(settings, "later") as producer:
            producer.put(3, {"edition": 2, "name": None, "vector": [], "note": "new"}).result(30)
        eventually(lambda: davinci.get(3) == {"edition": 2, "name": None, "vector": [], "note": "new"})
        assert davinci.get(4)["note"] == "none"


def test_record_keys_come_as_pairs(settings: Settings, controller: ControllerClient) -> None:
    key = {"type": "record", "name": "Key", "fields": [{"name": "a", "type": "long"}, {"name": "b", "type": "string"}]}
    controller.create_store("record-keys", key_schema=json.dumps(key), value_schema=ROW)
    push(
        settings,
        "record-keys",
        sql="SELECT i AS a, 'b' || i AS b, 1::INT AS edition, NULL::VARCHAR AS name, [1::FLOAT] AS vector FROM range(9) t(i)",
    )
    with DaVinciClient(settings, "record-keys", cache_objects=5) as davinci:
        wanted: list[Any] = [{"a": 4, "b": "b4"}, {"a": 4, "b": "other"}]
        assert davinci.get(wanted[0])["edition"] == 1
        assert [pair[0] for pair in davinci.streaming_batch_get(wanted)] == wanted[:1]
        with pytest.raises(InvalidRequest, match="streaming_batch_get"):
            davinci.batch_get(wanted)


def test_the_async_twin_answers_the_same(settings: Settings, store: str) -> None:
    async def read() -> None:
        async with AsyncDaVinciClient(settings, store) as davinci:
            assert davinci.version == 1
            assert (await davinci.get(3))["name"] == "row 3"
            assert set(await davinci.batch_get([1, 2, 10_000])) == {1, 2}
            assert [key async for key, _ in davinci.streaming_batch_get([1, 2])] == [1, 2]
        with pytest.raises(Unavailable, match="not open"):
            await davinci.get(3)

    asyncio.run(read())
