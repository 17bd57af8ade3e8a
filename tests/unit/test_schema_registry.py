"""Registering value schemas: ids, FULL compatibility, and the path of what does not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from venice.errors import Incompatible, InvalidRequest
from venice.model import ValueSchema
from venice.schema import registry


def record(*fields: tuple[str, Any] | tuple[str, Any, Any], name: str = "R", **more: Any) -> str:
    described = [{"name": f[0], "type": f[1], **({"default": f[2]} if len(f) == 3 else {})} for f in fields]
    return json.dumps({"type": "record", "name": name, "fields": described, **more})


def registered(*texts: str) -> tuple[ValueSchema, ...]:
    schemas: tuple[ValueSchema, ...] = ()
    for text in texts:
        _, schemas = registry.register(schemas, text)
    return schemas


def test_ids_begin_at_one_and_an_equal_schema_keeps_its_own() -> None:
    first = record(("a", "int"), doc="what it is")
    schema_id, schemas = registry.register((), first)
    assert (schema_id, [schema.id for schema in schemas]) == (1, [1])
    assert json.loads(schemas[0].text)["doc"] == "what it is"
    again, same = registry.register(schemas, record(("a", {"type": "int"}), doc="said otherwise"))
    assert (again, same) == (1, schemas)
    second, more = registry.register(schemas, record(("a", "int"), ("b", "string", "")))
    assert (second, [schema.id for schema in more]) == (2, [1, 2])


def test_a_new_default_is_a_new_schema() -> None:
    schemas = registered(record(("a", "int")), record(("a", "int", 5)))
    assert [schema.id for schema in schemas] == [1, 2]


def test_ids_of_schemas_that_are_gone_are_not_given_again() -> None:
    schema_id, _ = registry.register((ValueSchema(id=7, text=record(("a", "int"))),), record(("a", "int"), ("b", "int", 1)))
    assert schema_id == 8


X_INT = json.loads(record(("z", "int"), name="X"))
X_STRING = json.loads(record(("z", "string"), name="X"))


def decimal(scale: int, precision: int = 9) -> dict[str, Any]:
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


@pytest.mark.parametrize(
    ("old", "new", "path", "said"),
    [
        ([("a", "int")], [("a", "int"), ("b", "int")], "b", "cannot read what schema 1 wrote"),
        ([("a", "int"), ("b", "int")], [("a", "int")], "b", "schema 1 cannot read what the new schema writes"),
        ([("a", "int")], [("a", "long")], "a", "schema 1 cannot read"),
        ([("a", "int")], [("a", "string")], "a", "int cannot be read as string"),
        ([("a", "string")], [("a", "bytes")], "a", "string cannot be read as bytes"),
        ([("a", ["null", X_INT])], [("a", ["null", X_STRING])], "a.z", "int cannot be read as string"),
        ([("a", {"type": "array", "items": X_INT})], [("a", {"type": "array", "items": X_STRING})], "a[].z", "int"),
        ([("a", {"type": "map", "values": "int"})], [("a", {"type": "map", "values": "string"})], "a{}", "int"),
        ([("a", ["null", "int"])], [("a", "int")], "a", "null cannot be read as int"),
        ([("a", ["null", "int"])], [("a", ["null", "int", "string"])], "a", "string is none of null | int"),
        ([("a", enum("A"))], [("a", enum("A", "B"))], "a", "lacks the symbols B"),
        ([("a", {"type": "fixed", "name": "F", "size": 1})], [("a", {"type": "fixed", "name": "F", "size": 2})], "a", "fixed F"),
        ([("a", X_INT)], [("a", json.loads(record(("z", "int"), name="Y")))], "a", "add an alias"),
        # What the Apache checker lets through.
        ([("a", decimal(2))], [("a", decimal(3))], "a", "decimal(9, 2) means something else than decimal(9, 3)"),
        ([("a", decimal(2))], [("a", decimal(2, 10))], "a", "means something else"),
        (
            [("a", {"type": "long", "logicalType": "timestamp-millis"})],
            [("a", {"type": "long", "logicalType": "timestamp-micros"})],
            "a",
            "means something else",
        ),
        ([("a", "long")], [("a", {"type": "long", "logicalType": "timestamp-millis"})], "a", "means something else"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(old: Any, new: Any, path: str, said: str) -> None:
    schemas = registered(record(*old))
    with pytest.raises(Incompatible) as refusal:
        registry.register(schemas, record(*new))
    assert refusal.value.data["path"] == path
    assert said in str(refusal.value)
    assert f"at {path}:" in str(refusal.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([("a", "int")], [("b", "int", 1), ("a", "int")]),
        ([("a", "int"), ("b", "int", 1)], [("a", "int")]),
        ([("a", ["null", "int"], None)], [("a", ["int", "null"], None)]),
        ([("a", enum("A", "B", default="A"))], [("a", enum("A", "C", default="A"))]),
        ([("next", ["null", "R"], None)], [("next", ["null", "R"], None), ("b", "int", 1)]),
        ([("a", {"type": "long", "logicalType": "unknown"})], [("a", "long", 1)]),
    ],
)
def test_schemas_that_read_one_another_are_registered(old: Any, new: Any) -> None:
    assert [schema.id for schema in registered(record(*old), record(*new))] == [1, 2]


def test_a_renamed_type_needs_aliases_on_both_sides() -> None:
    old = record(("a", "int"), name="shop.Old", aliases=["New"])
    new = record(("a", "int"), name="shop.New", aliases=["Old"])
    assert registry.register(registered(old), new)[0] == 2


def test_every_schema_before_counts() -> None:
    schemas = registered(record(("a", "int"), ("b", "int", 1)), record(("a", "int")))
    with pytest.raises(Incompatible, match="schema 1"):
        registry.register(schemas, record(("a", "int"), ("b", "string", "")))


@pytest.mark.parametrize("check", [registry.check_key_schema, registry.check_value_schema, registry.parse])
def test_garbage_is_no_schema(check: Any) -> None:
    with pytest.raises(InvalidRequest):
        check('{"type": "record"}')


def test_any_type_is_a_key() -> None:
    for text in ("long", '"string"', '["null", "int"]', record(("a", "int"), ("b", "string"))):
        assert registry.parse(registry.check_key_schema(text)) == registry.parse(text)
