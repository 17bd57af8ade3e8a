"""The view of a version: which key finds which row, with and without the cache of decoded values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from venice.client.view import View, view_of
from venice.errors import InvalidRequest
from venice.model import Store, StoreConfig, ValueSchema, Version, VersionStatus
from venice.schema.codec import Codec, key_codec
from venice.storage import Identity, Mutation, Position
from venice.storage.format import encode_value
from venice.storage.memory import MemoryStorage

MAP = json.dumps({"type": "map", "values": "int"})


VALUES = '{"type": "array", "items": "int"}'


def a_view(key_schema: str, rows: list[tuple[Any, Any]], *, cache_bytes: int = 0, cache_objects: int = 0) -> View:
    version = Version(
        number=1,
        push_id="p",
        status=VersionStatus.ONLINE,
        partition_count=1,
        replication_factor=1,
        topic_id="t",
        created_ms=0,
        status_ms=0,
        value_schema_id=1,
    )
    store = Store(
        name="s",
        owner="",
        key_schema=key_schema,
        value_schemas=(ValueSchema(id=1, text=VALUES),),
        config=StoreConfig(),
        versions=(version,),
        current=1,
        largest_version=1,
    )
    storage = MemoryStorage(Identity(store="s", version=1, partition=0, topic_id="t", incarnation="i"))
    keys, values = key_codec(key_schema), Codec(VALUES)
    storage.apply([Mutation(keys.encode(key), encode_value(1, values.encode(value)), None) for key, value in rows], Position(next_offset=0))
    return view_of(store, version, (storage,), cache_bytes=cache_bytes, cache_objects=cache_objects)


@pytest.mark.parametrize("room", [{}, {"cache_bytes": 10_000}, {"cache_objects": 10}])
def test_a_map_is_one_key_in_whatever_order_it_was_made(room: dict[str, int]) -> None:
    view = a_view(MAP, [({"a": 1, "b": 2}, [7])], **room)
    for key in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 2}):
        assert view.get(key) == [7]


@pytest.mark.parametrize(
    ("key_schema", "keys", "wrong"),
    [
        ('"long"', [1, -5, 2**40], [1.0, True, "1"]),
        ('"string"', ["1", "ü"], [b"1", 1]),
        ('"bytes"', [b"1"], ["1"]),
        ('"double"', [1.5, 2.0], [True]),
    ],
)
def test_kept_values_are_found_by_their_own_keys_only(key_schema: str, keys: list[Any], wrong: list[Any]) -> None:
    view = a_view(key_schema, [(key, [number]) for number, key in enumerate(keys)], cache_objects=10)
    for _ in range(3):
        for number, key in enumerate(keys):
            found = view.get(key)
            assert found == [number]
            found.append(99)
    for key in wrong:
        with pytest.raises(InvalidRequest):
            view.get(key)
