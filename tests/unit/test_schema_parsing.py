"""What is an Avro schema, what is not, and what its author is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from venice.errors import InvalidRequest
from venice.schema.canonical import canonical_text
from venice.schema.parsing import FIELDS_MAX, TEXT_BYTES_MAX, parse
from venice.schema.types import Array, Field, Fixed, Logical, Primitive, Record, Ref, Union, describe, is_zero_width


def record(*fields: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": f"f{i}", "type": f} for i, f in enumerate(fields)], **more}


def test_names_are_resolved_in_their_namespaces() -> None:
    inner = {"type": "fixed", "name": "Id", "size": 4}
    other = {"type": "enum", "name": "E", "namespace": "elsewhere", "symbols": ["A"]}
    parsed = parse(json.dumps(record(inner, "Id", other, "elsewhere.E", ["null", "R"], namespace="shop")))
    assert parsed.root == Record(
        "shop.R",
        (
            Field("f0", Fixed("shop.Id", 4)),
            Field("f1", Ref("shop.Id")),
            Field("f2", parsed.names["elsewhere.E"]),
            Field("f3", Ref("elsewhere.E")),
            Field("f4", Union((Primitive("null"), Ref("shop.R")))),
        ),
    )


def test_a_bare_name_of_a_primitive_is_a_schema() -> None:
    assert parse(" long ").root == parse('"long"').root == parse('{"type": "long"}').root == Primitive("long")


def test_unknown_logical_types_mean_nothing() -> None:
    assert parse('{"type": "long", "logicalType": "moon-phase"}').root == Primitive("long")
    assert parse('{"type": "string", "logicalType": "date"}').root == Primitive("string")
    assert parse('{"type": "int", "logicalType": "date"}').root == Primitive("int", Logical("date"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("NaN", "not JSON"),
        ('{"type": "int", "type": "int"}', "'type' stands twice"),
        ("5", "not 5"),
        ("null and void", "not JSON"),
        ("{}", "'type' is missing"),
        ('"Item"', "unknown type 'Item'"),
        ('{"type": {"type": "int"}}', "must be a name here"),
        ("[]", "a union without branches"),
        ('["int", ["null", "long"]]', "union directly inside a union"),
        ('["int", "int"]', "two branches of type int"),
        ('["int", {"type": "int", "logicalType": "date"}]', "two branches of type int"),
        ('{"type": "array"}', "array without 'items'"),
        ('{"type": "map"}', "map without 'values'"),
        ('{"type": "array", "items": {"type": "map", "values": "Item"}}', "schema.items.values: unknown type"),
        ('{"type": "record", "fields": []}', "'name' is missing"),
        ('{"type": "record", "name": "a b", "fields": []}', "is not a name"),
        ('{"type": "record", "name": "int", "fields": []}', "name of a primitive"),
        ('{"type": "record", "name": "R", "namespace": 1, "fields": []}', "is not a namespace"),
        ('{"type": "record", "name": "R"}', "without a list of 'fields'"),
        ('{"type": "record", "name": "R", "fields": [5]}', "R.fields[0]"),
        ('{"type": "record", "name": "R", "fields": [{"name": "a"}]}', "R.a: 'type' is missing"),
        ('{"type": "record", "name": "R", "fields": [{"name": "a-b", "type": "int"}]}', "is not a field name"),
        ('{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, {"name": "a", "type": "int"}]}', "'a' is defined twice"),
        ('{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int", "aliases": "b"}]}', "'aliases' must be a list"),
        (json.dumps(record(record(), record())), "'R' is defined twice"),
        ('{"type": "enum", "name": "E", "symbols": []}', "without a list of symbols"),
        ('{"type": "enum", "name": "E", "symbols": ["a b"]}', "without a list of symbols"),
        ('{"type": "enum", "name": "E", "symbols": ["A", "A"]}', "symbol twice"),
        ('{"type": "enum", "name": "E", "symbols": ["A"], "default": "B"}', "not one of its symbols"),
        ('{"type": "fixed", "name": "F"}', "needs a 'size'"),
        ('{"type": "fixed", "name": "F", "size": -1}', "needs a 'size'"),
        ('{"type": "fixed", "name": "F", "size": true}', "needs a 'size'"),
        ('{"type": "bytes", "logicalType": "decimal"}', "needs a 'precision'"),
        ('{"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 3}', "'scale' is between"),
        ('{"type": "fixed", "name": "F", "size": 1, "logicalType": "decimal", "precision": 3}', "does not fit in 1 bytes"),
        ("[" * 100_000, "not JSON"),
        ('{"type":"array","items":' * 70 + '"int"' + "}" * 70, "nested deeper"),
        (json.dumps(record(*["int"] * (FIELDS_MAX + 1))), "fields, and a record may have"),
        (" " * (TEXT_BYTES_MAX + 1), "characters"),
    ],
)
def test_what_is_no_schema_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse(text)
    assert said in str(refusal.value)
    assert refusal.value.hint


@pytest.mark.parametrize(
    ("kind", "default", "fits"),
    [
        ("int", 5, True),
        ("int", True, False),
        ("int", 1 << 31, False),
        ("int", None, False),
        ("long", 1 << 31, True),
        ("float", 1, True),
        ("float", 1e300, False),
        ("double", "NaN", False),
        ("string", "x", True),
        ("string", "\ud800", False),
        ("bytes", "\u00ff", True),
        ("bytes", "\u0100", False),
        ("boolean", 0, False),
        (["null", "int"], None, True),
        (["null", "int"], 5, True),
        (["null", "int"], "5", False),
        ({"type": "array", "items": "int"}, [1, 2], True),
        ({"type": "array", "items": "int"}, [1, "2"], False),
        ({"type": "map", "values": "int"}, {"a": 1}, True),
        ({"type": "map", "values": "int"}, [], False),
        ({"type": "fixed", "name": "F", "size": 2}, "ab", True),
        ({"type": "fixed", "name": "F", "size": 2}, "abc", False),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, "A", True),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, "B", False),
        (record("int", name="I"), {"f0": 1}, True),
        (record("int", name="I"), {}, False),
        (record("int", name="I"), {"f0": 1, "more": 1}, False),
    ],
)
def test_a_default_must_be_a_value_of_its_field(kind: Any, default: Any, fits: bool) -> None:
    text = json.dumps({"type": "record", "name": "R", "fields": [{"name": "a", "type": kind, "default": default}]})
    if fits:
        parse(text)
        return
    with pytest.raises(InvalidRequest, match=r"R\.a: default"):
        parse(text)


def test_defaults_inside_defaults_are_bounded() -> None:
    nested: Any = {"type": "record", "name": "A0", "fields": [{"name": "x", "type": "int", "default": 1}]}
    for i in range(1, 30):
        fields = [{"name": "a", "type": nested, "default": {}}, {"name": "b", "type": f"A{i - 1}", "default": {}}]
        nested = {"type": "record", "name": f"A{i}", "fields": fields}
    with pytest.raises(InvalidRequest, match="default"):
        parse(json.dumps(nested))


def test_the_canonical_text_forgets_layout_and_comments_and_nothing_else() -> None:
    one = '{"type":"record","name":"a.R","doc":"a row","fields":[{"name":"x","type":{"type":"int"},"doc":"x","default":1}]}'
    two = '{ "namespace": "a", "name": "R", "fields": [ {"type": "int", "name": "x", "default": 1, "owner": "me"} ], "type": "record" }'
    assert canonical_text(parse(one)) == canonical_text(parse(two))
    assert canonical_text(parse(one)) != canonical_text(parse(one.replace(',"default":1', "")))
    assert canonical_text(parse(one)) != canonical_text(parse(one.replace("int", "long")))


def test_parsing_the_canonical_text_gives_the_schema_again() -> None:
    text = json.dumps(
        record(
            {"type": "fixed", "name": "n.D", "size": 8, "logicalType": "decimal", "precision": 5, "scale": 2},
            {"type": "enum", "name": "E", "namespace": "", "symbols": ["A"], "default": "A", "aliases": ["Old"]},
            ["null", {"type": "map", "values": {"type": "array", "items": "n.D"}}],
            namespace="shop",
        )
    )
    parsed = parse(text)
    assert parse(canonical_text(parsed)) == parsed


def test_types_have_names_for_people() -> None:
    assert describe(parse('["null", {"type": "array", "items": "float"}]').root) == "null | array<float>"
    assert describe(parse('{"type": "int", "logicalType": "date"}').root) == "date (int)"


def test_zero_width_types_are_recognised() -> None:
    for text, expected in ((record("null", {"type": "fixed", "name": "F", "size": 0}), True), (record("null", "int"), False)):
        schema = parse(json.dumps({"type": "array", "items": text}))
        assert isinstance(schema.root, Array)
        assert is_zero_width(schema, schema.root.items) is expected
