"""Single values between the codec's Python form and the form Arrow takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from venice.schema.arrow_types import only_branch
from venice.schema.encoding import choose_branch
from venice.schema.types import Array, Logical, MapType, Primitive, Record, Schema, Type, Union, union_tag

Convert = Callable[[Any], Any]


def to_columns(schema: Schema, node: Type) -> Convert | None:
    """Codec's value → what `pyarrow.array` takes for `arrow_type(schema, node)`; None where they are the same."""
    node = schema.resolve(node)
    match node:
        case Primitive(_, Logical("uuid")):
            return _optional(str)
        case Array(items):
            return _each(to_columns(schema, items))
        case MapType(values):
            inner = to_columns(schema, values) or _same
            return _optional(lambda value: [(key, inner(item)) for key, item in value.items()])
        case Record(_, fields):
            return _members({field.name: to_columns(schema, field.type) for field in fields})
        case Union():
            only = only_branch(node)
            return to_columns(schema, only) if only is not None else _optional(_union_to_struct(schema, node))
    return None


def from_columns(schema: Schema, node: Type) -> Convert | None:
    """What `to_pylist(maps_as_pydicts="strict")` gives → what the codec encodes; None where they are the same."""
    return _from_columns(schema, node, frozenset())


def _from_columns(schema: Schema, node: Type, within: frozenset[str]) -> Convert | None:
    node = schema.resolve(node)
    match node:
        case Array(items):
            return _each(_from_columns(schema, items, within))
        case MapType(values):
            inner = _from_columns(schema, values, within)
            return None if inner is None else _optional(lambda value: {key: inner(item) for key, item in value.items()})
        case Record(name, fields):
            if name in within:
                return None
            return _members({field.name: _from_columns(schema, field.type, within | {name}) for field in fields})
        case Union():
            only = only_branch(node)
            return _from_columns(schema, only, within) if only is not None else _optional(_struct_to_union(schema, node, within))
    return None


def _same(value: Any) -> Any:
    return value


def _optional(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


def _each(inner: Convert | None) -> Convert | None:
    return None if inner is None else _optional(lambda value: [inner(item) for item in value])


def _members(inners: dict[str, Convert | None]) -> Convert | None:
    changed = {name: inner for name, inner in inners.items() if inner is not None}
    if not changed:
        return None
    # Only members that are there: what is missing is for the codec to fill or refuse.
    return _optional(lambda value: {**value, **{name: inner(value[name]) for name, inner in changed.items() if name in value}})


def _union_to_struct(schema: Schema, union: Union) -> Convert:
    members = [branch for branch in union.branches if branch != Primitive("null")]
    converts = [to_columns(schema, member) or _same for member in members]

    def convert(value: Any) -> dict[str, Any]:
        index, _ = choose_branch(schema, union, value)
        chosen = members.index(union.branches[index])
        return {f"member{i}": converts[i](value) if i == chosen else None for i in range(len(members))}

    return convert


def _struct_to_union(schema: Schema, union: Union, within: frozenset[str]) -> Convert:
    members = [branch for branch in union.branches if branch != Primitive("null")]
    converts = [_from_columns(schema, member, within) or _same for member in members]
    names = {f"member{i}" for i in range(len(members))}

    def convert(value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() != names:
            return value
        found = [i for i in range(len(members)) if value[f"member{i}"] is not None]
        if len(found) != 1:
            return value
        return union_tag(members[found[0]]), converts[found[0]](value[f"member{found[0]}"])

    return convert
