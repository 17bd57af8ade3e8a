"""The options of `venice store create` and `venice store update`, and the settings of a store that they give."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any, Final

import typer

from venice.compression import named as compression_named
from venice.errors import InvalidRequest
from venice.model import UNLIMITED, HybridConfig

Partitions = Annotated[int | None, typer.Option(min=1, help="Partitions of the versions to come.")]
Replicas = Annotated[
    int | None, typer.Option("--replication-factor", "--replicas", min=1, metavar="N", help="Nodes that hold each partition.")
]
Preserved = Annotated[int | None, typer.Option(min=1, help="Complete versions to keep, the current one included.")]
Packed = Annotated[
    str | None, typer.Option("--compression", metavar="NAME", help="Of the values of versions to come: none, gzip, zstd or zstd-dict.")
]
RecordBytes = Annotated[int | None, typer.Option(min=1, help="Largest encoded value, in bytes.")]
Quota = Annotated[
    str | None,
    typer.Option("--storage-quota", metavar="SIZE", help="Largest size of a version's files, such as 500MB or 20GB, or unlimited."),
]
Strategy = Annotated[
    str | None,
    typer.Option("--backup-strategy", metavar="NAME", help="When a version makes room: delete-on-new-push-start or keep-min-versions."),
]
Retention = Annotated[
    int | None, typer.Option("--backup-retention", min=0, metavar="SECONDS", help="For so long after a swap backups are kept.")
]
Superset = Annotated[
    bool | None, typer.Option("--superset/--no-superset", help="Whether the superset of all value schemas is registered with each one.")
]
Hybrid = Annotated[bool | None, typer.Option("--hybrid/--no-hybrid", help="Whether versions to come take real-time writes.")]
Rewind = Annotated[
    int | None, typer.Option("--rewind", min=0, metavar="SECONDS", help="How far before a push real-time writes are replayed onto it.")
]
LagRecords = Annotated[
    int | None, typer.Option("--lag-records", min=0, metavar="N", help="Real-time writes a partition may lack and be ready.")
]

_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def given(
    *,
    partition_count: int | None,
    replication_factor: int | None,
    versions_preserved: int | None,
    record_bytes_max: int | None,
    compression: str | None,
    storage_quota: str | None,
    backup_strategy: str | None,
    backup_retention_s: int | None,
    superset_schema: bool | None,
) -> dict[str, Any]:
    """Those fields of `StoreConfig` that were given on the command line. Raises InvalidRequest for a size that is none."""
    named = {
        "partition_count": partition_count,
        "replication_factor": replication_factor,
        "versions_preserved": versions_preserved,
        "record_bytes_max": record_bytes_max,
        "compression": compression_named(compression) if compression is not None else None,
        "storage_quota_bytes": quota_of(storage_quota) if storage_quota is not None else None,
        "backup_strategy": backup_strategy,
        "backup_retention_s": backup_retention_s,
        "superset_schema": superset_schema,
    }
    return {name: value for name, value in named.items() if value is not None}


def quota_of(text: str) -> int:
    """Bytes, or `UNLIMITED`. Raises InvalidRequest."""
    if text.lower() == "unlimited":
        return UNLIMITED
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]i?)?b?", text.lower())
    if found is None:
        raise InvalidRequest(f"{text!r} is no size", hint="write it as 500MB, 20GB, 2GiB or unlimited")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def hybrid(base: HybridConfig | None, rewind: int | None, lag_records: int | None) -> HybridConfig | None:
    """`base` with what was given on the command line. Raises InvalidRequest: something was, and there is no base."""
    named = {"rewind_s": rewind, "lag_records_max": lag_records}
    found = {name: value for name, value in named.items() if value is not None}
    if base is None and found:
        raise InvalidRequest("--rewind and --lag-records are settings of hybrid stores", hint="add --hybrid")
    return replace(base, **found) if base is not None else None
