"""Rows of Avro container files, resolved to one schema and handed to DuckDB as Arrow.

Write path: **read** → encode → partition → sort → seal. A container says its schema and codec in a header and has its rows in
blocks between marks. Rows of other schemas than the chosen one are resolved to it as the Avro specification says, so a field
that came later has its default in older files.
"""

from __future__ import annotations

import bz2
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Final

import pyarrow as pa
import zstandard

from venice.errors import BY_KIND, Corrupt, Incompatible, InvalidRequest, VeniceError
from venice.push.files import open_file, size_of
from venice.schema.codec import Codec, reader
from venice.schema.columnar import ColumnDecoder
from venice.schema.decoding import generate_decoder
from venice.schema.lossless import lost
from venice.schema.parsing import parse
from venice.schema.superset import superset
from venice.schema.types import Record

MAGIC: Final = b"Obj\x01"
_SYNC_BYTES: Final = 16
_HEADER_BYTES_MAX: Final = 16 << 20
_BATCH_ROWS: Final = 8_192
_BATCH_BYTES: Final = 4 << 20
_CARRIED: Final = re.compile(r"venice-error:(\{.*?\}):venice-error")


def carried_error(text: str) -> VeniceError | None:
    """The error of ours that went through DuckDB and Arrow, which pass on nothing but text."""
    found = _CARRIED.search(text)
    if found is None:
        return None
    said = json.loads(found[1])
    return BY_KIND[said["kind"]](said["message"], hint=said["hint"])


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    schema: str
    codec: str
    sync: bytes
    begin: int
    """Where the first block is."""
    size: int


@dataclass(frozen=True, slots=True)
class AvroFiles:
    """The rows of some files, in order; as often as it is asked. Made by `read_headers`."""

    files: tuple[_File, ...]
    schema: str
    """Avro JSON of the record that all rows are resolved to."""
    file_column: str = ""
    """If not empty: name of a last column with the file's name."""

    def only(self, names: Sequence[str]) -> AvroFiles:
        """The rows of some of the files."""
        return replace(self, files=tuple(file for file in self.files if file.name in names))

    def count(self) -> int:
        """How many rows there are: looks at the heads of the blocks. Raises Corrupt."""
        return sum(rows for file in self.files for rows, _ in _blocks(file, skip=True))

    @property
    def arrow_schema(self) -> pa.Schema:
        schema = ColumnDecoder(self.schema).arrow_schema
        return schema.append(pa.field(self.file_column, pa.string())) if self.file_column else schema

    def __arrow_c_stream__(self, requested_schema: object = None) -> Any:
        """The protocol by which Arrow data is handed over; each call is one reading of all rows."""
        return pa.RecordBatchReader.from_batches(self.arrow_schema, self._carrying()).__arrow_c_stream__(requested_schema)

    def _carrying(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self.batches()
        except VeniceError as error:
            said = json.dumps({"kind": error.kind, "message": error.message, "hint": error.hint})
            raise ValueError(f"venice-error:{said}:venice-error") from error

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows. Raises Corrupt, and Incompatible for a value that the chosen schema lacks."""
        decoder = ColumnDecoder(self.schema)
        for file in self.files:
            resolve = _resolver(file.schema, self.schema)
            for rows in _stretches(file):
                try:
                    batch = decoder.decode(rows if resolve is None else [resolve(row) for row in rows])
                except (Corrupt, Incompatible, InvalidRequest) as error:
                    raise type(error)(f"{file.name}: {error.message}", hint=error.hint, file=file.name) from error
                yield batch.append_column(self.file_column, pa.array([file.name] * len(rows), pa.string())) if self.file_column else batch


def read_headers(names: Sequence[str]) -> AvroFiles:
    """The rows of files, whose headers are read now.

    Raises:
        InvalidRequest: A file is no Avro container, or has an unknown codec, or rows that are no records.
        Incompatible: No schema reads the rows of all files without losing some of them.
        NotFound: A file is not there any more.
    """
    files = tuple(_header(name) for name in names)
    return AvroFiles(files, _common(files))


def _header(name: str) -> _File:
    size = size_of(name)
    with open_file(name) as opened:
        stream = _Stream(name, opened, min(size, _HEADER_BYTES_MAX))
        if opened.read(len(MAGIC)) != MAGIC:
            what = "is empty" if size == 0 else "is no Avro file"
            raise InvalidRequest(f"{name} {what}", hint="an Avro file begins with a header, also when it has no rows", file=name)
        facts: dict[str, bytes] = {}
        while count := stream.number():
            if count < 0:
                stream.number()
            for _ in range(abs(count)):
                key = stream.read(stream.number()).decode("utf-8", "replace")
                facts[key] = stream.read(stream.number())
        sync = stream.read(_SYNC_BYTES)
        begin = opened.tell()
    text, codec = facts.get("avro.schema", b"").decode("utf-8", "replace"), facts.get("avro.codec", b"null").decode("utf-8", "replace")
    if codec not in _UNPACK:
        raise InvalidRequest(f"{name} is compressed with {codec!r}", hint=f"write it with one of {', '.join(_UNPACK)}", file=name)
    try:
        schema = parse(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"{name}: its schema is none: {error.message}", hint=error.hint, file=name) from error
    if not isinstance(schema.resolve(schema.root), Record):
        raise InvalidRequest(f"the rows of {name} are no records", hint="write records with a field for the key and others for the value")
    return _File(name, text, codec, sync, begin, size)


def _common(files: Sequence[_File]) -> str:
    """A schema that reads all and loses nothing: one of the files', with the most fields, of equal ones the last; else their superset."""
    latest = {file.schema: file for file in files}
    ordered = [file for file in reversed(files) if latest[file.schema] is file]
    ordered.sort(key=lambda file: -_fields(file.schema))
    refused: VeniceError | None = None
    for candidate in ordered:
        try:
            for other in ordered:
                _read(other, candidate)
            return candidate.schema
        except Incompatible as error:
            refused = refused or error
    assert refused is not None
    try:
        every = replace(files[-1], schema=superset(dict.fromkeys(file.schema for file in files)))
        for other in ordered:
            _read(other, every)
        return every.schema
    except Incompatible:
        raise refused from None


def _fields(text: str) -> int:
    schema = parse(text)
    root = schema.resolve(schema.root)
    return len(root.fields) if isinstance(root, Record) else 0


def _read(writer: _File, wanted: _File) -> None:
    try:
        reader(writer.schema, wanted.schema)
        if found := lost(parse(writer.schema), parse(wanted.schema)):
            raise Incompatible(found)
    except Incompatible as error:
        raise Incompatible(
            f"the schemas of {writer.name} and {wanted.name} do not fit each other: {error.message}",
            hint="push them apart, or have them written with schemas of which one can read the other: a new field needs a default",
            files=[writer.name, wanted.name],
        ) from error


def _resolver(writer: str, wanted: str) -> Callable[[bytes], bytes] | None:
    if parse(writer).root == parse(wanted).root:
        return None
    read, encode = reader(writer, wanted), Codec(wanted).encode
    return lambda row: encode(read(row))


def _stretches(file: _File) -> Iterator[list[bytes]]:
    """The rows of a file, some thousand at a time."""
    schema = parse(file.schema)
    root = schema.resolve(schema.root)
    assert isinstance(root, Record)
    # To read a record as one without fields is to go past it.
    skip = generate_decoder(schema, parse(json.dumps({"type": "record", "name": root.name, "fields": []})), whole=False)
    rows: list[bytes] = []
    size = 0
    for count, block in _blocks(file):
        begin = 0
        for _ in range(count):
            try:
                _, end = skip(block, begin)
            except Corrupt as error:
                raise _damaged(file.name, f"a block has fewer than the {count} rows it should have") from error
            rows.append(block[begin:end])
            begin = end
        if begin != len(block):
            raise _damaged(file.name, "a block has bytes behind its rows")
        size += len(block)
        if len(rows) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _blocks(file: _File, *, skip: bool = False) -> Iterator[tuple[int, bytes]]:
    """(rows, their bytes) of each block; without the bytes if they are skipped."""
    with open_file(file.name) as opened:
        opened.seek(file.begin)
        stream = _Stream(file.name, opened, file.size)
        unpack = _UNPACK[file.codec]
        while stream.more():
            count, size = stream.number(), stream.number()
            if count < 0 or size < 0:
                raise _damaged(file.name, "a block has a negative size")
            if skip and opened.tell() + size + _SYNC_BYTES <= file.size:
                opened.seek(size, 1)
                packed = b""
            else:
                packed = stream.read(size)
            if stream.read(_SYNC_BYTES) != file.sync:
                raise _damaged(file.name, "a block does not end in the mark of the file")
            try:
                yield count, b"" if skip else unpack(packed)
            except (ValueError, EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError, pa.ArrowException) as error:
                raise _damaged(file.name, f"a block cannot be decompressed ({error})") from error


class _Stream:
    """Numbers and bytes of a file, of which there are no more than `limit`."""

    def __init__(self, name: str, file: BinaryIO, limit: int) -> None:
        self._name = name
        self._file = file
        self._limit = limit
        self._ahead = b""

    def more(self) -> bool:
        self._ahead = self._ahead or self._file.read(1)
        return bool(self._ahead)

    def read(self, size: int) -> bytes:
        # Memory is taken for as much as is asked for, before it is known to be there.
        if not 0 <= size <= self._limit:
            raise _cut(self._name)
        found, self._ahead = self._ahead[:size], self._ahead[size:]
        found += self._file.read(size - len(found))
        if len(found) < size:
            raise _cut(self._name)
        return found

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.read(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return (value >> 1) ^ -(value & 1)
            shift += 7
            if shift > 63:
                raise _damaged(self._name, "a number has more than 64 bits")


def _cut(name: str) -> Corrupt:
    return Corrupt(
        f"{name} is cut off: it ends within a block",
        hint="whoever wrote it did not finish, or it was not copied whole: write or copy it anew",
        file=name,
    )


def _damaged(name: str, what: str) -> Corrupt:
    return Corrupt(f"{name} is damaged: {what}", hint="write or copy it anew", file=name)


def _snappy(data: bytes) -> bytes:
    packed, checksum = data[:-4], data[-4:]
    size = shift = 0
    for byte in packed[:10]:
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    if size > max(len(packed), 1) * 64:  # it packs 64 bytes into 3 at best
        raise ValueError("it says it is larger than it can be")
    found: bytes = pa.decompress(packed, decompressed_size=size, codec="snappy", asbytes=True)
    if zlib.crc32(found).to_bytes(4, "big") != checksum:
        raise ValueError("wrong checksum")
    return found


def _zstandard(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


_UNPACK: Final[dict[str, Callable[[bytes], bytes]]] = {
    "null": bytes,
    "deflate": lambda data: zlib.decompress(data, -15),
    "snappy": _snappy,
    "zstandard": _zstandard,
    "bzip2": bz2.decompress,
    "xz": lzma.decompress,
}
