"""Hypothesis strategies: Avro schemas of every shape, and values of a schema."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import uuid
from typing import Any

from hypothesis import strategies as st

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
LOGICALS: tuple[dict[str, Any], ...] = (
    {"type": "int", "logicalType": "date"},
    {"type": "int", "logicalType": "time-millis"},
    {"type": "long", "logicalType": "time-micros"},
    {"type": "long", "logicalType": "timestamp-millis"},
    {"type": "long", "logicalType": "timestamp-micros"},
    {"type": "long", "logicalType": "local-timestamp-millis"},
    {"type": "long", "logicalType": "local-timestamp-micros"},
    {"type": "string", "logicalType": "uuid"},
    {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 3},
    {"type": "bytes", "logicalType": "decimal", "precision": 40, "scale": 0},
)
SCALARS = st.sampled_from((*PRIMITIVES, *LOGICALS, {"type": "string", "logicalType": "no-such-type"}))
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Names:
    """The named types of a schema under construction."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.open: list[str] = []
        self.types: dict[str, Any] = {}
        self._used = 0

    def new(self, stem: str) -> str:
        self._used += 1
        return f"{stem}{self._used}"


def tag(schema: Any) -> str:
    kind = schema if isinstance(schema, str) else schema["type"]
    return str(schema["name"]) if kind in ("record", "enum", "fixed") else str(kind)


@st.composite
def schemas(draw: st.DrawFn, *, unions: str = "any", depth: int = 3, root: str | None = None) -> Any:
    """Schema documents. `unions`: "any", or "nullable" for `["null", X]` and `[X, "null"]` only; `root`: kind of the outermost type."""
    return draw_schema(draw, Names(), depth, unions, root)


def draw_schema(draw: st.DrawFn, names: Names, depth: int, unions: str, root: str | None = None) -> Any:
    kinds = ["scalar", "scalar", "enum", "fixed", "fixed-decimal"]
    if names.closed:
        kinds.append("reference")
    if depth > 0:
        kinds += ["record", "record", "array", "map", "union", "union"]
    kind = root or draw(st.sampled_from(kinds))
    match kind:
        case "scalar":
            return draw(SCALARS)
        case "enum":
            name = names.new("E")
            names.closed.append(name)
            count = draw(st.sampled_from((1, 2, 5, 80)))
            names.types[name] = {"type": "enum", "name": name, "symbols": [f"S{i}" for i in range(count)]}
            return names.types[name]
        case "fixed":
            name = names.new("F")
            names.closed.append(name)
            names.types[name] = {"type": "fixed", "name": name, "size": draw(st.integers(0, 20))}
            return names.types[name]
        case "fixed-decimal":
            name = names.new("D")
            names.closed.append(name)
            decimal_type = {"logicalType": "decimal", "precision": 9, "scale": 2}
            names.types[name] = {"type": "fixed", "name": name, "size": draw(st.integers(4, 9)), **decimal_type}
            return names.types[name]
        case "reference":
            return draw(st.sampled_from(names.closed))
        case "array":
            return {"type": "array", "items": draw_schema(draw, names, depth - 1, unions)}
        case "map":
            return {"type": "map", "values": draw_schema(draw, names, depth - 1, unions)}
        case "union":
            return draw_union(draw, names, depth, unions)
    return draw_record(draw, names, depth, unions)


def draw_union(draw: st.DrawFn, names: Names, depth: int, unions: str) -> Any:
    if unions == "nullable":
        other = draw_schema(draw, names, depth - 1, unions)
        if isinstance(other, list) or tag(other) == "null":
            return other
        return draw(st.sampled_from((["null", other], [other, "null"])))
    branches: list[Any] = []
    for _ in range(draw(st.integers(1, 5))):
        closed = list(names.closed)
        branch = draw_schema(draw, names, depth - 1, unions)
        if isinstance(branch, list) or tag(branch) in map(tag, branches):
            names.closed = closed  # the branch is dropped, and nothing may refer to what it defined
        else:
            branches.append(branch)
    return branches or ["null", "long"]


def draw_record(draw: st.DrawFn, names: Names, depth: int, unions: str) -> Any:
    name = names.new("R")
    names.open.append(name)
    fields = []
    for index in range(draw(st.integers(0, 5))):
        fields.append({"name": f"f{index}", "type": draw_schema(draw, names, depth - 1, unions)})
    if draw(st.integers(0, 4)) == 0:
        fields.append({"name": "next", "type": ["null", name], "default": None})
    names.open.remove(name)
    names.closed.append(name)
    names.types[name] = {"type": "record", "name": name, "fields": fields}
    return names.types[name]


def named_types(schema: Any, found: dict[str, Any] | None = None) -> dict[str, Any]:
    """Every named type of a schema document, by name."""
    found = {} if found is None else found
    if isinstance(schema, list):
        for branch in schema:
            named_types(branch, found)
    elif isinstance(schema, dict):
        if "name" in schema:
            found[schema["name"]] = schema
        for field in schema.get("fields", ()):
            named_types(field["type"], found)
        for part in ("items", "values"):
            if part in schema:
                named_types(schema[part], found)
    return found


def values(schema: Any) -> st.SearchStrategy[Any]:
    """Values as a decoder returns them."""
    return _values(schema, named_types(schema), 4)


def _values(schema: Any, names: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    if isinstance(schema, list):
        branches = [b for b in schema if depth > 0 or b == "null"] or schema
        return st.one_of([_values(branch, names, depth) for branch in branches])
    if isinstance(schema, str) and schema in names:
        return st.deferred(lambda: _values(names[schema], names, depth - 1))
    kind = schema if isinstance(schema, str) else schema["type"]
    logical = None if isinstance(schema, str) else schema.get("logicalType")
    if logical in _LOGICAL_VALUES:
        return _LOGICAL_VALUES[logical]
    if logical == "decimal":
        return _decimals(schema["precision"], schema["scale"])
    match kind:
        case "enum":
            return st.sampled_from(schema["symbols"])
        case "fixed":
            return st.binary(min_size=schema["size"], max_size=schema["size"])
        case "array":
            return st.lists(_values(schema["items"], names, depth - 1), max_size=6 if depth > 1 else 2)
        case "map":
            return st.dictionaries(st.text(max_size=8), _values(schema["values"], names, depth - 1), max_size=4 if depth > 1 else 2)
        case "record":
            return st.fixed_dictionaries({field["name"]: _values(field["type"], names, depth) for field in schema["fields"]})
    return _PRIMITIVE_VALUES[kind]


def _decimals(precision: int, scale: int) -> st.SearchStrategy[decimal.Decimal]:
    limit = 10**precision - 1
    context = decimal.Context(prec=precision + scale + 1)
    return st.integers(-limit, limit).map(lambda n: decimal.Decimal(n).scaleb(-scale, context))


def _longs(bits: int) -> st.SearchStrategy[int]:
    limit = 1 << (bits - 1)
    edges = [s * (1 << e) + d for e in range(bits - 1) for s in (1, -1) for d in (-1, 0, 1)] + [-limit, limit - 1]
    return st.one_of(st.integers(-70, 70), st.integers(-limit, limit - 1), st.sampled_from([e for e in edges if -limit <= e < limit]))


_PRIMITIVE_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "null": st.none(),
    "boolean": st.booleans(),
    "int": _longs(32),
    "long": _longs(64),
    "float": st.floats(width=32),
    "double": st.floats(),
    "bytes": st.one_of(st.binary(max_size=20), st.binary(min_size=60, max_size=200)),
    "string": st.one_of(st.text(max_size=10), st.text(min_size=50, max_size=100)),
}
_DATETIMES = st.datetimes()
_MILLIS = _DATETIMES.map(lambda value: value.replace(microsecond=value.microsecond // 1000 * 1000))
_LOGICAL_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "date": st.dates(),
    "time-millis": st.times().map(lambda value: value.replace(microsecond=value.microsecond // 1000 * 1000)),
    "time-micros": st.times(),
    "timestamp-millis": _MILLIS.map(lambda value: value.replace(tzinfo=dt.UTC)),
    "timestamp-micros": _DATETIMES.map(lambda value: value.replace(tzinfo=dt.UTC)),
    "local-timestamp-millis": _MILLIS,
    "local-timestamp-micros": _DATETIMES,
    "uuid": st.binary(min_size=16, max_size=16).map(lambda data: uuid.UUID(bytes=data)),
}


def same(left: Any, right: Any) -> bool:
    """Equal values of equal classes; NaN equals itself, and 0.0 is not -0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(item, right[key]) for key, item in left.items())
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return (math.isnan(left) and math.isnan(right)) or (left == right and math.copysign(1, left) == math.copysign(1, right))
    return bool(left == right)
