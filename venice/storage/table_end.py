"""The end of a sorted file as it is sealed: of the same rows always the same bytes.

RocksDB writes into each file, as properties, the name of the host and a random session id, which together with the file's number
identifies it for caches. Here the host is left out, and the session follows from what the file holds: equal files have equal ids, others
do not. All else that RocksDB writes follows from the rows alone, in a table of format version 5; version 6 salts every
checksum with a random number.

FORMAT of the table's end, all before it being data and index, as RocksDB has it in `table/format.cc` (footer, block checksum), in
`table/block_based/block_builder.cc` (entries of a block) and `table/unique_id.cc` (session):

    properties block, metaindex block      each: entries, u32 restart offsets, u32 their number, then u8 compression, u32 checksum
    footer, 53 bytes                       u8 checksum type, handles of metaindex and index as varints, zeros, u32 version, u64 magic
    entry of a block                       varints: bytes shared with the key before, other bytes, bytes of the value; then those two
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from struct import error as StructError
from typing import Final

from xxhash import xxh3_64_intdigest

from venice.errors import Corrupt
from venice.schema.varint import encode_unsigned, unsigned_tail

TABLE_FORMAT: Final = 5
"""RocksDB's `format_version` that sealed files are written with."""

END_BYTES_MAX: Final = 64 * 1024
"""No end is longer: the properties are about a kilobyte."""

_PROPERTIES: Final = b"rocksdb.properties"
_HOST: Final = b"rocksdb.creating.host.identity"
_SESSION: Final = b"rocksdb.creating.session.identity"
_FOOTER = Struct("<B40sIQ")
_MAGIC: Final = 0x88E241B785F4CFF7
_XXH3: Final = 4
_TRAILER = Struct("<BI")
_U32 = Struct("<I")
_DIGITS: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Entries = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class TableEnd:
    """What stands at the end of a sorted file."""

    offset: int
    """Where the properties begin."""
    properties: Entries
    metaindex: Entries
    index_handle: bytes

    @classmethod
    def read(cls, data: bytes, size: int) -> TableEnd:
        """The end of a file of `size` bytes whose last ones are `data`.

        Raises:
            Corrupt: It is none that this release knows.
        """
        start = size - len(data)
        try:
            checksum, handles, version, magic = _FOOTER.unpack_from(data, len(data) - _FOOTER.size)
            if (checksum, version, magic) != (_XXH3, TABLE_FORMAT, _MAGIC):
                raise ValueError(f"its footer says checksum type {checksum} and version {version}")
            metaindex_at, metaindex_size, at = _handle(handles, 0)
            _, _, index_end = _handle(handles, at)
            metaindex = _entries(data, metaindex_at - start, metaindex_size)
            properties_at, properties_size, _ = _handle(dict(metaindex)[_PROPERTIES], 0)
            if (properties_at + properties_size, metaindex_at + metaindex_size) != (
                metaindex_at - _TRAILER.size,
                size - _FOOTER.size - _TRAILER.size,
            ):
                raise ValueError("something stands between its properties and its end")
            properties = _entries(data, properties_at - start, properties_size)
            if _SESSION not in dict(properties):
                raise ValueError("it names no session")
        except (ValueError, KeyError, IndexError, StructError) as error:
            raise Corrupt(f"a sorted file ends otherwise than RocksDB 10 writes it: {error}", hint="install rocksdict 0.3.29") from error
        return cls(properties_at, properties, metaindex, handles[at:index_end])

    def settled(self, content: bytes) -> bytes:
        """What to write in place of it.

        Args:
            content: A digest of all that stands before it.
        """
        told = [(name, session_id(content) if name == _SESSION else value) for name, value in self.properties if name != _HOST]
        properties = _block(told, restarts=False)
        metaindex_at = self.offset + len(properties)
        handle = encode_unsigned(self.offset) + encode_unsigned(len(properties) - _TRAILER.size)
        metaindex = _block([(name, handle if name == _PROPERTIES else value) for name, value in self.metaindex], restarts=True)
        handles = encode_unsigned(metaindex_at) + encode_unsigned(len(metaindex) - _TRAILER.size) + self.index_handle
        return properties + metaindex + _FOOTER.pack(_XXH3, handles, TABLE_FORMAT, _MAGIC)


def session_id(content: bytes) -> bytes:
    """A session id made of the digest of a file's content, as RocksDB makes one of 39 and 64 bits."""
    upper, lower = int.from_bytes(content[:8], "little") >> 25, int.from_bytes(content[8:16], "little") or 1
    return _base36((upper << 2) | (lower >> 62), 8) + _base36(lower & ((1 << 62) - 1), 12)


def block_checksum(block: bytes, compression: int) -> int:
    """The checksum RocksDB keeps of a block, by XXH3, and of its kind of compression."""
    low: int = xxh3_64_intdigest(block) & 0xFFFF_FFFF
    return low ^ (compression * 0x6B9083D9 & 0xFFFF_FFFF)


def _entries(data: bytes, start: int, size: int) -> Entries:
    """What a block holds, after a look at its checksum."""
    if start < 0:
        raise ValueError(f"a block begins {-start} bytes before what was read")
    block = data[start : start + size]
    compression, checksum = _TRAILER.unpack_from(data, start + size)
    if (compression, checksum) != (0, block_checksum(block, 0)):
        raise ValueError("the checksum of a block differs")
    (restarts,) = _U32.unpack_from(block, size - 4)
    found: Entries = []
    key, at = b"", 0
    while at < size - 4 * (restarts + 1):
        shared, at = _number(block, at)
        other, at = _number(block, at)
        length, at = _number(block, at)
        key = key[:shared] + block[at : at + other]
        found.append((key, block[at + other : at + other + length]))
        at += other + length
    return found


def _block(entries: Entries, *, restarts: bool) -> bytes:
    """A block and its trailer. With `restarts`, no entry leans on the one before it."""
    block, offsets, last = bytearray(), [0], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if restarts and number:
            offsets.append(len(block))
        elif not restarts:
            while shared < min(len(last), len(key)) and last[shared] == key[shared]:
                shared += 1
        block += encode_unsigned(shared) + encode_unsigned(len(key) - shared) + encode_unsigned(len(value)) + key[shared:] + value
        last = key
    block += b"".join(map(_U32.pack, (*offsets, len(offsets))))
    return bytes(block) + _TRAILER.pack(0, block_checksum(bytes(block), 0))


def _handle(data: bytes, at: int) -> tuple[int, int, int]:
    """Offset and size of a block, and where the handle ends."""
    offset, at = _number(data, at)
    size, at = _number(data, at)
    return offset, size, at


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    return unsigned_tail(data, at, 0, 0)


def _base36(number: int, digits: int) -> bytes:
    found = bytearray()
    for _ in range(digits):
        number, digit = divmod(number, 36)
        found.append(_DIGITS[digit])
    return bytes(found[::-1])
