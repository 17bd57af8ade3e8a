"""An Avro schema as a tree of immutable nodes: what every other module of this package walks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

PRIMITIVES: Final = frozenset(("null", "boolean", "int", "long", "float", "double", "bytes", "string"))
ZERO_WIDTH_ITEMS_MAX: Final = 64
"""Most items in an array whose items take no bytes: their count is the only thing that bounds memory when it is read back."""


@dataclass(frozen=True, slots=True)
class Logical:
    """A logical type that changes the Python value; all others are kept as text and mean nothing here."""

    name: str
    precision: int = 0
    scale: int = 0


@dataclass(frozen=True, slots=True)
class Primitive:
    """One of the eight primitive types, by its Avro name."""

    kind: str
    logical: Logical | None = None


@dataclass(frozen=True, slots=True)
class Fixed:
    """`size` bytes, always."""

    name: str
    size: int
    aliases: tuple[str, ...] = ()
    logical: Logical | None = None


@dataclass(frozen=True, slots=True)
class EnumType:
    """One of `symbols`; `default` is what a reader takes for a symbol it does not know."""

    name: str
    symbols: tuple[str, ...]
    default: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Array:
    items: Type


@dataclass(frozen=True, slots=True)
class MapType:
    values: Type


@dataclass(frozen=True, slots=True)
class Union:
    branches: tuple[Type, ...]


@dataclass(frozen=True, slots=True)
class Default:
    """A field's default as it stands in the schema (JSON)."""

    json: Any = field(hash=False)


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    type: Type
    default: Default | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    name: str
    fields: tuple[Field, ...]
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ref:
    """A named type used by its name: a second use, or a use within itself."""

    name: str


Named = Fixed | EnumType | Record
Type = Primitive | Named | Array | MapType | Union | Ref


@dataclass(frozen=True, slots=True)
class Schema:
    """A parsed schema: its root and every named type by full name."""

    root: Type
    names: Mapping[str, Named] = field(hash=False)

    def resolve(self, node: Type) -> Primitive | Named | Array | MapType | Union:
        """`node`, or the named type it refers to."""
        return self.names[node.name] if isinstance(node, Ref) else node


def short_name(name: str) -> str:
    """The last part of a full name; Avro matches named types of writer and reader by it."""
    return name.rpartition(".")[2]


def describe(node: Type) -> str:
    """How an error names a type: `long`, `array<float>`, `timestamp-millis`, `record shop.Item`."""
    match node:
        case Primitive(kind, logical):
            return f"{logical.name} ({kind})" if logical else kind
        case Fixed(name, size, _, logical):
            return f"{logical.name} (fixed {name})" if logical else f"fixed {name} ({size} bytes)"
        case EnumType(name):
            return f"enum {name}"
        case Record(name):
            return f"record {name}"
        case Array(items):
            return f"array<{describe(items)}>"
        case MapType(values):
            return f"map<{describe(values)}>"
        case Union(branches):
            return " | ".join(describe(branch) for branch in branches)
        case Ref(name):
            return name


def is_zero_width(schema: Schema, node: Type) -> bool:
    """Whether every value of `node` takes no bytes: null, fixed of size 0, records of such fields."""
    return _is_zero_width(schema, node, set())


def _is_zero_width(schema: Schema, node: Type, seen: set[str]) -> bool:
    node = schema.resolve(node)
    match node:
        case Primitive(kind):
            return kind == "null"
        case Fixed(_, size):
            return size == 0
        case Record(name, fields):
            if name in seen:
                return True  # answered where it was seen first: one field with a width settles the whole
            seen.add(name)
            return all(_is_zero_width(schema, field.type, seen) for field in fields)
        case _:
            return False


def union_tag(branch: Type) -> str:
    """What tells a branch from the others of its union: the type's name."""
    match branch:
        case Primitive(kind):
            return kind
        case Array():
            return "array"
        case MapType():
            return "map"
        case Union():
            return "union"
        case _:
            return branch.name
