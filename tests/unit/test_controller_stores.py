"""Stores and schemas under commands: what is allowed, and what a refusal says."""

from __future__ import annotations

import pytest
from control_fixtures import controller, log
from control_kit import KEY_SCHEMA

from venice.control.controller import Controller
from venice.errors import Conflict, Incompatible, InvalidRequest, NotFound
from venice.model import StoreConfig

__all__ = ["controller", "log"]  # Fixtures: pytest finds them by their names here.

V1 = '{"type": "record", "name": "City", "fields": [{"name": "people", "type": "int"}]}'
V2 = '{"type": "record", "name": "City", "fields": [{"name": "people", "type": "int"}, {"name": "mayor", "type": "string", "default": ""}]}'
BAD = '{"type": "record", "name": "City", "fields": [{"name": "people", "type": "string"}]}'


def test_a_store_is_created_listed_changed_and_deleted(controller: Controller) -> None:
    made = controller.create_store("cities", key_schema=KEY_SCHEMA, value_schema=V1, owner="maps")
    assert (made.name, made.owner, made.current, made.config) == ("cities", "maps", 0, StoreConfig())
    controller.create_store("airports", key_schema=KEY_SCHEMA)
    assert [store.name for store in controller.list_stores()] == ["airports", "cities"]
    changed = controller.update_store("cities", config={"partition_count": 2})
    assert (changed.config, changed.owner) == (StoreConfig(partition_count=2), "maps")
    assert controller.update_store("cities", owner="me").config.partition_count == 2
    controller.delete_store("cities")
    assert [store.name for store in controller.list_stores()] == ["airports"]


def test_an_unknown_store_is_guessed_at(controller: Controller) -> None:
    controller.create_store("flights", key_schema=KEY_SCHEMA)
    with pytest.raises(NotFound) as caught:
        controller.get_store("flihgts")
    assert caught.value.message == "no store 'flihgts'"
    assert caught.value.hint.startswith("did you mean 'flights'?")
    with pytest.raises(NotFound, match="no store 'x'"):
        controller.update_store("x", owner="me")
    with pytest.raises(NotFound, match="no store 'x'"):
        controller.delete_store("x")


def test_a_store_exists_once(controller: Controller) -> None:
    controller.create_store("s", key_schema=KEY_SCHEMA)
    with pytest.raises(Conflict, match="store 's' exists already"):
        controller.create_store("s", key_schema=KEY_SCHEMA)


@pytest.mark.parametrize("name", ["", "a b", "venice_x", "-a", "a" * 129, "../a", "a/b"])
def test_names(controller: Controller, name: str) -> None:
    with pytest.raises(InvalidRequest, match="store name"):
        controller.create_store(name, key_schema=KEY_SCHEMA)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"partition_count": 0}, "partition_count cannot be 0"),
        ({"replication_factor": 17}, "replication_factor cannot be 17"),
        ({"versions_preserved": 0}, "versions_preserved cannot be 0"),
        ({"record_bytes_max": -1}, "record_bytes_max cannot be -1"),
        ({"color": 3}, "a store has no setting 'color'"),
    ],
)
def test_settings_are_checked_and_nothing_is_written(controller: Controller, config: dict[str, int], message: str) -> None:
    controller.create_store("s", key_schema=KEY_SCHEMA)
    sequence = controller.catalog.sequence
    with pytest.raises(InvalidRequest, match=message):
        controller.update_store("s", config=config)
    assert controller.catalog.sequence == sequence


def test_schemas_get_ids_from_1_and_identical_ones_keep_theirs(controller: Controller) -> None:
    controller.create_store("s", key_schema=KEY_SCHEMA, value_schema=V1)
    assert controller.add_schema("s", V2).id == 2
    sequence = controller.catalog.sequence
    assert controller.add_schema("s", V1.replace(" ", "  ")).id == 1
    assert controller.catalog.sequence == sequence
    assert [schema.id for schema in controller.get_store("s").value_schemas] == [1, 2]


def test_an_incompatible_schema_names_the_field(controller: Controller) -> None:
    controller.create_store("s", key_schema=KEY_SCHEMA, value_schema=V1)
    with pytest.raises(Incompatible, match="people"):
        controller.add_schema("s", BAD)
    with pytest.raises(InvalidRequest):
        controller.add_schema("s", "{")
    assert len(controller.get_store("s").value_schemas) == 1


def test_a_bad_schema_makes_no_store(controller: Controller) -> None:
    with pytest.raises(InvalidRequest):
        controller.create_store("s", key_schema='"longs"')
    with pytest.raises(InvalidRequest):
        controller.create_store("s", key_schema=KEY_SCHEMA, value_schema="")
    assert controller.list_stores() == ()
