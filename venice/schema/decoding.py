"""Generates the decoder of a schema, or of a (writer, reader) pair of schemas, as Python source.

The generated function walks `b` from offset `o` with everything inlined: numbers, lengths, records as dict displays.
Bounds are checked where memory or time depends on them and once at the end: a slice past the end is short and harmless,
and the next byte read after it raises IndexError. Whatever garbage raises is one of `GARBAGE`, which becomes `Corrupt`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any, Final

from venice.schema.decoding_source import DecoderSource
from venice.schema.decoding_steps import (
    BOOLEANS,
    GARBAGE,
    RUNS,
    corrupt,
    refuse_number,
    refuse_value,
)
from venice.schema.defaults import default_bytes
from venice.schema.logical import FROM_AVRO, decimal_reader
from venice.schema.matching import PROMOTIONS, Matcher, match_fields
from venice.schema.source import DEPTH_MAX
from venice.schema.types import (
    Array,
    EnumType,
    Field,
    Fixed,
    Logical,
    MapType,
    Primitive,
    Record,
    Ref,
    Schema,
    Type,
    Union,
    describe,
    is_zero_width,
)
from venice.schema.varint import int_tail, unsigned_tail

_FLOATS: Final = {("float", "float"), ("float", "double"), ("double", "double")}


def generate_decoder(writer: Schema, reader: Schema, *, whole: bool) -> Callable[..., Any]:
    """The compiled decoder.

    Args:
        whole: True: `decode(data, offset=0) -> value`, Corrupt unless the value ends with the data. False:
            `decode(data, offset=0) -> (value, end)`.

    Raises:
        Incompatible: No value of the writer's schema can be read with the reader's.
    """
    return _Generator(writer, reader).run(whole=whole)


class _Generator:
    def __init__(self, writer: Schema, reader: Schema) -> None:
        self._ws = writer
        self._rs = reader
        self._matcher = Matcher(writer, reader)
        self._out = DecoderSource()
        self._functions: dict[tuple[str, str], str] = {}
        self._pending: list[tuple[str, Type, Type, list[str]]] = []
        self._skips: list[tuple[str, Type]] = []
        self._path = [describe(reader.root)]

    def run(self, *, whole: bool) -> Callable[..., Any]:
        out = self._out
        error = out.share(GARBAGE, "garbage")
        what = describe(self._ws.root)
        fail = out.share(lambda data, problem: corrupt(what, data, problem), "corrupt")
        with out.block("def decode(b, o=0)"):
            with out.block("try"):
                value = self._read(self._ws.root, self._rs.root)
                with out.block("if o == len(b)" if whole else "if o <= len(b)"):
                    out.line(f"return {value}" if whole else f"return {value}, o")
            with out.block(f"except {error} as problem"):
                out.line(f"raise {fail}(b, problem) from problem")
            out.line(f"raise {fail}(b, None if o < len(b) else IndexError('the data end within the value'))")
        while self._pending or self._skips:
            self._write_function()
        decoder: Callable[..., Any] = out.compile("decode")
        return decoder

    def _write_function(self) -> None:
        out = self._out
        if self._pending:
            name, writer, reader, self._path = self._pending.pop()
            with out.block(f"def {name}(b, o)"):
                out.line(f"return {self._read(writer, reader)}, o")
            return
        name, writer = self._skips.pop()
        with out.block(f"def {name}(b, o)"):
            self._skip(writer)
            out.line("return o")

    # Each of the following writes statements that move `o` past the writer's value, and returns an expression of the reader's value.

    def _read(self, writer: Type, reader: Type) -> str:
        if isinstance(writer, Union):
            return self._union(writer, reader)
        if isinstance(reader, Union):
            branch = self._matcher.choose(writer, reader)
            return self._refuse(writer, reader) if branch is None else self._read(writer, branch)
        if isinstance(writer, Ref) or isinstance(reader, Ref):
            return self._call(writer, reader)
        if self._out.depth > DEPTH_MAX and not isinstance(writer, Primitive):
            return self._call(writer, reader)
        match writer, reader:
            case Primitive(), Primitive() if writer.kind == reader.kind or (writer.kind, reader.kind) in PROMOTIONS:
                return self._primitive(writer.kind, reader)
            case Array(w_items), Array(r_items):
                return self._array(w_items, r_items)
            case MapType(w_values), MapType(r_values):
                return self._map(w_values, r_values)
            case (Fixed(), Fixed()) | (EnumType(), EnumType()) | (Record(), Record()) if writer is reader or self._matcher.resolvable(
                writer, reader
            ):
                return self._named(writer, reader)
        return self._refuse(writer, reader)

    def _named(self, writer: Type, reader: Type) -> str:
        match writer, reader:
            case Fixed(), Fixed():
                value = self._out.keep(f"b[o:o + {writer.size}]")
                self._out.line(f"o += {writer.size}")
                return self._logical(value, reader.logical)
            case EnumType(), EnumType():
                return self._enum(writer, reader)
            case Record(), Record():
                return self._record(writer, reader)
        raise AssertionError("only named types come here")

    def _call(self, writer: Type, reader: Type) -> str:
        """A function of its own: for a type used twice or within itself, and where the code is nested too deeply."""
        key = (getattr(writer, "name", ""), getattr(reader, "name", ""))
        named = isinstance(writer, (Ref, Record)) and isinstance(reader, (Ref, Record))
        name = self._functions.get(key) if named else None
        if name is None:
            name = self._out.fresh("read_")
            self._pending.append((name, self._ws.resolve(writer), self._rs.resolve(reader), list(self._path)))
            if named:
                self._functions[key] = name
        value = self._out.fresh("v")
        self._out.line(f"{value}, o = {name}(b, o)")
        return value

    def _refuse(self, writer: Type, reader: Type) -> str:
        problem = f"{'.'.join(self._path)}: {describe(writer)} cannot be read as {describe(reader)}"
        self._out.line(f"{self._out.share(refuse_value, 'unreadable')}({problem!r})")
        return "None"

    def _logical(self, value: str, logical: Logical | None) -> str:
        if logical is None:
            return value
        convert = decimal_reader(logical) if logical.name == "decimal" else FROM_AVRO[logical.name]
        return self._out.keep(f"{self._out.share(convert, 'logical')}({value})")

    def _primitive(self, kind: str, reader: Primitive) -> str:
        value = self._raw(kind, as_bytes=reader.kind == "bytes")
        if reader.kind in ("float", "double") and kind in ("int", "long"):
            value = f"float({value})"
        elif kind == "bytes" and reader.kind == "string":
            value = self._out.keep(f"{value}.decode()")
        return self._logical(value, reader.logical)

    def _raw(self, kind: str, *, as_bytes: bool = False) -> str:
        match kind:
            case "null":
                return "None"
            case "boolean":
                value = self._out.keep(f"{self._out.share(BOOLEANS, 'booleans')}[b[o]]")
                self._out.line("o += 1")
                return value
            case "int" | "long":
                return self._out.signed(int_tail if kind == "int" else unsigned_tail)
            case "float" | "double":
                return self._out.fixed_run([kind])[0]
            case _:
                start = self._out.span()
                return self._out.keep(f"b[{start}:o]" if kind == "bytes" or as_bytes else f"b[{start}:o].decode()")

    def _enum(self, writer: EnumType, reader: EnumType) -> str:
        number = self._out.unsigned()
        symbols = {
            index << 1: symbol if symbol in reader.symbols else reader.default
            for index, symbol in enumerate(writer.symbols)
            if symbol in reader.symbols or reader.default is not None
        }
        if len(symbols) < len(writer.symbols):
            unknown = {i << 1: symbol for i, symbol in enumerate(writer.symbols) if i << 1 not in symbols}
            with self._out.block(f"if {number} in {self._out.share(unknown, 'unknown')}"):
                problem = f"{'.'.join(self._path)}: enum {reader.name} has no symbol for one that was written, and no default"
                self._out.line(f"{self._out.share(refuse_value, 'unreadable')}({problem!r})")
        return self._out.keep(f"{self._out.share(symbols, 'symbols')}[{number}]")

    def _union(self, writer: Union, reader: Type) -> str:
        out = self._out
        value, branch = out.fresh("v"), out.fresh("n")
        if len(writer.branches) > 64:
            branch = self._out.unsigned()
        else:
            out.line(f"{branch} = b[o]")
            out.line("o += 1")
        for index, option in enumerate(writer.branches):
            with out.block(f"{'elif' if index else 'if'} {branch} == {index << 1}"):
                target = reader.branches[index] if writer is reader else reader
                out.line(f"{value} = {self._read(option, target)}")
        with out.block("else"):
            out.line(f"{out.share(refuse_number, 'bad')}()")
        return value

    def _array(self, writer: Type, reader: Type) -> str:
        items, target = self._ws.resolve(writer), self._rs.resolve(reader)
        if isinstance(items, Primitive) and isinstance(target, Primitive) and (items.kind, target.kind) in _FLOATS:
            return self._out.numbers(items.kind)
        out = self._out
        empty = is_zero_width(self._ws, writer)
        value = self._out.keep("[]")
        with out.items(f"len({value})" if empty else None):
            self._path.append("[]")
            item = self._read(writer, reader)
            self._path.pop()
            out.line(f"{value}.append({item})")
        return value

    def _map(self, writer: Type, reader: Type) -> str:
        out = self._out
        value = self._out.keep("{}")
        with out.items():
            start = self._out.span()
            key = self._out.keep(f"b[{start}:o].decode()")
            self._path.append("{}")
            item = self._read(writer, reader)
            self._path.pop()
            out.line(f"{value}[{key}] = {item}")
        return value

    def _record(self, writer: Record, reader: Record) -> str:
        targets = {source.name: field for field, source in match_fields(writer, reader) if source is not None}
        values: dict[str, str] = {}
        for plain, run in groupby(writer.fields, lambda f: self._is_plain(f, targets.get(f.name))):
            fields = list(run)
            if plain:
                names = self._out.fixed_run([self._plain_kind(f) for f in fields])
                values.update((targets[f.name].name, name) for f, name in zip(fields, names, strict=True))
                continue
            for field in fields:
                target = targets.get(field.name)
                if target is None:
                    self._skip(field.type)
                    continue
                self._path.append(target.name)
                values[target.name] = self._read(field.type, target.type)
                self._path.pop()
        for field in reader.fields:
            if field.name not in values:
                values[field.name] = self._default(reader, field)
        return "{" + ", ".join(f"{field.name!r}: {values[field.name]}" for field in reader.fields) + "}"

    def _plain_kind(self, field: Field) -> str:
        assert isinstance(field.type, Primitive)
        return field.type.kind

    def _is_plain(self, field: Field, target: Field | None) -> bool:
        return (
            target is not None
            and isinstance(field.type, Primitive)
            and isinstance(target.type, Primitive)
            and (field.type.kind, target.type.kind) in _FLOATS
        )

    def _skip(self, node: Type) -> None:
        """Moves `o` past a value that the reader does not have, looking at lengths only."""
        out = self._out
        if isinstance(node, Ref) or (out.depth > DEPTH_MAX and not isinstance(node, Primitive)):
            out.line(f"o = {self._skip_function(node)}(b, o)")
            return
        match node:
            case Primitive("null"):
                pass
            case Primitive("boolean"):
                out.line("o += 1")
            case Primitive("int" | "long") | EnumType():
                out.unsigned()
            case Primitive("float" | "double" as kind):
                out.line(f"o += {RUNS[kind][1]}")
            case Primitive():
                out.span()
            case Fixed(_, size):
                out.line(f"o += {size}")
            case Array(Primitive("float" | "double" as kind)):
                out.skip_numbers(kind)
            case Array(items):
                with out.items("0" if is_zero_width(self._ws, items) else None):
                    out.line("pass")
                    self._skip(items)
            case MapType(values):
                with out.items():
                    out.span()
                    self._skip(values)
            case Union(branches):
                branch = out.unsigned()
                for index, option in enumerate(branches):
                    with out.block(f"{'elif' if index else 'if'} {branch} == {index << 1}"):
                        out.line("pass")
                        self._skip(option)
                with out.block("else"):
                    out.line(f"{out.share(refuse_number, 'bad')}()")
            case Record(_, fields):
                for field in fields:
                    self._skip(field.type)

    def _skip_function(self, node: Type) -> str:
        key = (node.name, "") if isinstance(node, Ref) else None
        name = self._functions.get(key) if key else None
        if name is None:
            name = self._out.fresh("skip_")
            self._skips.append((name, self._ws.resolve(node)))
            if key:
                self._functions[key] = name
        return name

    def _default(self, record: Record, field: Field) -> str:
        """The default as a value of its own each time: what a caller does to it must not reach the next reader."""
        data = default_bytes(self._rs, record, field)
        alone = Schema(field.type, self._rs.names)
        return f"{self._out.share(generate_decoder(alone, alone, whole=True), 'default')}({data!r})"
