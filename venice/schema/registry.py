"""A store's schemas: one key schema for ever, and value schemas that all read one another.

Control path: command → **registry** → catalog. Imports the Apache `avro` library, so processes that only read import
`venice/schema/codec.py` instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import avro.schema
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

from venice.errors import Incompatible
from venice.model import ValueSchema
from venice.schema.canonical import canonical_text
from venice.schema.compatibility import find_misfit
from venice.schema.parsing import load_json
from venice.schema.parsing import parse as parse_schema
from venice.schema.superset import superset
from venice.schema.types import Array, EnumType, Field, Fixed, MapType, Primitive, Record, Schema, Type, Union

_HINT = "give new fields a default, keep the types of the old ones, and read old and new data with either schema"


def parse(text: str) -> str:
    """The canonical text of a schema: equal for schemas that read and write alike, whatever their layout and comments.

    Raises:
        InvalidRequest: Not an Avro schema; the message names the place.
    """
    return canonical_text(parse_schema(text))


def check_key_schema(text: str) -> str:
    """The text to keep as a store's key schema. Any type is allowed; it never changes.

    Raises:
        InvalidRequest: Not an Avro schema.
    """
    return _tidy(text)


def check_value_schema(text: str) -> str:
    """The text to keep as a value schema.

    Raises:
        InvalidRequest: Not an Avro schema.
    """
    return _tidy(text)


def check_compatible(new: str, existing: Iterable[str | ValueSchema]) -> None:
    """FULL compatibility: whatever one of the existing schemas wrote the new one reads, and the reverse.

    Raises:
        Incompatible: Naming the schema, the direction and the path of the field.
        InvalidRequest: Not an Avro schema.
    """
    fresh = parse_schema(new)
    for number, other in enumerate(existing, 1):
        label, text = (f"schema {other.id}", other.text) if isinstance(other, ValueSchema) else (f"schema {number}", other)
        known = parse_schema(text)
        _check_readable(known, fresh, f"the new schema cannot read what {label} wrote")
        _check_readable(fresh, known, f"{label} cannot read what the new schema writes")


def find(schemas: Iterable[ValueSchema], text: str) -> ValueSchema | None:
    """The registered schema that reads and writes as `text` does, or None.

    Raises:
        InvalidRequest: `text` is not an Avro schema.
    """
    wanted = parse(text)
    return next((schema for schema in schemas if parse(schema.text) == wanted), None)


def register(schemas: tuple[ValueSchema, ...], text: str) -> tuple[int, tuple[ValueSchema, ...]]:
    """(id, all schemas) after adding `text` to a store's value schemas; an equal one keeps its id.

    Raises:
        Incompatible: It and one of the schemas cannot read each other.
        InvalidRequest: Not an Avro schema.
    """
    known = find(schemas, text)
    if known is not None:
        return known.id, schemas
    check_compatible(text, schemas)
    added = ValueSchema(id=max((schema.id for schema in schemas), default=0) + 1, text=_tidy(text))
    return added.id, (*schemas, added)


def register_superset(schemas: tuple[ValueSchema, ...]) -> tuple[int, tuple[ValueSchema, ...]]:
    """(id, all schemas) after adding the superset of a store's value schemas, of which there is at least one.

    Raises:
        Incompatible: There is none, or it cannot read what one of them wrote.
    """
    return register(schemas, superset(schema.text for schema in schemas))


def _tidy(text: str) -> str:
    """The schema as its author wrote it, documentation included, without the white space."""
    parse_schema(text)
    return json.dumps(load_json(text), separators=(",", ":"), ensure_ascii=False)


def _check_readable(writer: Schema, reader: Schema, problem: str) -> None:
    misfit = find_misfit(writer, reader)
    if misfit is None:
        misfit = ask_avro(writer, reader)
    if misfit is not None:
        path, reason = misfit
        where = f"at {path}: " if path else ""
        raise Incompatible(f"{problem}: {where}{reason}", hint=_HINT, path=path)


def ask_avro(writer: Schema, reader: Schema) -> tuple[str, str] | None:
    """The Apache library's verdict on the bare schemas: (location, messages) or None."""
    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]  # avro has no types for it
    result = checker.get_compatibility(
        reader=avro.schema.parse(canonical_text(_bare(reader))), writer=avro.schema.parse(canonical_text(_bare(writer)))
    )
    if result.compatibility is SchemaCompatibilityType.compatible:
        return None
    return ", ".join(sorted(result.locations)), "; ".join(sorted(result.messages))


def _bare(schema: Schema) -> Schema:
    """Without logical types: the library judges none, and warns of those it does not know."""
    return Schema(_bare_type(schema.root), {})


def _bare_type(node: Type) -> Type:
    match node:
        case Primitive(kind):
            return Primitive(kind)
        case Fixed(name, size, aliases):
            return Fixed(name, size, aliases)
        case EnumType():
            return node
        case Array(items):
            return Array(_bare_type(items))
        case MapType(values):
            return MapType(_bare_type(values))
        case Union(branches):
            return Union(tuple(_bare_type(branch) for branch in branches))
        case Record(name, fields, aliases):
            return Record(name, tuple(Field(f.name, _bare_type(f.type), f.default, f.aliases) for f in fields), aliases)
    return node
