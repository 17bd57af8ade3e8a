"""Whether, and as which type, a reader takes what a writer wrote (Avro's schema resolution)."""

from __future__ import annotations

from typing import Final

from venice.schema.types import Array, EnumType, Field, Fixed, MapType, Primitive, Record, Schema, Type, Union, short_name

PROMOTIONS: Final = {
    ("int", "long"), ("int", "float"), ("int", "double"), ("long", "float"), ("long", "double"), ("float", "double"),
    ("string", "bytes"), ("bytes", "string"),
}  # fmt: skip

_Pairs = frozenset[tuple[str, str]]


def same_name(writer: str, reader: str, aliases: tuple[str, ...]) -> bool:
    """Whether a named type of the reader is the writer's: by unqualified name, or by alias."""
    return short_name(writer) == short_name(reader) or writer in aliases or short_name(writer) in map(short_name, aliases)


def writer_field(writer: Record, field: Field) -> Field | None:
    """The writer's field that the reader's `field` takes its value from, or None."""
    by_name = {f.name: f for f in writer.fields}
    for name in (field.name, *field.aliases):
        if name in by_name:
            return by_name[name]
    return None


def resolvable(ws: Schema, writer: Type, rs: Schema, reader: Type, within: _Pairs = frozenset()) -> bool:
    """Whether some value of `writer` can be read as `reader` (a union's branches may still fail one by one)."""
    writer, reader = ws.resolve(writer), rs.resolve(reader)
    match writer, reader:
        case Union(branches), _:
            return any(resolvable(ws, branch, rs, reader, within) for branch in branches)
        case _, Union():
            return choose(ws, writer, rs, reader, within) is not None
        case Primitive(w), Primitive(r):
            return w == r or (w, r) in PROMOTIONS
        case (Array(w_inner), Array(r_inner)) | (MapType(w_inner), MapType(r_inner)):
            return resolvable(ws, w_inner, rs, r_inner, within)
        case Fixed(), Fixed():
            return writer.size == reader.size and same_name(writer.name, reader.name, reader.aliases)
        case EnumType(), EnumType():
            return same_name(writer.name, reader.name, reader.aliases)
        case Record(), Record():
            return same_name(writer.name, reader.name, reader.aliases) and _fields(ws, writer, rs, reader, within)
        case _:
            return False


def _fields(ws: Schema, writer: Record, rs: Schema, reader: Record, within: _Pairs) -> bool:
    pair = (writer.name, reader.name)
    if pair in within:
        return True
    for field in reader.fields:
        source = writer_field(writer, field)
        if source is None and field.default is None:
            return False
        if source is not None and not resolvable(ws, source.type, rs, field.type, within | {pair}):
            return False
    return True


def choose(ws: Schema, writer: Type, rs: Schema, reader: Union, within: _Pairs = frozenset()) -> Type | None:
    """The reader's branch that takes a value of `writer` (no union): the same type if there is one, else the first that can."""
    fits = [branch for branch in reader.branches if resolvable(ws, writer, rs, branch, within)]
    for branch in fits:
        if _alike(ws.resolve(writer), rs.resolve(branch)):
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
