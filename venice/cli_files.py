"""`venice inspect snapshot` and `venice inspect replica`: what lies on disk. Nothing that is looked at is changed."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from venice.cli_output import AsJson, model_json, moment, preview, say, say_json, settings_of, size, table
from venice.errors import Conflict, NotFound

if TYPE_CHECKING:
    from venice.config import Settings
    from venice.model import PartitionCheckpoints, SnapshotRef
    from venice.storage import PartitionStorage
    from venice.storage.manifest import Manifest

COPY_TRIES = 5


def snapshot(
    ctx: typer.Context,
    what: Annotated[str, typer.Argument(metavar="STORE|FOLDER", help="A store's name, or the folder of a sealed snapshot.")],
    version: Annotated[int | None, typer.Option(min=1, help="Version of the store; default: the one that serves.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Read every file and compare its SHA-256.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the manifest of a sealed snapshot; with --check, prove its files are as they were sealed."""
    from venice.storage.snapshot import read_manifest, verify

    checkpoints: list[PartitionCheckpoints] = []
    if "/" in what or Path(what).is_dir():
        ref = _ref_of_folder(Path(what))
    else:
        ref, checkpoints = _of_store(settings_of(ctx), what, version)
    manifest = verify(ref) if check else read_manifest(ref)
    for entity in checkpoints:
        for one in entity.kept if check else ():
            verify(one.snapshot)
    if as_json:
        kept = [model_json(entity) for entity in checkpoints]
        say_json({"uri": ref.uri, "sha256": ref.sha256, "checked": check, **asdict(manifest), "checkpoints": kept})
        return
    _say_manifest(ref, manifest)
    _say_checkpoints(checkpoints)
    if check:
        say("every file is as it was sealed")


def _say_manifest(ref: SnapshotRef, manifest: Manifest) -> None:
    part = f" partition {manifest.partition}" if manifest.partition is not None else ""
    say(f"{manifest.store} version {manifest.version}{part} in {ref.uri}")
    say(
        f"{manifest.rows:,} rows, {size(manifest.bytes)}, {manifest.partition_count} partitions, value schema "
        f"{manifest.value_schema_id or '-'}, compression {manifest.compression.value}, sealed {moment(manifest.created_ms)}"
    )
    rows = [
        (file.partition, file.kind.value, f"{file.rows:,}", size(file.size), preview(file.min_key), preview(file.max_key), file.sha256[:12])
        for file in manifest.files
    ]
    if rows:
        say(table(("partition", "kind", "rows", "size", "first key", "last key", "sha256"), rows))
    if manifest.partition is not None:
        members = asdict(manifest.position).items()
        say("checkpoint at " + ", ".join(f"{name} {value}" for name, value in members if value != ()))


def _say_checkpoints(found: list[PartitionCheckpoints]) -> None:
    rows = [
        (
            entity.partition,
            f"{one.next_offset:,}",
            f"{one.row_count:,}",
            size(one.byte_count),
            moment(one.created_ms),
            Path(one.snapshot.uri).name,
        )
        for entity in found
        for one in entity.kept
    ]
    if rows:
        say("checkpoints:")
        say(table(("partition", "next offset", "rows", "size", "written", "folder"), rows))


def replica(
    ctx: typer.Context,
    what: Annotated[str, typer.Argument(metavar="[REPLICA|FOLDER]", help="Such as flights_v1.000000; without it all are listed.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="Print at most so many rows.")] = 10,
    as_json: AsJson = False,
) -> None:
    """List this machine's replicas, or show one: what it is, how far it is, its first rows. Safe while a worker serves it."""
    settings = settings_of(ctx)
    if not what:
        _list_replicas(settings, as_json)
        return
    with _opened(_replica_folder(settings, what), settings.data) as storage:
        rows = [(preview(key), preview(stored)) for key, stored in islice(storage.scan(), limit)]
        facts = {"identity": asdict(storage.identity), "position": asdict(storage.position)}
        count = storage.row_count
    if as_json:
        say_json({**facts, "rows": count, "first": [{"key": key, "stored": stored} for key, stored in rows]})
        return
    say(f"about {count:,} rows")
    for part, members in facts.items():
        say(f"{part}: " + ", ".join(f"{name} {value}" for name, value in members.items() if value not in ("", ())))
    if rows:
        say(table(("key", "stored value"), rows))


def _of_store(settings: Settings, name: str, number: int | None) -> tuple[SnapshotRef, list[PartitionCheckpoints]]:
    """The snapshot of a version, and the checkpoints of its partitions."""
    from venice.control.reading import read_catalog

    catalog = read_catalog(settings)
    store = catalog.stores.get(name)
    if store is None:
        raise NotFound(f"no store {name!r}", hint="'venice store list' shows which are there; a folder needs a '/' in its path")
    version = store.version(number if number is not None else store.current)
    if version is None or version.snapshot is None:
        there = ", ".join(str(version.number) for version in store.versions if version.snapshot is not None) or "none"
        raise NotFound(f"{name} has no sealed version {number or ''}".rstrip(), hint=f"versions with a snapshot: {there}")
    return version.snapshot, [found for at, found in sorted(catalog.checkpoints.items()) if at[:2] == (name, version.number)]


def _ref_of_folder(folder: Path) -> SnapshotRef:
    from venice.model import SnapshotRef
    from venice.storage.manifest import MANIFEST_NAME

    try:
        data = (folder / MANIFEST_NAME).read_bytes()
    except OSError as error:
        raise NotFound(f"{folder} holds no {MANIFEST_NAME} ({error.strerror})", hint="name the folder that a push sealed") from error
    return SnapshotRef(uri=str(folder.resolve()), sha256=sha256(data).hexdigest())


def _list_replicas(settings: Settings, as_json: bool) -> None:
    from venice.local_nodes import replica_folders

    folders = [found for root in replica_folders(settings) for found in sorted(root.glob("*/*/*"))]
    folders = [folder for folder in folders if folder.is_dir() and not folder.name.startswith(".")]
    found = [(folder.parts[-3], folder.parts[-2], folder.name, _size_of(folder)) for folder in folders]
    if as_json:
        say_json([dict(zip(("worker", "replica", "incarnation", "bytes"), item, strict=True)) for item in found])
    elif not found:
        say(f"no replicas in {settings.replicas}")
    else:
        say(table(("worker", "replica", "incarnation", "size"), [(*names, size(count)) for *names, count in found]))


def _size_of(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue  # its owner is at work
    return total


def _replica_folder(settings: Settings, what: str) -> Path:
    from venice.local_nodes import replica_folders

    named = Path(what)
    folders = [named] if named.is_dir() else [found for root in replica_folders(settings) for found in sorted(root.glob(f"*/{what}"))]
    incarnations = [path for folder in folders for path in ([folder] if (folder / "CURRENT").exists() else sorted(folder.iterdir()))]
    for path in incarnations:
        if (path / "CURRENT").exists() and not path.name.startswith("."):
            return path
    raise NotFound(f"no replica {what!r}", hint="'venice inspect replica' lists those of this machine")


@contextmanager
def _opened(folder: Path, data: Path) -> Iterator[PartitionStorage]:
    """A replica opened as of now in a twin of its directory: one process owns a directory, and it may be at work.

    Sorted files never change, so the twin (in `data`, on the same disk) has links to them; the rest is small and copied.
    """
    from venice.storage.rocks import RocksStorage

    with tempfile.TemporaryDirectory(prefix=".inspect-", dir=data if data.is_dir() else None) as place:
        twin = Path(place) / folder.name
        for attempt in range(COPY_TRIES):
            try:
                shutil.copytree(folder, twin, copy_function=_link_or_copy, ignore=shutil.ignore_patterns("LOCK", "LOG*"))
                break
            except (shutil.Error, OSError) as error:
                # A file went away while we copied: its owner is compacting. Take the next state.
                shutil.rmtree(twin, ignore_errors=True)
                if attempt == COPY_TRIES - 1:
                    raise Conflict(f"{folder} changes faster than it can be copied", hint="try again") from error
        storage = RocksStorage(twin)
        try:
            yield storage
        finally:
            storage.close()


def _link_or_copy(source: str, target: str) -> str:
    if source.endswith(".sst"):
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        else:
            return target
    shutil.copyfile(source, target)
    return target
