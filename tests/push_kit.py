"""A push without a controller: rows become a sealed folder, and the folder is read back through real replicas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from venice.clock import SystemClock
from venice.compression import packing
from venice.model import UNLIMITED, Compression
from venice.push.batch import configure
from venice.push.data import DATA, register
from venice.push.plan import make_plan
from venice.push.progress import Event, Reporter
from venice.push.snapshot import Built, Target, build
from venice.push.sources import locate_any
from venice.schema.codec import Codec, key_codec
from venice.storage import Identity
from venice.storage.format import decode_value
from venice.storage.snapshot import attach

LONG = '"long"'


def record(*fields: tuple[str, Any], name: str = "Row") -> str:
    """Avro JSON of a record with these fields."""
    return json.dumps({"type": "record", "name": name, "fields": [{"name": field, "type": kind} for field, kind in fields]})


@dataclass
class Pushed:
    """A sealed folder, and what it holds by decoded key (as text, where keys cannot be hashed)."""

    built: Built
    rows: dict[Any, Any]
    events: list[Event]
    times: dict[Any, int | None]


def push_folder(
    folder: Path,
    *,
    value_schema: str,
    key_schema: str = LONG,
    sql: str | None = None,
    inputs: Sequence[str | Path] = (),
    data: object = None,
    key: str | None = None,
    value: str | None = None,
    partition_count: int = 3,
    allow_duplicates: bool = False,
    value_bytes_max: int = 1 << 20,
    threads: int = 2,
    compression: Compression = Compression.NONE,
    quota_bytes: int = UNLIMITED,
    renames: Mapping[str, str] | None = None,
    timestamp: str | None = None,
    table: str | None = None,
) -> Pushed:
    """Build `folder/snapshot` and read every partition of it back."""
    events: list[Event] = []
    clock = SystemClock()
    with closing(duckdb.connect()) as connection:
        configure(connection, threads, None)
        if data is not None:
            register(connection, data)
            source = DATA
        else:
            source = locate_any(connection, inputs, table, sql)
        plan = make_plan(
            connection, source, key_schema=key_schema, value_schema=value_schema, key=key, value=value, renames=renames, timestamp=timestamp
        )
        target = Target(
            folder=folder / "snapshot", store="rows", version=1, partition_count=partition_count, value_schema_id=7,
            value_bytes_max=value_bytes_max, compression=compression, quota_bytes=quota_bytes,
        )  # fmt: skip
        reporter = Reporter(clock, events.append)
        built = build(
            connection, plan, target, size=source.measure(connection), allow_duplicates=allow_duplicates,
            threads=threads, clock=clock, reporter=reporter, check=lambda: None,
        )  # fmt: skip
        reporter.end()
    times: dict[Any, int | None] = {}
    return Pushed(built, read_back(built, folder, key_schema, value_schema, times), events, times)


def read_back(built: Built, folder: Path, key_schema: str, value_schema: str, times: dict[Any, int | None] | None = None) -> dict[Any, Any]:
    """Every row of a sealed folder, through replicas attached from it; also the times, if somewhere to put them is given."""
    keys, values = key_codec(key_schema), Codec(value_schema)
    packed = packing(built.manifest.compression, built.manifest.dictionary)
    found: dict[Any, Any] = {}
    for partition in range(built.manifest.partition_count):
        identity = Identity(
            store="rows", version=1, partition=partition, topic_id="", incarnation=f"i{partition}", snapshot_sha256=built.ref.sha256
        )  # fmt: skip
        with closing(attach(built.ref, built.manifest, identity, folder / f"replica-{partition}")) as storage:
            for key, stored in storage.scan():
                prefix = decode_value(stored)
                assert prefix.schema_id == 7
                payload = stored[prefix.offset :] if packed is None else packed.decompress(stored[prefix.offset :])
                decoded = keys.decode(key)
                name = decoded if isinstance(decoded, int | str | bytes) else str(decoded)
                found[name] = values.decode(payload)
                if times is not None:
                    times[name] = prefix.timestamp_ms
    return found
