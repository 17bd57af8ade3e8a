"""How the values of a version are compressed, and back: the same for pushes, leaders, workers and clients.

A version has one compression for its life, and each value is compressed by itself, so that a read needs no other. What a
value is compressed to stands wherever its Avro bytes would: in storage, in the log, in answers. Deterministic within one
process: a push compares values by what they are compressed to.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from venice.errors import Corrupt, InvalidRequest
from venice.model import Compression

if TYPE_CHECKING:
    import zstandard

ZSTD_LEVEL: Final = 3
GZIP_LEVEL: Final = 6
_GZIP_WINDOW: Final = 31
"""What makes zlib write and expect gzip's header and checksum."""
VALUE_BYTES_MAX: Final = 1 << 30
"""Largest value; one that claims to be larger is none, however little it takes to write so."""

DICTIONARY_BYTES: Final = 64 * 1024
"""Size of a dictionary: more helps little, and every client fetches it."""
_SEGMENT_BYTES: Final = 256
"""What dictionaries are put together of; fixed, because looking for the best takes four times as long for a hundredth in size."""
_SAMPLES_MIN: Final = 16
"""Of fewer values no dictionary is made: it would be larger than they are."""

_REPLACE: Final = "the version is damaged: push again"


@dataclass(frozen=True, slots=True)
class Packing:
    """One compression, ready for use. Safe to share between threads."""

    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes], bytes]
    """Raises Corrupt for what `compress` did not make, as far as the format can tell."""


def packing(compression: Compression, dictionary: bytes = b"") -> Packing | None:
    """What compresses and decompresses values of a version; None if they are not compressed.

    Args:
        compression: Of the version.
        dictionary: Of the version, if it has one.

    Raises:
        Corrupt: `dictionary` is none.
    """
    match compression:
        case Compression.NONE:
            return None
        case Compression.GZIP:
            return Packing(_gzip, _gunzip)
        case Compression.ZSTD | Compression.ZSTD_DICT:
            contexts = Contexts(dictionary)
            return Packing(contexts.compress, contexts.decompress)


def named(name: str) -> Compression:
    """The compression of that name. Raises InvalidRequest for one that this release does not know."""
    try:
        return Compression(name)
    except ValueError as error:
        known = ", ".join(one.value for one in Compression)
        raise InvalidRequest(f"compression {name[:40]!r} is not known here", hint=f"known are {known}; or upgrade this process") from error


def train(samples: Sequence[bytes]) -> bytes:
    """A dictionary for values like these; empty if there is too little to learn from."""
    import zstandard

    if len(samples) < _SAMPLES_MIN:
        return b""
    try:
        return zstandard.train_dictionary(DICTIONARY_BYTES, list(samples), k=_SEGMENT_BYTES, d=8).as_bytes()
    except zstandard.ZstdError:  # values that are too short, or have nothing in common
        return b""


def _gzip(value: bytes) -> bytes:
    return zlib.compress(value, GZIP_LEVEL, _GZIP_WINDOW)


def _gunzip(data: bytes) -> bytes:
    stream = zlib.decompressobj(_GZIP_WINDOW)
    try:
        value = stream.decompress(data, VALUE_BYTES_MAX)
    except zlib.error as error:
        raise Corrupt(f"a value of {len(data)} bytes is not gzip: {error}", hint=_REPLACE) from error
    if not stream.eof or stream.unused_data:
        raise Corrupt(f"a value of {len(data)} bytes is not one whole of gzip", hint=_REPLACE)
    return value


class Contexts:
    """zstd's working state, of which each thread needs its own."""

    def __init__(self, dictionary: bytes) -> None:
        import zstandard

        self._dictionary: zstandard.ZstdCompressionDict | None = None
        self._error = zstandard.ZstdError
        self._size_of = zstandard.frame_content_size
        self._of_thread = threading.local()
        if dictionary:
            try:
                self._dictionary = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_FULLDICT)
                self._dictionary.precompute_compress(level=ZSTD_LEVEL)
            except zstandard.ZstdError as error:
                raise Corrupt(f"a dictionary of {len(dictionary)} bytes is none: {error}", hint=_REPLACE) from error

    def compress(self, value: bytes) -> bytes:
        return self.compressor.compress(value)

    def decompress(self, data: bytes) -> bytes:
        try:
            decompressor: zstandard.ZstdDecompressor = self._of_thread.decompressor
        except AttributeError:
            import zstandard

            decompressor = self._of_thread.decompressor = zstandard.ZstdDecompressor(dict_data=self._dictionary)
        try:
            size = self._size_of(data)
            if not 0 <= size <= VALUE_BYTES_MAX:
                raise Corrupt(f"a value of {len(data)} bytes does not say how large it is, or is {size} bytes large", hint=_REPLACE)
            if size == 0:  # of which the library looks at the header only
                frame = decompressor.decompressobj()
                if frame.decompress(data) or not frame.eof or frame.unused_data:
                    raise Corrupt(f"a value of {len(data)} bytes is not zstd of nothing", hint=_REPLACE)
                return b""
            return decompressor.decompress(data, allow_extra_data=False)
        except (self._error, MemoryError) as error:
            raise Corrupt(f"a value of {len(data)} bytes is not zstd: {error}", hint=_REPLACE) from error

    @property
    def compressor(self) -> zstandard.ZstdCompressor:
        """This thread's."""
        try:
            found: zstandard.ZstdCompressor = self._of_thread.compressor
        except AttributeError:
            import zstandard

            found = self._of_thread.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, dict_data=self._dictionary)
        return found
