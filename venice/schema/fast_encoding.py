"""Generates the encoder of a schema as Python source, for values of the ordinary Python classes.

The generated function either writes what `encoding.py` would write, or raises anything at all: the caller then runs
`encoding.py`, which knows the rarer classes and says what is wrong. So the fast code checks classes by identity, has no
words for problems, and needs no care in the order it finds them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final

from venice.schema.defaults import default_bytes
from venice.schema.encoding import DOUBLE_INTEGER_MAX, FLOAT_INTEGER_MAX, class_rank, encode, floating, sequence
from venice.schema.logical import LOGICAL_CLASSES, to_avro
from venice.schema.source import DEPTH_MAX, Source
from venice.schema.types import (
    Array,
    EnumType,
    Fixed,
    Logical,
    MapType,
    Primitive,
    Record,
    Ref,
    Schema,
    Type,
    Union,
    is_zero_width,
)
from venice.schema.varint import encode_int, encode_long

_SHORT: Final = tuple(encode_long(n if n < 64 else n - 128) for n in range(128))
"""Encoded integers of one byte; a negative index finds the negative ones at the end."""
_BOOLEANS: Final = {True: b"\x01", False: b"\x00"}
_MISSING: Final = object()
_KEY: Final = itemgetter(0)
_CLASSES: Final[dict[str, tuple[type, ...]]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "int": (int,),
    "long": (int,),
    "float": (float, int),
    "double": (float, int),
    "bytes": (bytes,),
    "string": (str,),
}


class _Slow(Exception):
    """Not for the fast encoder."""


def _slow() -> None:
    raise _Slow


class _Packers(dict[int, Callable[..., bytes]]):
    """Number of items → the function that packs so many floats or doubles."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __missing__(self, count: int) -> Callable[..., bytes]:
        pack = struct.Struct(f"<{count}{self._code}").pack
        if count <= 4096:
            self[count] = pack
        return pack


def _run_packer(code: str, integer_max: int) -> Callable[[Any], bytes]:
    packers = _Packers(code)

    def pack(values: Any) -> bytes:
        """A whole array of floats (lists, tuples, NumPy arrays; floats and exact integers only)."""
        if values.__class__ is not list:
            values = sequence(values)
        if set(map(type, values)) != {float}:
            if not values:
                return b"\x00"
            values = [floating(value, integer_max) for value in values]
        return encode_long(len(values)) + packers[len(values)](*values) + b"\x00"

    return pack


_RUNS: Final = {"float": _run_packer("f", FLOAT_INTEGER_MAX), "double": _run_packer("d", DOUBLE_INTEGER_MAX)}


def _as_float(value: Any) -> float:
    number = floating(value, FLOAT_INTEGER_MAX)
    if number is None:
        raise _Slow
    return number


def _as_double(value: Any) -> float:
    number = floating(value, DOUBLE_INTEGER_MAX)
    if number is None:
        raise _Slow
    return number


def generate_encoder(schema: Schema, *, sort_maps: bool) -> Callable[[Any], bytes]:
    """`encode(value) -> bytes`; raises InvalidRequest as `encoding.encode` does."""
    return _Generator(schema, sort_maps=sort_maps).run()


class _Generator:
    def __init__(self, schema: Schema, *, sort_maps: bool) -> None:
        self._schema = schema
        self._sort_maps = sort_maps
        self._out = Source()
        self._functions: dict[str, str] = {}
        self._pending: list[tuple[str, Type]] = []

    def run(self) -> Callable[[Any], bytes]:
        out, schema, sort_maps = self._out, self._schema, self._sort_maps
        slow = out.share(lambda value: encode(schema, value, sort_maps=sort_maps), "slow")
        with out.block("def encode(v)"):
            with out.block("try"):
                out.line(f"return {self._join(self._write(schema.root, 'v'))}")
            with out.block("except Exception"):
                out.line("pass")
            # Outside the handler, so that an error names the value and not the fast path's own exception.
            out.line(f"return {slow}(v)")
        while self._pending:
            name, node = self._pending.pop()
            with out.block(f"def {name}(v)"):
                out.line(f"return {self._join(self._write(node, 'v'))}")
        encoder: Callable[[Any], bytes] = out.compile("encode")
        return encoder

    def _join(self, parts: list[str]) -> str:
        if len(parts) <= 2:
            return " + ".join(parts) or "b''"
        return f"b''.join(({', '.join(parts)}))"

    def _check(self, condition: str) -> None:
        with self._out.block(f"if {condition}"):
            self._out.line(f"{self._out.share(_slow, 'slow')}()")

    def _keep(self, expression: str) -> str:
        name = self._out.fresh("p")
        self._out.line(f"{name} = {expression}")
        return name

    # Writes statements that check the value named `v`, and returns expressions of its bytes.

    def _write(self, node: Type, v: str) -> list[str]:
        if isinstance(node, Ref) or (self._out.depth > DEPTH_MAX and not isinstance(node, Primitive)):
            return [self._call(node, v)]
        match node:
            case Primitive(kind, logical):
                if logical is not None:
                    v = self._keep(f"{self._out.share(to_avro, 'to_avro')}({self._out.share(logical, 'logical')}, {v})")
                return self._primitive(kind, v)
            case Fixed(_, size, _, logical):
                if logical is not None:
                    v = self._keep(f"{self._out.share(to_avro, 'to_avro')}({self._out.share(logical, 'logical')}, {v}, {size})")
                self._check(f"{v}.__class__ is not bytes or len({v}) != {size}")
                return [v]
            case EnumType(_, symbols):
                table = {symbol: encode_long(index) for index, symbol in enumerate(symbols)}
                return [self._keep(f"{self._out.share(table, 'symbols')}[{v}]")]
            case Array(items):
                return self._array(items, v)
            case MapType(values):
                return self._map(values, v)
            case Union():
                return [self._union(node, v)]
            case Record():
                return self._record(node, v)

    def _call(self, node: Type, v: str) -> str:
        name = self._functions.get(node.name) if isinstance(node, Ref) else None
        if name is None:
            name = self._out.fresh("write_")
            self._pending.append((name, self._schema.resolve(node)))
            if isinstance(node, Ref):
                self._functions[node.name] = name
        return self._keep(f"{name}({v})")

    def _primitive(self, kind: str, v: str) -> list[str]:
        out = self._out
        match kind:
            case "null":
                self._check(f"{v} is not None")
                return []
            case "boolean":
                self._check(f"{v}.__class__ is not bool")
                return [self._keep(f"{out.share(_BOOLEANS, 'booleans')}[{v}]")]
            case "int" | "long":
                self._check(f"{v}.__class__ is not int")
                part = out.fresh("p")
                with out.block(f"if -64 <= {v} < 64"):
                    out.line(f"{part} = {out.share(_SHORT, 'short')}[{v}]")
                with out.block("else"):
                    out.line(f"{part} = {out.share(encode_int if kind == 'int' else encode_long, 'long')}({v})")
                return [part]
            case "float" | "double":
                convert = _as_float if kind == "float" else _as_double
                with out.block(f"if {v}.__class__ is not float"):
                    out.line(f"{v} = {out.share(convert, 'convert')}({v})")
                pack = struct.Struct("<f" if kind == "float" else "<d").pack
                return [self._keep(f"{out.share(pack, 'pack')}({v})")]
            case "bytes":
                self._check(f"{v}.__class__ is not bytes")
                return [self._length(v), v]
            case _:
                text = self._keep(f"{out.share(str.encode, 'utf8')}({v})")
                return [self._length(text), text]

    def _length(self, data: str) -> str:
        length = self._keep(f"len({data})")
        short, longer = self._out.share(_SHORT, "short"), self._out.share(encode_long, "long")
        return self._keep(f"{short}[{length}] if {length} < 64 else {longer}({length})")

    def _array(self, items: Type, v: str) -> list[str]:
        plain = self._schema.resolve(items)
        if isinstance(plain, Primitive) and plain.kind in _RUNS:
            return [self._keep(f"{self._out.share(_RUNS[plain.kind], 'run')}({v})")]
        self._check(f"{v}.__class__ is not list")
        if is_zero_width(self._schema, items):
            self._check(f"len({v}) > 64")
        item = self._out.fresh("v")
        return self._block(f"for {item} in {v}", v, lambda: self._write(items, item))

    def _map(self, values: Type, v: str) -> list[str]:
        self._check(f"{v}.__class__ is not dict")
        key, item = self._out.fresh("k"), self._out.fresh("v")

        def entry() -> list[str]:
            return self._primitive("string", key) + self._write(values, item)

        # Sorting the texts is sorting their UTF-8 bytes: both order by code point.
        source = f"sorted({v}.items(), key={self._out.share(_KEY, 'key')})" if self._sort_maps else f"{v}.items()"
        return self._block(f"for {key}, {item} in {source}", v, entry)

    def _block(self, loop: str, v: str, write: Callable[[], list[str]]) -> list[str]:
        parts = self._keep("[]")
        with self._out.block(loop):
            expressions = write()
            if len(expressions) == 1:
                self._out.line(f"{parts}.append({expressions[0]})")
            elif expressions:
                self._out.line(f"{parts} += ({', '.join(expressions)})")
            else:
                self._out.line("pass")
        joined = f"{self._out.share(encode_long, 'long')}(len({v})) + b''.join({parts}) + b'\\0'"
        return [self._keep(f"{joined} if {v} else b'\\0'")]

    def _record(self, node: Record, v: str) -> list[str]:
        self._check(f"{v}.__class__ is not dict")
        missing = self._out.share(_MISSING, "missing")
        parts: list[str] = []
        optional = any(field.default is not None for field in node.fields)
        count = self._keep(str(len(node.fields))) if optional else str(len(node.fields))
        for field in node.fields:
            value = self._out.fresh("v")
            if field.default is None:
                self._out.line(f"{value} = {v}[{field.name!r}]")
                parts += self._write(field.type, value)
                continue
            part = self._out.fresh("p")
            self._out.line(f"{value} = {v}.get({field.name!r}, {missing})")
            with self._out.block(f"if {value} is {missing}"):
                self._out.line(f"{count} -= 1")
                self._out.line(f"{part} = {default_bytes(self._schema, node, field)!r}")
            with self._out.block("else"):
                self._out.line(f"{part} = {self._join(self._write(field.type, value))}")
            parts.append(part)
        self._check(f"len({v}) != {count}")
        return parts

    def _union(self, node: Union, v: str) -> str:
        out = self._out
        part, branch = out.fresh("p"), out.fresh("i")
        out.line(f"{branch} = {out.share(self._classes(node), 'classes')}[{v}.__class__]")
        for index, option in enumerate(node.branches):
            with out.block(f"{'elif' if index else 'if'} {branch} == {index}"):
                out.line(f"{part} = {self._join([repr(encode_long(index)), *self._write(option, v)])}")
        return part

    def _classes(self, node: Union) -> dict[type, int]:
        """Class → the branch that `encoding.choose` would try first; where that depends on the value, the class is left out."""
        takers: dict[type, list[tuple[int, int]]] = {}
        for index, branch in enumerate(node.branches):
            for kind in self._takes(branch):
                takers.setdefault(kind, []).append((class_rank(self._schema.resolve(branch), kind), index))
        if any(isinstance(self._schema.resolve(branch), Record) for branch in node.branches) and len(takers[dict]) > 1:
            del takers[dict]
        return {kind: min(ranked)[1] for kind, ranked in takers.items()}

    def _takes(self, branch: Type) -> tuple[type, ...]:
        match self._schema.resolve(branch):
            case Primitive(_, Logical(name)) | Fixed(_, _, _, Logical(name)):
                return LOGICAL_CLASSES[name]
            case Primitive(kind):
                return _CLASSES[kind]
            case Fixed():
                return (bytes,)
            case EnumType():
                return (str,)
            case Array():
                return (list,)
            case _:
                return (dict,)
