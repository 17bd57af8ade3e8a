"""Schema text → the tree of `venice/schema/types.py`.

`parse` is stricter than Avro readers usually are: a schema that two Avro libraries would understand differently is
refused here, with the place named, rather than served wrongly later.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from operator import itemgetter
from typing import Any, Final, NoReturn

from venice.errors import InvalidRequest
from venice.schema.defaults import check_defaults
from venice.schema.types import (
    PRIMITIVES,
    Array,
    Default,
    EnumType,
    Field,
    Fixed,
    Logical,
    MapType,
    Named,
    Primitive,
    Record,
    Ref,
    Schema,
    Type,
    Union,
    short_name,
    union_tag,
)

TEXT_BYTES_MAX: Final = 1 << 20
DEPTH_MAX: Final = 64
"""Deepest nesting of types in one schema; generated code and its readers recurse as deep."""
FIELDS_MAX: Final = 2000
"""Most fields in one record: the compatibility checker takes time by their square."""
DECIMAL_PRECISION_MAX: Final = 1000

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FULL_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_LOGICAL: Final = {
    ("int", "date"), ("int", "time-millis"), ("long", "time-micros"),
    ("long", "timestamp-millis"), ("long", "timestamp-micros"),
    ("long", "local-timestamp-millis"), ("long", "local-timestamp-micros"),
    ("string", "uuid"), ("bytes", "decimal"), ("fixed", "decimal"),
}  # fmt: skip


def parse(text: str) -> Schema:
    """The schema in `text` (JSON, or a bare primitive name such as `long`).

    Raises:
        InvalidRequest: Not JSON, or not an Avro schema; the message names the place.
    """
    document = load_json(text)
    parser = _Parser()
    root = parser.type(document, "", "schema", 0)
    schema = Schema(root, parser.names)
    check_defaults(schema)
    return schema


def load_json(text: str) -> Any:
    """The JSON value of a schema text; a bare primitive name counts as its JSON string.

    Raises:
        InvalidRequest: Too large, or not JSON.
    """
    if not isinstance(text, str):
        raise InvalidRequest(f"a schema is text, not {type(text).__name__}", hint="pass the schema as a string of Avro JSON")
    if len(text) > TEXT_BYTES_MAX:
        raise InvalidRequest(f"schema text of {len(text)} characters", hint=f"a schema may have at most {TEXT_BYTES_MAX}")
    if text.strip() in PRIMITIVES:
        return text.strip()
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        excerpt = text.strip()[:40]
        raise InvalidRequest(f"schema {excerpt!r} is not JSON: {error}", hint="pass the schema as Avro JSON") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = Counter(name for name, _ in pairs)
        raise ValueError(f"key {names.most_common(1)[0][0]!r} stands twice in one object")
    return found


def _fail(place: str, problem: str) -> NoReturn:
    raise InvalidRequest(f"not an Avro schema: {place}: {problem}", hint="correct the schema at the place named", place=place)


class _Parser:
    """Walks schema JSON; `names` fills as definitions are met, so a reference must stand after its definition."""

    def __init__(self) -> None:
        self.names: dict[str, Named] = {}
        self._open: set[str] = set()

    def type(self, node: Any, namespace: str, place: str, depth: int) -> Type:
        if depth > DEPTH_MAX:
            _fail(place, f"types nested deeper than {DEPTH_MAX}")
        if isinstance(node, str):
            return self._by_name(node, namespace, place)
        if isinstance(node, list):
            return self._union(node, namespace, place, depth)
        if not isinstance(node, dict):
            _fail(place, f"a type is a name, an object or a list, not {json.dumps(node)}")
        kind = node.get("type")
        if not isinstance(kind, str):
            _fail(place, "'type' is missing" if kind is None else f"'type' must be a name here, not {json.dumps(kind)[:60]}")
        match kind:
            case "array" | "map":
                part = "items" if kind == "array" else "values"
                if part not in node:
                    _fail(place, f"{kind} without {part!r}")
                inner = self.type(node[part], namespace, f"{place}.{part}", depth + 1)
                return Array(inner) if kind == "array" else MapType(inner)
            case "record":
                return self._record(node, namespace, place, depth)
            case "enum":
                return self._enum(node, namespace, place)
            case "fixed":
                return self._fixed(node, namespace, place)
            case _ if kind in PRIMITIVES:
                return Primitive(kind, _logical(node, kind, place))
            case _:
                return self._by_name(kind, namespace, place)

    def _by_name(self, name: str, namespace: str, place: str) -> Type:
        if name in PRIMITIVES:
            return Primitive(name)
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        if full not in self.names and full not in self._open:
            _fail(place, f"unknown type {name!r}")
        return Ref(full)

    def _union(self, branches: list[Any], namespace: str, place: str, depth: int) -> Union:
        if not branches:
            _fail(place, "a union without branches")
        parsed = tuple(self.type(branch, namespace, f"{place}[{i}]", depth + 1) for i, branch in enumerate(branches))
        seen = set()
        for branch in parsed:
            if isinstance(branch, Union):
                _fail(place, "a union directly inside a union")
            tag = union_tag(branch)
            if tag in seen:
                _fail(place, f"two branches of type {tag} in one union")
            seen.add(tag)
        return Union(parsed)

    def _define(self, node: dict[str, Any], namespace: str, place: str) -> tuple[str, str, tuple[str, ...]]:
        """(full name, namespace of its inside, full aliases) of a named type's definition."""
        name, own = node.get("name"), node.get("namespace", namespace)
        if not isinstance(name, str) or not _FULL_NAME.fullmatch(name):
            _fail(place, "'name' is missing" if name is None else f"{json.dumps(name)} is not a name")
        if not isinstance(own, str) or (own and not _FULL_NAME.fullmatch(own)):
            _fail(place, f"{json.dumps(own)} is not a namespace")
        full = name if "." in name or not own else f"{own}.{name}"
        if short_name(full) in PRIMITIVES:
            _fail(place, f"{full!r} is the name of a primitive type")
        if full in self.names or full in self._open:
            _fail(place, f"type {full!r} is defined twice")
        inside = full.rpartition(".")[0]
        return full, inside, tuple(a if "." in a or not inside else f"{inside}.{a}" for a in _aliases(node, _FULL_NAME, place))

    def _record(self, node: dict[str, Any], namespace: str, place: str, depth: int) -> Record:
        full, inside, aliases = self._define(node, namespace, place)
        fields = node.get("fields")
        if not isinstance(fields, list):
            _fail(place, f"record {full} without a list of 'fields'")
        if len(fields) > FIELDS_MAX:
            _fail(full, f"{len(fields)} fields, and a record may have {FIELDS_MAX}")
        self._open.add(full)
        parsed = tuple(self._field(f, inside, full, i, depth) for i, f in enumerate(fields))
        name, count = max(Counter(f.name for f in parsed).items(), key=itemgetter(1), default=("", 0))
        if count > 1:
            _fail(full, f"field {name!r} is defined twice")
        self._open.discard(full)
        record = self.names[full] = Record(full, parsed, aliases)
        return record

    def _field(self, node: Any, namespace: str, record: str, index: int, depth: int) -> Field:
        name = node.get("name") if isinstance(node, dict) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            _fail(f"{record}.fields[{index}]", f"{json.dumps(name)} is not a field name (letters, digits and '_')")
        place = f"{record}.{name}"
        if "type" not in node:
            _fail(place, "'type' is missing")
        kind = self.type(node["type"], namespace, place, depth + 1)
        return Field(name, kind, Default(node["default"]) if "default" in node else None, _aliases(node, _NAME, place))

    def _enum(self, node: dict[str, Any], namespace: str, place: str) -> EnumType:
        full, _, aliases = self._define(node, namespace, place)
        symbols, default = node.get("symbols"), node.get("default")
        if not isinstance(symbols, list) or not symbols or not all(isinstance(s, str) and _NAME.fullmatch(s) for s in symbols):
            _fail(place, f"enum {full} without a list of symbols made of letters, digits and '_'")
        if len(set(symbols)) != len(symbols):
            _fail(place, f"enum {full} has a symbol twice")
        if default is not None and default not in symbols:
            _fail(place, f"default {json.dumps(default)} of enum {full} is not one of its symbols")
        enum = self.names[full] = EnumType(full, tuple(symbols), default, aliases)
        return enum

    def _fixed(self, node: dict[str, Any], namespace: str, place: str) -> Fixed:
        full, _, aliases = self._define(node, namespace, place)
        size = node.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 31:
            _fail(place, f"fixed {full} needs a 'size' of 0 or more bytes")
        fixed = self.names[full] = Fixed(full, size, aliases, _logical(node, "fixed", place, size))
        return fixed


def _aliases(node: dict[str, Any], shape: re.Pattern[str], place: str) -> tuple[str, ...]:
    aliases = node.get("aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(a, str) and shape.fullmatch(a) for a in aliases):
        _fail(place, "'aliases' must be a list of names")
    return tuple(aliases)


def _logical(node: dict[str, Any], kind: str, place: str, size: int = 0) -> Logical | None:
    """The logical type, or None where it is absent or unknown (the specification has readers ignore unknown ones)."""
    name = node.get("logicalType")
    if not isinstance(name, str) or (kind, name) not in _LOGICAL:
        return None
    if name != "decimal":
        return Logical(name)
    precision, scale = node.get("precision"), node.get("scale", 0)
    if not isinstance(precision, int) or isinstance(precision, bool) or not 0 < precision <= DECIMAL_PRECISION_MAX:
        _fail(place, f"a decimal needs a 'precision' of 1 to {DECIMAL_PRECISION_MAX} digits")
    if not isinstance(scale, int) or isinstance(scale, bool) or not 0 <= scale <= precision:
        _fail(place, "a decimal's 'scale' is between 0 and its precision")
    if kind == "fixed" and 10**precision - 1 >= 1 << max(8 * size - 1, 0):
        _fail(place, f"a decimal of {precision} digits does not fit in {size} bytes")
    return Logical(name, precision, scale)
