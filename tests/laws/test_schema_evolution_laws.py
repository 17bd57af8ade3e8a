"""Laws of evolution: what may stand beside a schema reads its data, the registry and the Apache checker agree, nothing is half-refused."""

from __future__ import annotations

import copy
import json
from typing import Any

from avro_strategies import named_types, schemas, values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from venice.errors import Corrupt, Incompatible, InvalidRequest
from venice.model import ValueSchema
from venice.schema import registry
from venice.schema.codec import Codec, reader
from venice.schema.compatibility import find_misfit
from venice.schema.parsing import parse
from venice.schema.registry import ask_avro

LAWS = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
TYPES = ("int", "long", "float", "double", "string", "bytes", ["null", "int"], ["int", "null"], ["null", "int", "string"])


@st.composite
def evolutions(draw: st.DrawFn) -> tuple[str, str, Any]:
    """(old schema, new schema, value of the old one): the new one differs by a few edits, some of them harmless."""
    old = draw(schemas(root=draw(st.sampled_from(("record", "record", None)))))
    new = copy.deepcopy(old)
    for _ in range(draw(st.integers(1, 3))):
        edit(draw, new)
    return json.dumps(old), json.dumps(new), draw(values(old))


def edit(draw: st.DrawFn, schema: Any) -> None:
    named = [node for node in named_types(schema).values() if node["type"] in ("record", "enum")]
    if not named:
        return
    node = draw(st.sampled_from(named))
    if node["type"] == "enum":
        node["default"] = node["symbols"][0]
        if draw(st.booleans()):
            node["symbols"] = [*node["symbols"], "More"]
        return
    fields = node["fields"]
    kind = draw(st.sampled_from(("add", "add without default", "drop", "default", "type", "shuffle", "doc")))
    if kind == "add":
        fields.append({"name": f"new{len(fields)}", "type": ["null", "string"], "default": None})
    elif kind == "add without default":
        fields.append({"name": f"new{len(fields)}", "type": "string"})
    elif kind == "doc":
        node["doc"] = "described"
    elif not fields:
        return
    elif kind == "drop":
        fields.pop(draw(st.integers(0, len(fields) - 1)))
    elif kind == "shuffle":
        fields.reverse()
    else:
        field = draw(st.sampled_from(fields))
        if kind == "type" or isinstance(field["type"], (dict, list)):
            field["type"] = draw(st.sampled_from(TYPES))
            field.pop("default", None)
        if field["type"] == "string":
            field["default"] = ""


def schema_or_none(text: str) -> Any:
    try:
        return parse(text)
    except InvalidRequest:
        return None  # an edit took away a definition that others refer to


@LAWS
@given(evolutions())
def test_what_the_registry_takes_reads_what_was_written_before(case: tuple[str, str, Any]) -> None:
    old, new, value = case
    schemas = (ValueSchema(id=1, text=old),)
    try:
        schema_id, after = registry.register(schemas, new)
    except (Incompatible, InvalidRequest):
        return
    assert schema_id == len(after)
    if schema_id == 1:
        assert registry.parse(old) == registry.parse(new)
    read = reader(old, new)(Codec(old).encode(value))
    reader(new, old)(Codec(new).encode(read))


@LAWS
@given(evolutions())
def test_the_apache_checker_agrees_but_for_what_it_overlooks(case: tuple[str, str, Any]) -> None:
    writer, wanted = schema_or_none(case[0]), schema_or_none(case[1])
    if writer is None or wanted is None:
        return
    ours, theirs = find_misfit(writer, wanted), ask_avro(writer, wanted)
    if theirs is not None:
        assert ours is not None
    elif ours is not None:
        assert "means something else" in ours[1] or {"string", "bytes"} <= set(ours[1].replace("|", " ").split())


@LAWS
@given(evolutions())
def test_a_misfit_names_a_pair_that_fails_and_no_misfit_one_that_reads(case: tuple[str, str, Any]) -> None:
    old, new, value = case
    writer, wanted = schema_or_none(old), schema_or_none(new)
    if writer is None or wanted is None:
        return
    data = Codec(old).encode(value)
    if find_misfit(writer, wanted) is None:
        reader(old, new)(data)
        return
    try:
        reader(old, new)(data)
    except (Incompatible, Corrupt):
        return
