"""The superset schema: what it is made of, that it loses nothing, and what a store does with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from control_fixtures import controller, log
from hypothesis import given
from hypothesis import strategies as st

from venice.control.controller import Controller
from venice.errors import Incompatible
from venice.model import StoreConfig
from venice.schema import registry
from venice.schema.codec import Codec, reader
from venice.schema.superset import superset

__all__ = ["controller", "log"]  # Fixtures: pytest finds them by their names here.


def record(*fields: dict[str, Any], name: str = "City", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name: str, type_: Any, *default: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type_, **({"default": default[0]} if default else {}), **more}


def made(*schemas: Any) -> Any:
    return json.loads(superset(json.dumps(schema) for schema in schemas))


def names(schema: dict[str, Any]) -> list[str]:
    return [one["name"] for one in schema["fields"]]


A, B, C = field("a", "long"), field("b", "string", ""), field("c", "int", 0)


def test_all_fields_the_newest_first() -> None:
    assert names(made(record(A, B), record(A, C))) == ["a", "c", "b"]
    assert made(record(A, B), record(B, A, C)) == made(record(B, A, C)), "a schema that has everything is its own superset"
    assert made(record(A, B), record(A)) == made(record(A, B))
    assert names(made(record(A), record(A, B), record(A, C))) == ["a", "c", "b"]
    assert made("long", "long") == "long"


def test_inside_of_everything() -> None:
    one, two = record(A, B, name="Part"), record(A, C, name="Part")
    for wrap in (lambda part: {"type": "array", "items": part}, lambda part: {"type": "map", "values": part}, lambda part: ["null", part]):
        whole = made(record(field("in", wrap(one))), record(field("in", wrap(two))))["fields"][0]["type"]
        inner = whole[1] if isinstance(whole, list) else whole.get("items") or whole["values"]
        assert names(inner) == ["a", "c", "b"]
    # Named once, used twice, and within itself.
    tree = record(field("name", "string"), field("left", ["null", "Tree"], None), name="Tree")
    taller = record(field("name", "string"), field("right", ["null", "Tree"], None), name="Tree")
    assert names(made(tree, taller)) == ["name", "right", "left"]


def test_enums_unions_and_renamed_fields() -> None:
    old = {"type": "enum", "name": "E", "symbols": ["X", "Y"], "default": "X"}
    new = {"type": "enum", "name": "E", "symbols": ["Z", "X"], "default": "X"}
    assert made(old, new)["symbols"] == ["X", "Y", "Z"]
    assert made(["null", "long"], ["long", "string", "null"]) == ["long", "string", "null"]
    assert made(["null", "long"], ["string", "null"]) == ["string", "null", "long"]
    renamed = made(record(field("name", "string", "")), record(field("title", "string", "", aliases=["name"])))
    assert [(one["name"], one["aliases"]) for one in renamed["fields"]] == [("title", ["name"])]
    town = made(record(A), record(A, B, name="Town", aliases=["City"]))
    assert (town["name"], names(town)) == ("Town", ["a", "b"])


def test_contradictions_are_named() -> None:
    for older, newer, words in (
        ("long", "string", r"the value is long in one schema and string in another"),
        (record(field("x", "int")), record(field("x", "string")), r"City\.x is int in one"),
        ({"type": "fixed", "name": "F", "size": 2}, {"type": "fixed", "name": "F", "size": 3}, r"F is fixed F \(2 bytes\)"),
        (record(A, name="T"), {"type": "enum", "name": "T", "symbols": ["X"]}, r"T is record T in one schema and enum T"),
    ):
        with pytest.raises(Incompatible, match=words):
            made(older, newer)


POOL = [
    field("n", "long", 7),
    field("s", "string", ""),
    field("maybe", ["null", "double"], None),
    field("e", {"type": "enum", "name": "Colour", "symbols": ["RED", "BLUE"], "default": "RED"}, "RED"),
    field("list", {"type": "array", "items": "int"}, []),
    field("map", {"type": "map", "values": "string"}, {}),
    field("in", {"type": "record", "name": "Inner", "fields": [field("x", "int", 1), field("y", ["null", "string"], None)]}, {}),
]
VALUES: dict[str, Any] = {
    "n": 12, "s": "text", "maybe": 2.5, "e": "BLUE", "list": [1, 2], "map": {"k": "v"}, "in": {"x": 5, "y": "deep"},
}  # fmt: skip


@given(
    st.lists(
        st.permutations(range(len(POOL))).flatmap(lambda order: st.integers(1, len(POOL)).map(lambda n: order[:n])), min_size=1, max_size=4
    )
)
def test_nothing_that_any_of_them_wrote_is_lost(picks: list[list[int]]) -> None:
    """Whatever a schema wrote is read by the superset field for field; each schema reads what the superset writes."""
    texts = [json.dumps(record(*(POOL[index] for index in pick))) for pick in picks]
    whole = superset(texts)
    registry.check_compatible(whole, texts)
    for text, pick in zip(texts, picks, strict=True):
        value = {POOL[index]["name"]: VALUES[POOL[index]["name"]] for index in pick}
        read = reader(text, whole)(Codec(text).encode(value), 0)
        assert {name: read[name] for name in value} == value
        assert set(read) == {POOL[index]["name"] for pick in picks for index in pick}


def test_a_store_that_wants_one_has_it(controller: Controller) -> None:
    key, first, second = '"long"', json.dumps(record(A, B)), json.dumps(record(A, C))
    controller.create_store("s", key_schema=key, value_schema=first, config=StoreConfig(superset_schema=True))
    assert controller.get_store("s").superset_schema_id == 1
    assert controller.add_schema("s", second).id == 2
    store = controller.get_store("s")
    assert (len(store.value_schemas), store.superset_schema_id) == (3, 3)
    assert names(json.loads(store.value_schemas[2].text)) == ["a", "c", "b"]
    # Neither a schema again nor another setting makes more of them.
    assert controller.add_schema("s", second).id == 2
    assert controller.update_store("s", owner="me").value_schemas == store.value_schemas
    assert controller.add_schema("s", json.dumps(record(A))).id == 4
    assert controller.get_store("s").superset_schema_id == 3
    off = controller.update_store("s", config={"superset_schema": False})
    assert (off.superset_schema_id, len(off.value_schemas)) == (0, 4)
    assert controller.update_store("s", config={"superset_schema": True}).superset_schema_id == 3


def test_a_schema_without_superset_is_refused(controller: Controller) -> None:
    """Each pair of these fits; but the two shapes of `Part`, in different fields, cannot stand in one schema."""
    one = record(A, field("x", ["null", record(field("p", "int"), name="Part")], None))
    other = record(A, field("y", ["null", record(field("p", "string"), name="Part")], None))
    controller.create_store("s", key_schema='"long"', value_schema=json.dumps(one), config=StoreConfig(superset_schema=True))
    with pytest.raises(Incompatible, match=r"value schemas of store 's' have no superset: Part\.p is int .*--no-superset"):
        controller.add_schema("s", json.dumps(other))
    assert len(controller.get_store("s").value_schemas) == 1
    controller.update_store("s", config={"superset_schema": False})
    assert controller.add_schema("s", json.dumps(other)).id == 2
    with pytest.raises(Incompatible, match="no superset"):
        controller.update_store("s", config={"superset_schema": True})
