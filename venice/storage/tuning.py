"""RocksDB as Venice uses it: how tables are laid out, how a directory is opened, what its errors mean.

Files written by a push are laid out as those that a replica writes, so that attaching one is linking it. Only RocksDB's format version
differs: see `venice/storage/table_end.py`.
"""

from __future__ import annotations

from pathlib import Path

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    DataBlockIndexType,
    DbClosedError,
    DBCompressionType,
    Options,
    Rdict,
    SstFileWriter,
)

from venice.errors import Conflict, Corrupt, Full, Unavailable, VeniceError
from venice.storage.format import META, METADATA
from venice.storage.table_end import TABLE_FORMAT

_MIB = 1024 * 1024
_FILTER_BITS_PER_KEY = 10
_REPLICA_TABLE_FORMAT = 6
"""Its checksums also tell a block that is in the wrong place; of a sealed file, only its SHA-256 does."""


def open_rocks(folder: Path, *, create: bool = False, read_only: bool = False) -> Rdict:
    """Open the RocksDB directory of a replica; `create` makes it, with all its column families.

    With `read_only` it may be open in another process, and is read as of this moment for ever; nothing in it is changed.

    Raises:
        Corrupt: RocksDB refuses what it finds, or finds nothing and `create` is false.
        Conflict: It is open already, here or in another process.
        Full: The disk is full.
    """
    families = {
        METADATA: _family_options(buffer_mib=8, filter_last_level=True),
        META: _family_options(buffer_mib=1, filter_last_level=False),
    }
    try:
        access = AccessType.read_only() if read_only else AccessType.read_write()
        return Rdict(str(folder), _directory_options(create=create), column_families=families, access_type=access)
    except Exception as error:
        raise translated(error, folder) from error


def sorted_file_writer() -> SstFileWriter:
    """A writer of sorted files. They carry no filter: of the keys asked of a pushed version nearly all are there."""
    return SstFileWriter(_table_options(filters=False, format_version=TABLE_FORMAT))


def translated(error: Exception, folder: Path) -> VeniceError:
    """What RocksDB said, as the error that tells the caller what to do. Errors of Venice stay what they are.

    Raises:
        Exception: `error` itself if it is no answer of RocksDB but a wrong call.
    """
    if isinstance(error, VeniceError):
        return error
    text = str(error)
    # rocksdict says of a database that is being closed in another thread that it is "already mutably borrowed".
    if isinstance(error, DbClosedError) or (isinstance(error, RuntimeError) and "borrowed" in text):
        return Unavailable(f"replica {folder} is closed", hint="look it up again")
    if type(error) is not Exception:  # rocksdict raises nothing more special for what RocksDB answers
        raise error
    if any(sign in text for sign in ("No space left", "File too large", "Disk quota exceeded")):
        return Full(f"no room for replica {folder}: {text}", hint="free disk space, then open the replica again")
    if "/LOCK: " in text:
        return Conflict(f"replica {folder} is open elsewhere: {text}", hint="one process owns a replica: stop the other one")
    file_missing_or_cut = "No such file" in text or "mmap" in text
    if not file_missing_or_cut and text.startswith(("IO error", "Resource busy", "Operation aborted", "Shutdown in progress", "Try again")):
        return Unavailable(f"replica {folder} cannot be read or written: {text}", hint="look at the disk")
    return Corrupt(f"replica {folder} is damaged: {text}", hint="replace it by a fresh one")


def _directory_options(*, create: bool) -> Options:
    options = _family_options(buffer_mib=16, filter_last_level=False)
    options.create_if_missing(create)
    options.create_missing_column_families(create)
    # A process holds hundreds of replicas: none of them may log, dump statistics or reserve disk by itself.
    options.set_keep_log_file_num(1)
    options.set_max_log_file_size(_MIB)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_manifest_preallocation_size(64 * 1024)
    # `meta` takes a few bytes of every batch and is flushed rarely; without a limit it would hold the log for ever.
    options.set_max_total_wal_size(64 * _MIB)
    # All files stay open: looking one up in a table cache costs more than the read.
    options.set_max_open_files(-1)
    options.set_allow_mmap_reads(True)
    return options


def _family_options(*, buffer_mib: int, filter_last_level: bool) -> Options:
    options = _table_options(filters=True, format_version=_REPLICA_TABLE_FORMAT)
    # Small buffers stay in the caches of the processor, and hundreds of replicas have one each.
    options.set_write_buffer_size(buffer_mib * _MIB)
    # The last level holds what was attached, without filters; newer levels are mostly asked for keys they do not have.
    options.set_optimize_filters_for_hits(not filter_last_level)
    return options


def _table_options(*, filters: bool, format_version: int) -> Options:
    table = BlockBasedOptions()
    table.set_format_version(format_version)
    table.set_block_size(1024)
    table.set_data_block_index_type(DataBlockIndexType.binary_and_hash())
    table.set_data_block_hash_ratio(0.75)
    # A smaller index misses the processor's caches less often: 9 % off a get.
    table.set_index_block_restart_interval(16)
    # Blocks are read in place (mmap); a cache could only be asked in vain.
    table.disable_cache()
    if filters:
        table.set_bloom_filter(_FILTER_BITS_PER_KEY, False)
    options = Options(raw_mode=True)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.none())
    return options
