"""Whether, and as which type, a reader takes what a writer wrote (Avro's schema resolution)."""

from __future__ import annotations

from typing import Final

from venice.schema.types import Array, EnumType, Field, Fixed, MapType, Primitive, Record, Schema, Type, Union, short_name

PROMOTIONS: Final = {
    ("int", "long"), ("int", "float"), ("int", "double"), ("long", "float"), ("long", "double"), ("float", "double"),
    ("string", "bytes"), ("bytes", "string"),
}  # fmt: skip


def same_name(writer: str, reader: str, aliases: tuple[str, ...]) -> bool:
    """Whether a named type of the reader is the writer's: by unqualified name, or by alias."""
    return short_name(writer) == short_name(reader) or writer in aliases or short_name(writer) in map(short_name, aliases)


def match_fields(writer: Record, reader: Record) -> list[tuple[Field, Field | None]]:
    """Each field of the reader with the writer's field that it takes its value from: by name, or else by alias.

    A field is taken once; one of the reader's own name is not lent to an alias.
    """
    free = {field.name: field for field in writer.fields}
    by_name = {field.name: free.pop(field.name, None) for field in reader.fields}
    pairs = []
    for field in reader.fields:
        source = by_name[field.name]
        for alias in field.aliases:
            source = source or free.pop(alias, None)
        pairs.append((field, source))
    return pairs


class Matcher:
    """What a reader's schema takes of a writer's. Answers on records are kept: types may refer to one another in circles."""

    def __init__(self, writer: Schema, reader: Schema) -> None:
        self._ws = writer
        self._rs = reader
        self._records: dict[tuple[str, str], bool] = {}

    def resolvable(self, writer: Type, reader: Type) -> bool:
        """Whether some value of `writer` can be read as `reader` (a union's branches may still fail one by one)."""
        writer, reader = self._ws.resolve(writer), self._rs.resolve(reader)
        match writer, reader:
            case Union(branches), _:
                return any(self.resolvable(branch, reader) for branch in branches)
            case _, Union(branches):
                return any(self.resolvable(writer, branch) for branch in branches)
            case Primitive(w), Primitive(r):
                return w == r or (w, r) in PROMOTIONS
            case (Array(w_inner), Array(r_inner)) | (MapType(w_inner), MapType(r_inner)):
                # An empty array holds nothing that cannot be read, but a schema that only reads empty ones is no match.
                return self.resolvable(w_inner, r_inner)
            case Fixed(), Fixed():
                return writer.size == reader.size and same_name(writer.name, reader.name, reader.aliases)
            case EnumType(), EnumType():
                return same_name(writer.name, reader.name, reader.aliases)
            case Record(), Record():
                return same_name(writer.name, reader.name, reader.aliases) and self._fields(writer, reader)
            case _:
                return False

    def _fields(self, writer: Record, reader: Record) -> bool:
        pair = (writer.name, reader.name)
        if pair not in self._records:
            self._records[pair] = True  # within itself a record is taken to match; the outermost answer decides
            self._records[pair] = all(
                field.default is not None if source is None else self.resolvable(source.type, field.type)
                for field, source in match_fields(writer, reader)
            )
        return self._records[pair]

    def choose(self, writer: Type, reader: Union) -> Type | None:
        """The reader's branch that takes a value of `writer` (no union): the same type if there is one, else the first that can."""
        fits = [branch for branch in reader.branches if self.resolvable(writer, branch)]
        for branch in fits:
            if _alike(self._ws.resolve(writer), self._rs.resolve(branch)):
                return branch
        return fits[0] if fits else None


def _alike(writer: Type, reader: Type) -> bool:
    match writer, reader:
        case Primitive(w), Primitive(r):
            return w == r
        case (Record(w), Record(r)) | (EnumType(w), EnumType(r)) | (Fixed(w), Fixed(r)):
            return w == r
        case _:
            return False
