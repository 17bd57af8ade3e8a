"""The canonical text of a schema: equal for two schemas exactly if they read and write alike.

Names are full, documentation and unknown properties are left out, defaults, aliases and logical types stay: so adding a
default makes another schema, and adding a comment does not.
"""

from __future__ import annotations

import json
from typing import Any

from venice.schema.types import Array, EnumType, Field, Fixed, Logical, MapType, Primitive, Record, Ref, Schema, Type, Union


def canonical_text(schema: Schema) -> str:
    """The schema as JSON in its one canonical form; parsing it gives the same schema again."""
    return json.dumps(_document(schema.root), separators=(",", ":"), ensure_ascii=False)


def _document(node: Type) -> Any:
    match node:
        case Primitive(kind, logical):
            return {"type": kind, **_logical(logical)} if logical else kind
        case Ref(name):
            return name
        case Union(branches):
            return [_document(branch) for branch in branches]
        case Array(items):
            return {"type": "array", "items": _document(items)}
        case MapType(values):
            return {"type": "map", "values": _document(values)}
        case Fixed(_, size, _, logical):
            return {**_named("fixed", node), "size": size, **_logical(logical)}
        case EnumType(_, symbols, default):
            return {**_named("enum", node), "symbols": list(symbols), **({} if default is None else {"default": default})}
        case Record(_, fields):
            return {**_named("record", node), "fields": [_field(field) for field in fields]}


def _named(kind: str, node: Fixed | EnumType | Record) -> dict[str, Any]:
    # An empty namespace keeps a name without dots out of the namespace around it.
    outside = {} if "." in node.name else {"namespace": ""}
    return {"type": kind, "name": node.name, **outside, **({"aliases": list(node.aliases)} if node.aliases else {})}


def _logical(logical: Logical | None) -> dict[str, Any]:
    if logical is None:
        return {}
    digits = {"precision": logical.precision, "scale": logical.scale} if logical.name == "decimal" else {}
    return {"logicalType": logical.name, **digits}


def _field(field: Field) -> dict[str, Any]:
    document: dict[str, Any] = {"name": field.name, "type": _document(field.type)}
    if field.default is not None:
        document["default"] = field.default.json
    if field.aliases:
        document["aliases"] = list(field.aliases)
    return document
