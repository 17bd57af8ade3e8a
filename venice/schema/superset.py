"""The superset of value schemas: one schema with every field that any of them has, so that it loses nothing any of them wrote.

Readers of all rows and partial updates need it: the newest schema alone may lack a field that older rows have.

Fields and branches keep the newer schema's order, defaults and types, and what only the older one has follows; symbols of an enum
keep the older order. A field that the newer schema renamed (an alias) is one field. Comments are not carried over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import reduce

from venice.errors import Incompatible, InvalidRequest
from venice.schema.canonical import canonical_text
from venice.schema.matching import same_name
from venice.schema.parsing import parse
from venice.schema.types import (
    Array,
    EnumType,
    Field,
    Fixed,
    MapType,
    Named,
    Primitive,
    Record,
    Ref,
    Schema,
    Type,
    Union,
    describe,
    union_tag,
)


def superset(texts: Iterable[str]) -> str:
    """The canonical text of the superset of schemas, oldest first; at least one.

    Raises:
        Incompatible: Some place has types that no one schema can have; names it.
        InvalidRequest: A text is no Avro schema.
    """
    text = canonical_text(reduce(_merged, (parse(text) for text in texts)))
    try:
        parse(text)
    except InvalidRequest as error:
        raise Incompatible(error.message, hint="the schemas contradict each other there") from error
    return text


def _merged(older: Schema, newer: Schema) -> Schema:
    return _Merge(older, newer).merged()


class _Merge:
    """Merges definitions by name, each written out where nothing else is, and puts them back into place."""

    def __init__(self, older: Schema, newer: Schema) -> None:
        self._older = older
        self._newer = newer
        self._now: dict[str, str] = {}
        """Name in the older schema → name in the newer one, of types that both have."""
        for name, node in newer.names.items():
            before = [old for old in older.names if old not in self._now and same_name(old, name, node.aliases)]
            if name in before or before:
                self._now[name if name in before else before[0]] = name
        self._names: dict[str, Named] = {}

    def merged(self) -> Schema:
        known = {now: before for before, now in self._now.items()}
        for name, node in self._newer.names.items():
            flat = self._flat_named(node, {})
            before = known.get(name)
            self._names[name] = flat if before is None else self._named(self._flat_named(self._older.names[before], self._now), flat)
        for name, node in self._older.names.items():
            if name not in self._now:
                self._names[name] = self._flat_named(node, self._now)
        root = self._type(_flat(self._older.root, self._now), _flat(self._newer.root, {}), "")
        names: dict[str, Named] = {}
        return Schema(self._whole(root, names), names)

    def _flat_named(self, node: Named, renamed: dict[str, str]) -> Named:
        if isinstance(node, Record):
            return replace(node, fields=tuple(replace(field, type=_flat(field.type, renamed)) for field in node.fields))
        return node

    def _named(self, older: Named, newer: Named) -> Named:
        aliases = tuple(dict.fromkeys((*newer.aliases, *older.aliases)))
        match older, newer:
            case Record(), Record():
                return replace(newer, aliases=aliases, fields=self._fields(older, newer))
            case EnumType(), EnumType():
                return replace(newer, aliases=aliases, symbols=tuple(dict.fromkeys((*older.symbols, *newer.symbols))))
            case Fixed(), Fixed() if (older.size, older.logical) == (newer.size, newer.logical):
                return replace(newer, aliases=aliases)
        raise _contradiction(newer.name, older, newer)

    def _fields(self, older: Record, newer: Record) -> tuple[Field, ...]:
        free = {field.name: field for field in older.fields}
        taken = {field.name: free.pop(field.name, None) for field in newer.fields}
        made: list[Field] = []
        for field in newer.fields:
            before = taken[field.name]
            for alias in field.aliases:
                before = before or free.pop(alias, None)
            if before is not None:
                aliases = tuple(alias for alias in dict.fromkeys((*field.aliases, *before.aliases)) if alias not in taken)
                field = replace(field, type=self._type(before.type, field.type, f"{newer.name}.{field.name}"), aliases=aliases)
            made.append(field)
        return (*made, *free.values())

    def _type(self, older: Type, newer: Type, path: str) -> Type:
        match older, newer:
            case (Union(), _) | (_, Union()):
                return self._union(_branches(older), _branches(newer), path)
            case Array(before), Array(after):
                return Array(self._type(before, after, f"{path}[]"))
            case MapType(before), MapType(after):
                return MapType(self._type(before, after, f"{path}{{}}"))
            case (Primitive(), Primitive()) | (Ref(), Ref()) if older == newer:
                return newer
        raise _contradiction(path, older, newer)

    def _union(self, older: tuple[Type, ...], newer: tuple[Type, ...], path: str) -> Union:
        free = {union_tag(branch): branch for branch in older}
        pairs = [(free.pop(union_tag(branch), None), branch) for branch in newer]
        merged = [branch if before is None else self._type(before, branch, path) for before, branch in pairs]
        return Union((*merged, *free.values()))

    def _whole(self, node: Type, written: dict[str, Named]) -> Type:
        """`node` with every name's first use written out."""
        match node:
            case Ref(name) if name not in written:
                found = written[name] = self._names[name]
                if isinstance(found, Record):
                    fields = tuple(replace(field, type=self._whole(field.type, written)) for field in found.fields)
                    found = written[name] = replace(found, fields=fields)
                return found
            case Array(items):
                return Array(self._whole(items, written))
            case MapType(values):
                return MapType(self._whole(values, written))
            case Union(branches):
                return Union(tuple(self._whole(branch, written) for branch in branches))
            case _:
                return node


def _flat(node: Type, renamed: dict[str, str]) -> Type:
    """`node` with nothing but names in the place of named types."""
    match node:
        case Record(name) | EnumType(name) | Fixed(name) | Ref(name):
            return Ref(renamed.get(name, name))
        case Array(items):
            return Array(_flat(items, renamed))
        case MapType(values):
            return MapType(_flat(values, renamed))
        case Union(branches):
            return Union(tuple(_flat(branch, renamed) for branch in branches))
        case _:
            return node


def _branches(node: Type) -> tuple[Type, ...]:
    return node.branches if isinstance(node, Union) else (node,)


def _contradiction(path: str, older: Type, newer: Type) -> Incompatible:
    return Incompatible(
        f"{path or 'the value'} is {describe(older)} in one schema and {describe(newer)} in another",
        hint="no schema can have both: give the newer one another name",
        path=path,
    )
