"""What a reader's schema silently loses of a writer's: fields and symbols it does not have, and digits of numbers. Pure functions."""

from __future__ import annotations

from typing import Final

from venice.schema.matching import Matcher, match_fields
from venice.schema.types import Array, EnumType, Fixed, Logical, MapType, Primitive, Record, Schema, Type, Union, describe

_ROUNDED: Final = frozenset((("int", "float"), ("long", "float"), ("long", "double")))


def lost(writer: Schema, reader: Schema) -> str:
    """What is lost of values of `writer` that are read as `reader`, which can read them; empty if nothing is."""
    return _Loss(writer, reader).of(writer.root, reader.root, "")


class _Loss:
    def __init__(self, writer: Schema, reader: Schema) -> None:
        self._ws = writer
        self._rs = reader
        self._matcher = Matcher(writer, reader)
        self._seen: set[tuple[str, str]] = set()

    def of(self, writer: Type, reader: Type, path: str) -> str:
        writer, reader = self._ws.resolve(writer), self._rs.resolve(reader)
        where = path.removeprefix(".") or "the row"
        match writer, reader:
            case Union(branches), _:
                return next((found for branch in branches if (found := self.of(branch, reader, path))), "")
            case _, Union():
                taken = self._matcher.choose(writer, reader)
                return self.of(writer, taken, path) if taken is not None else ""  # A value that nothing takes is an error.
            case (Array(inner), Array(other)) | (MapType(inner), MapType(other)):
                return self.of(inner, other, f"{path}[]")
            case Record(), Record():
                return self._fields(writer, reader, path)
            case EnumType(), EnumType():
                missing = [symbol for symbol in writer.symbols if symbol not in reader.symbols]
                return f"{where} has the symbol {missing[0]!r} in one only" if missing else ""
            case Primitive(kind), Primitive(wider) if (kind, wider) in _ROUNDED:
                return f"{where} is {kind} in one and {wider} in the other"
            case (Primitive(_, Logical() as before), Primitive(_, Logical() as after)) | (
                Fixed(_, _, _, Logical() as before),
                Fixed(_, _, _, Logical() as after),
            ) if before != after:
                return f"{where} is {describe(writer)} in one and {describe(reader)} in the other"
        return ""

    def _fields(self, writer: Record, reader: Record, path: str) -> str:
        if (writer.name, reader.name) in self._seen:
            return ""
        self._seen.add((writer.name, reader.name))
        taken = {source.name: (source, field) for field, source in match_fields(writer, reader) if source is not None}
        for field in writer.fields:
            if field.name not in taken:
                return f"{f'{path}.{field.name}'.removeprefix('.')} is in one only"
            source, target = taken[field.name]
            if found := self.of(source.type, target.type, f"{path}.{field.name}"):
                return found
        return ""
