"""Sealed folders: written, sealed, read and verified.

Write path: push → **sealed** → attach → ingest → storage.

A sealed folder never changes: a reference names its manifest by SHA-256, the manifest names each file by SHA-256.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import islice, repeat
from operator import setitem
from pathlib import Path
from typing import cast

from rocksdict import SstFileWriter

from venice.errors import Conflict, Corrupt, Full, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.model import SnapshotRef
from venice.storage.cached_file import CachedFile
from venice.storage.digest import PIECE_BYTES, digest_of
from venice.storage.manifest import MANIFEST_NAME, FileKind, Manifest, PartitionFile, decode_manifest, encode_manifest
from venice.storage.table_end import END_BYTES_MAX, TableEnd
from venice.storage.tuning import sorted_file_writer, translated

_CHUNK_ROWS = 4096
"""Rows after which a writer moves on what has reached its file."""
_set_item = cast(Callable[[SstFileWriter, bytes, bytes], None], setitem)


class PartitionWriter:
    """Writes one sorted file of a folder that will be sealed. Equal rows give equal bytes, whoever writes them.

    One thread at a time; end with `finish` or `abort`.

    Args:
        path: The file, in a folder that exists; `file_name` names it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = self._unmoved = 0
        self._min_key = self._max_key = b""
        self._writer: SstFileWriter = sorted_file_writer()
        with disk_errors(path):
            self._file = CachedFile(path)
            self._writer.open(self._file.written_path)

    def put(self, key: bytes, stored: bytes) -> None:
        """Add a row; keys ascend strictly, compared as unsigned bytes. Raises as `put_all`."""
        self.put_all((key,), (stored,))

    def put_all(self, keys: Sequence[bytes], stored: Iterable[bytes]) -> None:
        """Add rows, one of `stored` for each of `keys`; much faster than one by one.

        Raises:
            InvalidRequest: A key is not larger than the one before it.
            Full: The disk is full.
        """
        if not keys:
            return
        values = iter(stored)
        for start in range(0, len(keys), _CHUNK_ROWS):
            chunk = keys[start : start + _CHUNK_ROWS]
            self._put_chunk(chunk, list(islice(values, len(chunk))))
        assert next(values, None) is None, "a value for each key, and no more"
        if not self._rows:
            self._min_key = keys[0]
        self._max_key = keys[-1]
        self._rows += len(keys)

    def finish(self, partition: int, kind: FileKind = FileKind.VALUES) -> PartitionFile:
        """Complete the file and say what it is; `seal` makes sure that it stays.

        Raises:
            InvalidRequest: No row was added: an empty partition has no file.
            Full: The disk is full.
        """
        if not self._rows:
            self.abort()
            raise InvalidRequest(f"nothing was written to {self._path}", hint="an empty partition has no file")
        with disk_errors(self._path):
            self._writer.finish()
            end = TableEnd.read(*self._file.end(END_BYTES_MAX))
            found = self._file.finish(end.offset, end.settled)
        return PartitionFile(
            partition=partition,
            kind=kind,
            name=self._path.name,
            rows=self._rows,
            size=self._file.size,
            sha256=found,
            piece_bytes=PIECE_BYTES,
            min_key=self._min_key,
            max_key=self._max_key,
        )

    def abort(self) -> None:
        """Give up and delete the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _put_chunk(self, keys: Sequence[bytes], stored: Sequence[bytes]) -> None:
        assert len(keys) == len(stored), "a value for each key"
        with disk_errors(self._path):
            # Without bytecode for each row, nor a tuple, which the method itself would be called with: a tenth off by the one,
            # a twentieth by the other, where nothing in a push costs more.
            deque(map(_set_item, repeat(self._writer), keys, stored), maxlen=0)
            self._unmoved += len(keys)
            if self._unmoved >= _CHUNK_ROWS:
                self._file.move()
                self._unmoved = 0


def seal(folder: Path, manifest: Manifest) -> SnapshotRef:
    """Seal a folder whose files are all there: its manifest is written last, and on disk to stay.

    Raises:
        Conflict: The folder is sealed already.
        InvalidRequest: A file is missing or of another size than the manifest says.
        Full: The disk is full.
    """
    data = encode_manifest(manifest)
    target = folder / MANIFEST_NAME
    with disk_errors(folder):
        if target.exists():
            raise Conflict(f"{folder} is sealed already", hint="every attempt of a push writes to a folder of its own")
        for file in manifest.files:
            path = folder / file.name
            if not path.is_file() or path.stat().st_size != file.size:
                raise InvalidRequest(f"{path} is not the file of {file.size} bytes that the manifest names")
            sync(path)
        unfinished = folder / f".tmp-{MANIFEST_NAME}"
        unfinished.write_bytes(data)
        sync(unfinished)
        unfinished.rename(target)
        sync(folder)
        sync(folder.parent)
    return SnapshotRef(uri=str(folder.resolve()), sha256=sha256(data).hexdigest())


def read_manifest(ref: SnapshotRef) -> Manifest:
    """The manifest of a sealed folder.

    Raises:
        NotFound: There is no such folder, or it is not sealed.
        Corrupt: The manifest is not the one that was sealed, or newer than this release reads.
    """
    path = _local(ref.uri) / MANIFEST_NAME
    with disk_errors(path):
        data = path.read_bytes()
    if sha256(data).hexdigest() != ref.sha256:
        raise Corrupt(f"{path} is not the manifest that was sealed", hint="its SHA-256 differs: push again")
    return decode_manifest(data)


def verify(ref: SnapshotRef) -> Manifest:
    """The manifest, after every file of the folder was read and found as it was sealed.

    Raises:
        NotFound: There is no such folder, or it is not sealed.
        Corrupt: The manifest or a file is missing, cut or changed.
    """
    manifest = read_manifest(ref)
    for file in manifest.files:
        with disk_errors(_local(ref.uri)):
            path = sealed_file(ref, file)
            check_file(path, file)
    return manifest


def _local(uri: str) -> Path:
    """The folder a reference names. The one place that knows what kinds of places there are."""
    if "://" in uri or "\0" in uri:
        raise InvalidRequest(f"snapshot {uri!r} is not a local folder", hint="this release reads snapshots from local folders")
    return Path(uri)


def sealed_file(ref: SnapshotRef, file: PartitionFile) -> Path:
    """Where a file of a sealed folder is, after a look at whether it can be the one that was sealed."""
    folder = _local(ref.uri)
    path = folder / file.name
    if not (folder / MANIFEST_NAME).is_file():
        raise NotFound(f"no sealed folder at {folder}")
    if not path.is_file():
        raise Corrupt(f"{path} is missing from a sealed folder", hint="push again")
    size = path.stat().st_size
    if size != file.size:
        raise Corrupt(f"{path} has {size} bytes, {file.size} were sealed", hint="push again")
    return path


def check_file(path: Path, file: PartitionFile, also: Callable[[memoryview, int], object] | None = None) -> None:
    """Read a file whose size was looked at, and compare its digest; `also` is told of what was read, as by `digest_of`.

    Raises:
        Corrupt: It is not the file that was sealed.
    """
    if digest_of(path, file.size, file.piece_bytes, also) != file.sha256:
        raise Corrupt(f"{path} is not the file that was sealed", hint="its SHA-256 differs: push again")


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What the disk and RocksDB say inside, as the errors that tell the caller what to do."""
    try:
        yield
    except VeniceError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise Full(f"no room for {path}: {error.strerror}", hint="free disk space, then try again") from error
        if isinstance(error, FileNotFoundError):
            raise NotFound(f"{error.filename or path} does not exist") from error
        raise Unavailable(f"{path} cannot be read or written: {error}", hint="look at the disk and its permissions") from error
    except Exception as error:
        if "strict ascending order" in str(error):
            raise InvalidRequest(f"rows of {path} are not in ascending order of their keys, or a key comes twice") from error
        raise translated(error, path) from error
