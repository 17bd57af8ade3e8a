"""Whether everything written with one schema can be read with another, and where not.

The verdict is that of the Apache `avro` library's checker, asked through `venice/schema/registry.py`. This module finds
the path of what is wrong (the checker loses it inside unions) and refuses what the checker lets through:

- another logical type, or another scale or precision of a decimal: the checker ignores logical types, and readers would
  take 12.34 for 1.234, or milliseconds for microseconds;
- `string` for `bytes` or the reverse: the specification allows it, and readers fail on bytes that are no text.
"""

from __future__ import annotations

from venice.schema.matching import PROMOTIONS, match_fields, same_name
from venice.schema.types import (
    Array,
    EnumType,
    Fixed,
    MapType,
    Primitive,
    Record,
    Schema,
    Type,
    Union,
    describe,
)

_TEXT_AND_BYTES = {("string", "bytes"), ("bytes", "string")}


class Misfit(Exception):
    """Something written cannot be read; `path` grows from the inside out while the exception rises."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = ""


def find_misfit(writer: Schema, reader: Schema) -> tuple[str, str] | None:
    """(path, reason) of something that `writer` writes and `reader` cannot read, or None. An empty path is the root."""
    try:
        _Walk(writer, reader).check(writer.root, reader.root)
    except Misfit as error:
        return error.path.lstrip("."), error.reason
    return None


class _Walk:
    def __init__(self, writer: Schema, reader: Schema) -> None:
        self._ws = writer
        self._rs = reader
        self._seen: set[tuple[str, str]] = set()

    def check(self, writer: Type, reader: Type) -> None:
        writer, reader = self._ws.resolve(writer), self._rs.resolve(reader)
        match writer, reader:
            case Union(branches), _:
                for branch in branches:
                    self.check(branch, reader)
            case _, Union():
                self._check_branches(writer, reader)
            case Primitive(), Primitive():
                self._check_primitive(writer, reader)
            case (Array(w_inner), Array(r_inner)) | (MapType(w_inner), MapType(r_inner)):
                self._check_inside("[]" if isinstance(writer, Array) else "{}", w_inner, r_inner)
            case (Fixed(), Fixed()) | (EnumType(), EnumType()) | (Record(), Record()):
                self._check_named(writer, reader)
            case _:
                raise Misfit(f"{describe(writer)} cannot be read as {describe(reader)}")

    def _check_inside(self, step: str, writer: Type, reader: Type) -> None:
        try:
            self.check(writer, reader)
        except Misfit as error:
            error.path = step + error.path
            raise

    def _check_branches(self, writer: Type, reader: Union) -> None:
        problems: list[tuple[bool, Misfit]] = []
        for branch in reader.branches:
            seen = set(self._seen)
            try:
                self.check(writer, branch)
                return
            except Misfit as error:
                self._seen = seen
                problems.append((self._alike(writer, branch), error))
        # The branch of the same kind says what is wrong inside; "not one of the branches" would not.
        inner = next((problem for alike, problem in problems if alike), None)
        raise inner or Misfit(f"{describe(writer)} is none of {describe(reader)}")

    def _alike(self, writer: Type, branch: Type) -> bool:
        branch = self._rs.resolve(branch)
        if isinstance(branch, Primitive) and isinstance(writer, Primitive):
            return branch.kind == writer.kind
        if isinstance(branch, Record) and isinstance(writer, Record):
            return same_name(writer.name, branch.name, branch.aliases)
        return type(branch) is type(writer)

    def _check_primitive(self, writer: Primitive, reader: Primitive) -> None:
        pair = (writer.kind, reader.kind)
        if writer.kind != reader.kind and (pair not in PROMOTIONS or pair in _TEXT_AND_BYTES):
            raise Misfit(f"{describe(writer)} cannot be read as {describe(reader)}")
        self._check_logical(writer, reader)

    def _check_logical(self, writer: Primitive | Fixed, reader: Primitive | Fixed) -> None:
        if writer.logical != reader.logical:
            raise Misfit(f"{_full(writer)} means something else than {_full(reader)}")

    def _check_named(self, writer: Type, reader: Type) -> None:
        assert isinstance(writer, (Fixed, EnumType, Record))
        assert isinstance(reader, (Fixed, EnumType, Record))
        if not same_name(writer.name, reader.name, reader.aliases):
            raise Misfit(f"{describe(writer)} is not {describe(reader)} (add an alias to rename a type)")
        match writer, reader:
            case Fixed(), Fixed():
                if writer.size != reader.size:
                    raise Misfit(f"{describe(writer)} is not {describe(reader)}")
                self._check_logical(writer, reader)
            case EnumType(), EnumType():
                unknown = [symbol for symbol in writer.symbols if symbol not in set(reader.symbols)]
                if unknown and reader.default is None:
                    raise Misfit(f"{describe(reader)} lacks the symbols {', '.join(unknown[:5])} and has no default symbol")
            case Record(), Record():
                self._check_record(writer, reader)

    def _check_record(self, writer: Record, reader: Record) -> None:
        pair = (writer.name, reader.name)
        if pair in self._seen:
            return
        self._seen.add(pair)
        for field, source in match_fields(writer, reader):
            if source is not None:
                self._check_inside(f".{field.name}", source.type, field.type)
            elif field.default is None:
                error = Misfit(f"{describe(writer)} does not have the field, and {describe(reader)} gives it no default")
                error.path = f".{field.name}"
                raise error


def _full(node: Primitive | Fixed) -> str:
    if node.logical is not None and node.logical.name == "decimal":
        return f"decimal({node.logical.precision}, {node.logical.scale})"
    return describe(node)
