"""What the matrix of sources, types, compressions and clients is made of: every Avro type with values, and every source of rows.

A source that is new joins here: write it below `SOURCES`, and every test of the matrix has it.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import sqlite3
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from decimal import Context, Decimal
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import duckdb
import fastavro
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from postgres_server import Postgres, is_here, postgres
from s3_server import BUCKET, Lake, s3

UTC = dt.UTC
EPOCH = dt.datetime(1970, 1, 1, tzinfo=UTC)
WORDS = ("", "a", "Ünï", "two words", "semi;colon, comma", 'a "quote"', "line\nbreak", "\u2603" * 7, "x" * 100)


class Kind(NamedTuple):
    """An Avro type, the Arrow type of its columns, and how its values come about."""

    avro: Any
    arrow: pa.DataType
    make: Callable[[Random], Any]
    """A value as clients give it."""
    column: Callable[[Any], Any] = lambda value: value
    """The same as it stands in a column."""
    not_in: frozenset[str] = frozenset()
    """Sources that cannot hold it."""


def _logical(base: str, name: str, **facts: int) -> dict[str, Any]:
    return {"type": base, "logicalType": name, **facts}


def _decimal(precision: int, scale: int) -> Callable[[Random], Decimal]:
    limit, context = 10**precision - 1, Context(prec=60)

    def make(random: Random) -> Decimal:
        return Decimal(random.choice((0, -1, 1, -128, 127, 128, limit, -limit, random.randint(-limit, limit)))).scaleb(-scale, context)

    return make


def _integer(bits: int) -> Callable[[Random], int]:
    limit = 1 << (bits - 1)
    return lambda random: random.choice((0, -1, 63, -64, 64, -65, limit - 1, -limit, random.randrange(-limit, limit)))


def _float(random: Random) -> float:
    return random.choice((0.0, -0.0, 1.5, -2.25, 2.0**100, float("inf"), float("-inf"), float("nan"), random.randrange(1 << 24) / 1024))


def _double(random: Random) -> float:
    return random.choice((0.0, -0.0, 0.1, 1e300, 5e-324, float("inf"), float("nan"), random.random()))


def _moment(unit_us: int, tz: dt.tzinfo | None) -> Callable[[Random], dt.datetime]:
    def make(random: Random) -> dt.datetime:
        micros = random.choice((0, -1000, random.randrange(-(10**15), 4 * 10**15)))
        return (EPOCH + dt.timedelta(microseconds=micros // unit_us * unit_us)).replace(tzinfo=tz)

    return make


def _time(unit_us: int) -> Callable[[Random], dt.time]:
    def make(random: Random) -> dt.time:
        micros = random.choice((0, 86_400_000_000 - unit_us, random.randrange(86_400_000_000))) // unit_us * unit_us
        return (EPOCH + dt.timedelta(microseconds=micros)).time()

    return make


def _date(random: Random) -> dt.date:
    drawn = dt.date.fromordinal(random.randrange(1, 900_000))
    return random.choice((dt.date(1970, 1, 1), dt.date(1969, 12, 31), dt.date(2400, 2, 29), drawn))


def _list(inner: Callable[[Random], Any], most: int = 4) -> Callable[[Random], list[Any]]:
    return lambda random: [inner(random) for _ in range(random.randrange(most + 1))]


def _map(inner: Callable[[Random], Any]) -> Callable[[Random], dict[str, Any]]:
    # By name: a key is written in that order, whatever its map's.
    return lambda random: {name: inner(random) for name in ("", "b", "ü, z") if random.random() < 0.6}


def _maybe(inner: Callable[[Random], Any]) -> Callable[[Random], Any]:
    return lambda random: None if random.random() < 0.3 else inner(random)


def _text(random: Random) -> str:
    return random.choice((*WORDS, f"{random.random()}"))


def _bytes(random: Random) -> bytes:
    return random.choice((b"", b"\x00", b"\xff\xfe", b"plain", b"'\"\\,\n", random.randbytes(random.randrange(70))))


def _uuid(random: Random) -> UUID:
    return UUID(int=random.getrandbits(128))


POINT = {"type": "record", "name": "Point", "fields": [{"name": "x", "type": "int"}, {"name": "label", "type": ["null", "string"]}]}
CELL = {"type": "record", "name": "Cell", "fields": [{"name": "n", "type": "int"}]}
INNER = {
    "type": "record",
    "name": "Inner",
    "fields": [
        {"name": "at", "type": _logical("long", "timestamp-micros")},
        {"name": "cost", "type": _logical("bytes", "decimal", precision=9, scale=2)},
        {"name": "raw", "type": "bytes"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "deep", "type": {"type": "record", "name": "Deep", "fields": [{"name": "ok", "type": "boolean"}]}},
    ],
}
_POINT = pa.struct([("x", pa.int32()), ("label", pa.string())])
_INNER = pa.struct(
    [
        ("at", pa.timestamp("us", tz="UTC")),
        ("cost", pa.decimal128(9, 2)),
        ("raw", pa.binary()),
        ("tags", pa.list_(pa.string())),
        ("deep", pa.struct([("ok", pa.bool_())])),
    ]
)


def _point(random: Random) -> dict[str, Any]:
    return {"x": _integer(32)(random), "label": _maybe(_text)(random)}


def _inner(random: Random) -> dict[str, Any]:
    return {
        "at": _moment(1, UTC)(random),
        "cost": _decimal(9, 2)(random),
        "raw": _bytes(random),
        "tags": _list(_text)(random),
        "deep": {"ok": random.random() < 0.5},
    }


def _union(random: Random) -> Any:
    return random.choice((None, _integer(64)(random), _text(random), _point(random), random.random() < 0.5))


def _members(value: Any) -> Any:
    """As unions of several types stand in columns: a struct with one member for each, of which one is there."""
    if value is None:
        return None
    at = [bool, int, str, dict].index(type(value))
    return {f"member{i}": value if i == at else None for i in range(4)}


def _entries(value: dict[str, Any]) -> list[tuple[str, Any]]:
    return list(value.items())


_TEXT_ONLY = frozenset(("csv", "s3_csv"))
"""Sources whose cells are text: they cannot say which of several types a value is of."""
_TABLES = frozenset(("sqlite", "postgres"))
"""Tables whose columns have neither maps, nor arrays of arrays of any length, nor unions; in a struct, decimals come as doubles."""
_SQLITE = frozenset(("sqlite",))
"""It has five types: those of other values are no more than names of columns."""

KINDS: dict[str, Kind] = {
    "boolean": Kind("boolean", pa.bool_(), lambda random: random.random() < 0.5, not_in=_SQLITE),
    "int": Kind("int", pa.int32(), _integer(32)),
    "long": Kind("long", pa.int64(), _integer(64)),
    "float": Kind("float", pa.float32(), _float),
    "double": Kind("double", pa.float64(), _double),
    "string": Kind("string", pa.string(), _text),
    "bytes": Kind("bytes", pa.binary(), _bytes),
    "fixed": Kind({"type": "fixed", "name": "Mac", "size": 6}, pa.binary(6), lambda random: random.randbytes(6)),
    "enum": Kind(
        {"type": "enum", "name": "Suit", "symbols": ["HEARTS", "SPADES", "CLUBS"]},
        pa.string(),
        lambda random: random.choice(("HEARTS", "SPADES", "CLUBS")),
    ),
    "decimal": Kind(_logical("bytes", "decimal", precision=12, scale=3), pa.decimal128(12, 3), _decimal(12, 3), not_in=_SQLITE),
    "decimal_wide": Kind(_logical("bytes", "decimal", precision=38, scale=0), pa.decimal128(38, 0), _decimal(38, 0), not_in=_SQLITE),
    "decimal_fixed": Kind(
        {"type": "fixed", "name": "Money", "size": 8, "logicalType": "decimal", "precision": 18, "scale": 4},
        pa.decimal128(18, 4),
        _decimal(18, 4),
        not_in=_SQLITE,
    ),
    "uuid": Kind(_logical("string", "uuid"), pa.string(), _uuid, str),
    "date": Kind(_logical("int", "date"), pa.date32(), _date),
    "time_millis": Kind(_logical("int", "time-millis"), pa.time32("ms"), _time(1000), not_in=_SQLITE),
    "time_micros": Kind(_logical("long", "time-micros"), pa.time64("us"), _time(1), not_in=_SQLITE),
    "timestamp_millis": Kind(_logical("long", "timestamp-millis"), pa.timestamp("ms", tz="UTC"), _moment(1000, UTC)),
    "timestamp_micros": Kind(_logical("long", "timestamp-micros"), pa.timestamp("us", tz="UTC"), _moment(1, UTC)),
    "local_millis": Kind(_logical("long", "local-timestamp-millis"), pa.timestamp("ms"), _moment(1000, None)),
    "local_micros": Kind(_logical("long", "local-timestamp-micros"), pa.timestamp("us"), _moment(1, None)),
    "null_first": Kind(["null", "long"], pa.int64(), _maybe(_integer(64))),
    "null_last": Kind(["string", "null"], pa.string(), _maybe(_text)),
    "nullable_bytes": Kind(
        ["null", {"type": "fixed", "name": "Pair", "size": 2}], pa.binary(2), _maybe(lambda random: random.randbytes(2))
    ),
    "union": Kind(
        ["null", "boolean", "long", "string", {**POINT, "name": "Member"}],
        pa.struct([("member0", pa.bool_()), ("member1", pa.int64()), ("member2", pa.string()), ("member3", _POINT)]),
        _union,
        _members,
        _TEXT_ONLY | _TABLES,
    ),
    "record": Kind(POINT, _POINT, _point, not_in=_SQLITE),
    "record_deep": Kind(INNER, _INNER, _inner, not_in=_TABLES),
    "array": Kind({"type": "array", "items": "long"}, pa.list_(pa.int64()), _list(_integer(64)), not_in=_SQLITE),
    "array_floats": Kind(
        {"type": "array", "items": "float"}, pa.list_(pa.float32()), lambda random: [_float(random) for _ in range(20)], not_in=_SQLITE
    ),
    "array_nullable": Kind({"type": "array", "items": ["null", "string"]}, pa.list_(pa.string()), _list(_maybe(_text)), not_in=_SQLITE),
    "array_nested": Kind(
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "record", "name": "Cell", "fields": [{"name": "n", "type": "int"}]}},
        },
        pa.list_(pa.list_(pa.struct([("n", pa.int32())]))),
        _list(_list(lambda random: {"n": _integer(32)(random)})),
        not_in=_TABLES,
    ),
    "map": Kind({"type": "map", "values": "int"}, pa.map_(pa.string(), pa.int32()), _map(_integer(32)), _entries, not_in=_TABLES),
    "map_bytes": Kind({"type": "map", "values": "bytes"}, pa.map_(pa.string(), pa.binary()), _map(_bytes), _entries, not_in=_TABLES),
}


def _named_apart(avro: Any, suffix: str) -> Any:
    """The same type under names that occur nowhere else in its schema."""
    match avro:
        case dict():
            apart = {part: _named_apart(avro[part], suffix) for part in ("items", "values", "type", "fields") if part in avro}
            named = {"name": f"{avro['name']}{suffix}"} if avro["type"] in ("record", "enum", "fixed") else {}
            return {**avro, **apart, **named}
        case list():
            return [_named_apart(branch, suffix) for branch in avro]
    return avro


class Data(NamedTuple):
    """Rows of one key type, and of many types in their values."""

    key: str
    """Its kind."""
    key_schema: str
    value_schema: str
    table: pa.Table
    """The rows as columns: `key`, and one of each type."""
    rows: list[tuple[Any, dict[str, Any]]]
    """The rows as clients give them."""


def make_data(source: str, key: str, *, rows: int, seed: int) -> Data:
    """At most so many rows of all types that a source can hold, each with a key of its own."""
    random, kinds = Random(seed), list(kinds_of(source))
    make = _made_for_sqlite if source == "sqlite" else lambda kind, random: KINDS[kind].make(random)
    made: dict[str, tuple[Any, dict[str, Any]]] = {}
    for _ in range(3 * rows):
        one = make(key, random)
        if one is not None and len(made) < rows:
            made.setdefault(repr(one), (one, {kind: make(kind, random) for kind in kinds}))
    found = list(made.values())
    columns = {"key": pa.array([KINDS[key].column(one) for one, _ in found], KINDS[key].arrow)}
    for kind in kinds:
        columns[kind] = pa.array([KINDS[kind].column(value[kind]) for _, value in found], KINDS[kind].arrow)
    fields = [{"name": kind, "type": _named_apart(KINDS[kind].avro, f"_{kind}")} for kind in kinds]
    value_schema = json.dumps({"type": "record", "name": "Row", "fields": fields})
    return Data(key, json.dumps(KINDS[key].avro), value_schema, pa.table(columns), found)


def _made_for_sqlite(kind: str, random: Random) -> Any:
    """It stores NaN as null, and -0.0 as 0."""
    while isinstance(value := KINDS[kind].make(random), float) and (math.isnan(value) or str(value) == "-0.0"):
        pass
    return value


def as_json(value: Any) -> Any:
    """A value as HTTP has it where JSON is asked for."""
    match value:
        case float() if not math.isfinite(value):
            return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
        case dict():
            return {name: as_json(member) for name, member in value.items()}
        case list():
            return [as_json(item) for item in value]
        case bytes():
            return b64encode(value).decode()
        case Decimal():
            return f"{value:f}"
        case UUID():
            return str(value)
        case dt.date() | dt.time():
            return value.isoformat()
    return value


# ------------------------------------------------------------------ sources


class Servers(NamedTuple):
    """What sources are asked of that are no files; no PostgreSQL, where there is none and need not be."""

    postgres: Postgres | None
    lake: Lake


@contextmanager
def servers(free_port: Callable[..., int]) -> Iterator[Servers]:
    """Those, until the block ends."""
    with ExitStack() as stack:
        yield Servers(stack.enter_context(postgres(free_port)) if is_here() else None, stack.enter_context(s3(free_port)))


def _parquet(data: Data, folder: Path, servers: Servers) -> dict[str, Any]:
    pq.write_table(data.table, folder / "rows.parquet", row_group_size=16)
    return {"inputs": folder / "rows.parquet"}


def _csv(data: Data, folder: Path, servers: Servers) -> dict[str, Any]:
    """As DuckDB writes it, in two files."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("rows", data.table)
        half = len(data.rows) // 2
        for number, part in enumerate((f"LIMIT {half}", f"OFFSET {half}")):
            connection.execute(f"COPY (FROM rows {part}) TO '{folder}/rows-{number}.csv' (HEADER, FORCE_QUOTE *)")
    return {"inputs": f"{folder}/rows-*.csv"}


def _json(data: Data, folder: Path, servers: Servers) -> dict[str, Any]:
    """As HTTP gives it, a document a line."""
    with (folder / "rows.json").open("w") as file:
        for key, value in data.rows:
            print(json.dumps(as_json({"key": key, **value})), file=file)
    return {"inputs": folder / "rows.json"}


def _sql(data: Data, folder: Path, servers: Servers) -> dict[str, Any]:
    return {"sql": f"FROM '{_parquet(data, folder, servers)['inputs']}' ORDER BY md5(key::VARCHAR)"}


def _arrow(data: Data, folder: Path, servers: Servers) -> dict[str, Any]:
    """A slice of a longer table: arrays that do not begin where their buffers do."""
    return {"data": pa.concat_tables([data.table, data.table]).combine_chunks()[len(data.rows) :]}


def _dataset(data: Data, folder: Path, servers: Servers) -> dict[str, Any]:
    return {"data": ds.dataset(_parquet(data, folder, servers)["inputs"])}


def _avro(data: Data, folder: Path, servers: Servers) -> dict[str, Any]:
    """Two part files, as Hadoop jobs leave them, written by fastavro."""
    key, value = json.loads(data.key_schema), json.loads(data.value_schema)
    schema = fastavro.parse_schema({"type": "record", "name": "Line", "fields": [{"name": "key", "type": key}, *value["fields"]]})
    half = len(data.rows) // 2
    for number, part in enumerate((data.rows[:half], data.rows[half:])):
        with (folder / f"part-{number}.avro").open("wb") as file:
            fastavro.writer(file, schema, [{"key": one, **fields} for one, fields in part], codec="deflate", strict=False)
    return {"inputs": folder}


def _duckdb(data: Data, folder: Path, servers: Servers) -> dict[str, Any]:
    with duckdb.connect(folder / "rows.duckdb") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("given", data.table)
        connection.execute("CREATE TABLE rows AS FROM given")
    return {"inputs": folder / "rows.duckdb", "table": "rows"}


_POSTGRES_TYPES = {
    "boolean": "boolean", "int": "integer", "long": "bigint", "float": "real", "double": "double precision", "string": "text",
    "bytes": "bytea", "fixed": "bytea", "enum": "suit", "decimal": "numeric(12, 3)", "decimal_wide": "numeric(38, 0)",
    "decimal_fixed": "numeric(18, 4)", "uuid": "uuid", "date": "date", "time_millis": "time(3)", "time_micros": "time",
    "timestamp_millis": "timestamptz(3)", "timestamp_micros": "timestamptz", "local_millis": "timestamp(3)", "local_micros": "timestamp",
    "null_first": "bigint", "null_last": "text", "nullable_bytes": "bytea", "record": "point2",
    "array": "bigint[]", "array_floats": "real[]", "array_nullable": "text[]",
}  # fmt: skip


def _sqlite(data: Data, folder: Path, servers: Servers) -> dict[str, Any]:
    kinds = {"key": data.key, **{kind: kind for kind in data.rows[0][1]}}
    columns = ", ".join(f'"{name}" {_sqlite_type(kind)}' for name, kind in kinds.items())
    with closing(sqlite3.connect(folder / "rows.sqlite")) as made, made:
        made.execute(f"CREATE TABLE rows ({columns})")
        rows = [[_sqlite_value(value) for value in (key, *fields.values())] for key, fields in data.rows]
        made.executemany(f"INSERT INTO rows VALUES ({', '.join('?' * len(kinds))})", rows)
    return {"inputs": folder / "rows.sqlite", "table": "rows"}


def _sqlite_type(kind: str) -> str:
    arrow = KINDS[kind].arrow
    if pa.types.is_temporal(arrow):
        return "DATE" if pa.types.is_date(arrow) else "TIMESTAMP"
    found = {pa.int64(): "INTEGER", pa.int32(): "INTEGER", pa.float32(): "REAL", pa.float64(): "REAL", pa.string(): "TEXT"}
    return found.get(arrow, "BLOB")


def _sqlite_value(value: Any) -> Any:
    return str(value) if isinstance(value, dt.date | UUID) else value


def _postgres(data: Data, folder: Path, servers: Servers) -> dict[str, Any]:
    """In a schema of its own, with types of its own."""
    schema = f"rows_{uuid4().hex}"
    kinds = [("key", data.key), *((kind, kind) for kind in data.rows[0][1])]
    lines = [f"CREATE SCHEMA {schema}; SET search_path = {schema};"]
    lines.append("CREATE TYPE suit AS ENUM ('HEARTS', 'SPADES', 'CLUBS'); CREATE TYPE point2 AS (x integer, label text);")
    columns = ", ".join(f'"{name}" {_POSTGRES_TYPES[kind]}' for name, kind in kinds)
    lines.append(f"CREATE TABLE rows ({columns});")
    for key, fields in data.rows:
        values = (f"{_literal(value)}::{_POSTGRES_TYPES[kind]}" for value, (_, kind) in zip((key, *fields.values()), kinds, strict=True))
        lines.append(f"INSERT INTO rows VALUES ({', '.join(values)});")
    assert servers.postgres is not None, "or its tests are skipped"
    servers.postgres.run("\n".join(lines))
    return {"inputs": servers.postgres.url(), "table": f"{schema}.rows"}


def _literal(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case bytes():
            return f"'\\x{value.hex()}'"
        case list():
            return f"ARRAY[{', '.join(map(_literal, value))}]" if value else "'{}'"
        case dict():
            return f"ROW({', '.join(map(_literal, value.values()))})"
    return "'" + str(value).replace("'", "''") + "'"


def _in_lake(source: Callable[[Data, Path, Servers], dict[str, Any]]) -> Callable[[Data, Path, Servers], dict[str, Any]]:
    """The files of another source, in an object store."""

    def put(data: Data, folder: Path, servers: Servers) -> dict[str, Any]:
        source(data, folder, servers)
        name = f"rows-{uuid4().hex}"
        servers.lake.put({f"{name}/{file.name}": file.read_bytes() for file in folder.iterdir()})
        return {"inputs": f"s3://{BUCKET}/{name}"}

    return put


SOURCES: dict[str, Callable[[Data, Path, Servers], dict[str, Any]]] = {
    "parquet": _parquet,
    "csv": _csv,
    "json": _json,
    "sql": _sql,
    "arrow": _arrow,
    "dataset": _dataset,
    "avro": _avro,
    "duckdb": _duckdb,
    "sqlite": _sqlite,
    "postgres": _postgres,
    **{f"s3_{name}": _in_lake(source) for name, source in (("parquet", _parquet), ("csv", _csv), ("json", _json), ("avro", _avro))},
}
"""Source → writes rows where it reads from, and gives the arguments that make a push read them."""


def kinds_of(source: str) -> Iterator[str]:
    """The types that a source can hold."""
    return (name for name, kind in KINDS.items() if source not in kind.not_in)
