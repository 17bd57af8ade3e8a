"""The compression of a version, ready for use: with the dictionary that its snapshot's manifest holds.

A manifest stays where it was sealed as long as its version is in the catalog, so nobody else keeps dictionaries on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Final

from venice.compression import Packing, packing
from venice.errors import Unavailable
from venice.model import Compression, Version
from venice.storage.sealed import read_manifest

_KEPT_MAX: Final = 64
"""For who asks for each value anew; a dictionary has 64 KiB at most."""

_lock = Lock()
_kept: dict[tuple[Compression, str], tuple[bytes, Packing]] = {}
"""Dictionary and packing by compression and the SHA-256 of the manifest: the same in every process, so sharing them changes
nothing for anybody."""


def dictionary_of(version: Version) -> bytes:
    """The dictionary of a version; empty if it has none.

    Raises:
        NotFound: Its snapshot is gone.
        Corrupt: Its manifest is not the one that was sealed.
        Unavailable: It has no snapshot yet, or the disk cannot be read.
    """
    return b"" if version.compression is Compression.NONE else _of(version)[0]


def packing_of(version: Version) -> Packing | None:
    """What compresses and decompresses the values of a version; None if they are not compressed. Raises as `dictionary_of`."""
    return None if version.compression is Compression.NONE else _of(version)[1]


def unpacker_of(version: Version) -> Callable[[bytes], bytes] | None:
    """What decompresses the values of a version; None if they are not compressed. Its first use raises as `dictionary_of`, any use
    Corrupt; from then on it has its dictionary for itself, however many versions the process reads."""
    if version.compression is Compression.NONE:
        return None
    held: list[Callable[[bytes], bytes]] = []

    def unpack(value: bytes) -> bytes:
        if not held:
            held.append(_of(version)[1].decompress)
        return held[0](value)

    return unpack


def _of(version: Version) -> tuple[bytes, Packing]:
    sha256 = ""
    if version.compression is Compression.ZSTD_DICT:
        if version.snapshot is None:
            raise Unavailable(f"version {version.number} is not sealed yet", hint="try again")
        sha256 = version.snapshot.sha256
    found = _kept.get((version.compression, sha256))
    if found is None:
        dictionary = read_manifest(version.snapshot).dictionary if version.snapshot is not None and sha256 else b""
        made = packing(version.compression, dictionary)
        assert made is not None, "a compression other than none"
        found = dictionary, made
        with _lock:
            while len(_kept) >= _KEPT_MAX:
                del _kept[next(iter(_kept))]
            _kept[version.compression, sha256] = found
    return found
