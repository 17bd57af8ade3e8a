"""Generates a function that copies a decoded value, sharing what nobody can change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from venice.schema.source import DEPTH_MAX, Source
from venice.schema.types import Array, EnumType, Fixed, MapType, Primitive, Record, Ref, Schema, Type, Union


def copy_any(value: Any) -> Any:
    """A deep copy of a decoded value of any type."""
    if value.__class__ is dict:
        return {key: copy_any(item) for key, item in value.items()}
    if value.__class__ is list:
        return [copy_any(item) for item in value]
    return value


def generate_copier(schema: Schema) -> Callable[[Any], Any]:
    """`copy(value) -> value` for what the schema's decoder returned."""
    return _Generator(schema).run()


def generate_lookup(
    schema: Schema, kept: Mapping[Any, Any], key_class: type | None, otherwise: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    """`get(key) -> value`: a copy of what is kept under the key, else what `otherwise(key)` returns.

    Looking up and copying are one function: calling a second one costs as much as the copy of a small record.

    Args:
        kept: Decoded values of the schema, by key for keys of `key_class`, by (class, key) for all others.
        otherwise: Is called for a key that is not there, or that no dictionary can have.
    """
    return _Generator(schema).lookup(kept, key_class, otherwise)


class _Generator:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._out = Source()

    def run(self) -> Callable[[Any], Any]:
        with self._out.block("def copy(v)"):
            self._out.line(f"return {self._copy(self._schema.root, 'v')}")
        copier: Callable[[Any], Any] = self._out.compile("copy")
        return copier

    def lookup(self, kept: Mapping[Any, Any], key_class: type | None, otherwise: Callable[[Any], Any]) -> Callable[[Any], Any]:
        out = self._out
        place = "(key.__class__, key)"
        if key_class is not None:
            place = f"key if key.__class__ is {out.share(key_class, 'Key')} else {place}"
        with out.block("def get(key)"):
            with out.block("try"):
                out.line(f"v = {out.share(kept, 'kept')}[{place}]")
            with out.block("except (KeyError, TypeError)"):
                out.line(f"return {out.share(otherwise, 'otherwise')}(key)")
            out.line(f"return {self._copy(self._schema.root, 'v')}")
        get: Callable[[Any], Any] = out.compile("get")
        return get

    def _immutable(self, node: Type) -> bool:
        node = self._schema.resolve(node)
        if isinstance(node, Union):
            return all(self._immutable(branch) for branch in node.branches)
        return isinstance(node, (Primitive, Fixed, EnumType))

    def _copy(self, node: Type, v: str) -> str:
        """Writes statements, and returns an expression of the copy of the value named `v`."""
        if self._immutable(node):
            return v
        if isinstance(node, Ref) or self._out.depth > DEPTH_MAX:
            return f"{self._out.share(copy_any, 'copy_any')}({v})"
        match node:
            case Array(items) if self._immutable(items):
                return f"{v}[:]"
            case MapType(values) if self._immutable(values):
                return f"{v}.copy()"
            case Array(items):
                return self._items(items, "[]", f"for {{item}} in {v}", "{copy}.append({value})")
            case MapType(values):
                return self._items(values, "{}", f"for {{key}}, {{item}} in {v}.items()", "{copy}[{key}] = {value}")
            case Record():
                return self._record(node, v)
        return self._union(node, v)

    def _items(self, node: Type, empty: str, loop: str, add: str) -> str:
        out = self._out
        names = {"copy": out.fresh("c"), "key": out.fresh("k"), "item": out.fresh("v")}
        out.line(f"{names['copy']} = {empty}")
        with out.block(loop.format(**names)):
            out.line(add.format(**names, value=self._copy(node, names["item"])))
        return names["copy"]

    def _record(self, node: Record, v: str) -> str:
        out = self._out
        copy = out.fresh("c")
        out.line(f"{copy} = {v}.copy()")
        for field in node.fields:
            if not self._immutable(field.type):
                item = out.fresh("v")
                out.line(f"{item} = {v}[{field.name!r}]")
                out.line(f"{copy}[{field.name!r}] = {self._copy(field.type, item)}")
        return copy

    def _union(self, node: Type, v: str) -> str:
        assert isinstance(node, Union)
        mutable = [branch for branch in node.branches if not self._immutable(branch)]
        if len(mutable) > 1:
            return f"{self._out.share(copy_any, 'copy_any')}({v})"
        container = "list" if isinstance(self._schema.resolve(mutable[0]), Array) else "dict"
        copy = self._out.fresh("c")
        with self._out.block(f"if {v}.__class__ is {container}"):
            self._out.line(f"{copy} = {self._copy(mutable[0], v)}")
        with self._out.block("else"):
            self._out.line(f"{copy} = {v}")
        return copy
