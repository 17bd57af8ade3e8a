"""Sealed folders, attaching, opening again and checkpoints, on real RocksDB files."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from rocksdict import BottommostLevelCompaction, CompactOptions

from venice.errors import Conflict, Corrupt, Full, InvalidRequest, NotFound, VeniceError
from venice.model import SnapshotRef
from venice.naming import replica_name
from venice.storage import Identity, Mutation, Position
from venice.storage.format import encode_value
from venice.storage.manifest import MANIFEST_NAME, FileKind, Manifest, PartitionFile, file_name
from venice.storage.memory import MemoryStorage
from venice.storage.rocks import RocksStorage
from venice.storage.sealed import PartitionWriter, read_manifest, seal, verify
from venice.storage.snapshot import attach, checkpoint, open_replica

ROWS = [(b"%06d" % number, encode_value(1, b"value %d" % number)) for number in range(3000)]
POSITION = Position(next_offset=9, vector=((0, 1, 4), (1, 1, 2**60)), term=2, session=2**64 - 1, sequence=7, caught_up_session=3)


def write(path: Path, rows: list[tuple[bytes, bytes]], partition: int = 0, kind: FileKind = FileKind.VALUES) -> PartitionFile:
    writer = PartitionWriter(path)
    for start in range(0, len(rows), 1000):
        chunk = rows[start : start + 1000]
        writer.put_all([key for key, _ in chunk], [value for _, value in chunk])
    return writer.finish(partition, kind)


def sealed(folder: Path, rows: list[tuple[bytes, bytes]] = ROWS) -> tuple[SnapshotRef, Manifest]:
    """A version of two partitions: the first with rows, the second empty."""
    folder.mkdir(parents=True)
    files = (write(folder / file_name(0), rows),) if rows else ()
    manifest = Manifest(store="flights", version=3, partition_count=2, created_ms=1, value_schema_id=1, files=files)
    return seal(folder, manifest), manifest


def identity_of(ref: SnapshotRef, partition: int = 0, incarnation: str = "life-1") -> Identity:
    return Identity(
        store="flights", version=3, partition=partition, topic_id="topic-1", incarnation=incarnation, snapshot_sha256=ref.sha256
    )


class Place:
    """A sealed folder and where its replicas go."""

    def __init__(self, folder: Path) -> None:
        self.sealed = folder / "sealed"
        self.ref, self.manifest = sealed(self.sealed)
        self.replicas = folder / "replicas"
        self.folder = self.replicas / replica_name("flights", 3, 0)
        self.file = self.sealed / file_name(0)

    def attach(self, incarnation: str = "life-1") -> RocksStorage:
        return attach(self.ref, self.manifest, identity_of(self.ref, incarnation=incarnation), self.folder)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def replica(place: Place) -> Iterator[RocksStorage]:
    storage = place.attach()
    yield storage
    storage.close()


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


# Writing and sealing.


@pytest.mark.parametrize("rows", [1, 1000, 8192, 20_001])
def test_a_written_file_says_what_it_is(tmp_path: Path, rows: int) -> None:
    path = tmp_path / file_name(7)
    found = write(path, [(b"%06d" % number, os.urandom(50)) for number in range(rows)], partition=7)
    assert (found.partition, found.kind, found.name, found.rows) == (7, FileKind.VALUES, "000007.values.sst", rows)
    assert (found.size, found.piece_bytes) == (path.stat().st_size, 16 * 1024 * 1024)
    assert found.sha256 == sha256(sha256(path.read_bytes()).digest()).hexdigest(), "of the only piece's"
    assert (found.min_key, found.max_key) == (b"000000", b"%06d" % (rows - 1))


def test_rows_may_come_one_by_one(tmp_path: Path) -> None:
    writer = PartitionWriter(tmp_path / "a.sst")
    for row in ROWS[:10]:
        writer.put(*row)
    assert replace(writer.finish(0), name="b.sst") == replace(
        write(tmp_path / "b.sst", ROWS[:10]), sha256=sha256(sha256((tmp_path / "a.sst").read_bytes()).digest()).hexdigest()
    )


@pytest.mark.parametrize("keys", [[b"b", b"a"], [b"a", b"a"], [b"\x80", b"\x7f"]])
def test_keys_must_ascend(tmp_path: Path, keys: list[bytes]) -> None:
    writer = PartitionWriter(tmp_path / "a.sst")
    with pytest.raises(InvalidRequest, match="ascending"):
        writer.put_all(keys, keys)
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_partition_has_no_file(tmp_path: Path) -> None:
    writer = PartitionWriter(tmp_path / "a.sst")
    writer.put_all([], [])
    with pytest.raises(InvalidRequest, match="nothing was written"):
        writer.finish(0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(VeniceError, match="missing"):
        PartitionWriter(tmp_path / "missing" / "a.sst")


def test_a_folder_is_sealed_once(place: Place) -> None:
    with pytest.raises(Conflict, match="sealed already"):
        seal(place.sealed, place.manifest)
    assert verify(place.ref) == read_manifest(place.ref) == place.manifest


def test_files_must_be_there_when_it_is_sealed(tmp_path: Path) -> None:
    file = write(tmp_path / "a.sst", ROWS[:5])
    for wrong in (replace(file, name="b.sst"), replace(file, size=file.size + 1)):
        with pytest.raises(InvalidRequest, match="is not the file"):
            seal(tmp_path, Manifest(store="s", version=1, partition_count=1, created_ms=1, value_schema_id=1, files=(wrong,)))
    assert not (tmp_path / MANIFEST_NAME).exists()


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    file = write(tmp_path / "a.sst", ROWS[:5])
    (tmp_path / "folder").mkdir()
    for name in ("../a.sst", "/etc/a.sst", "..", "", "A.sst", "a.sst/", ".sst", "a\x00.sst", "a.txt", "a.sst\n"):
        manifest = Manifest(store="s", version=1, partition_count=1, created_ms=1, value_schema_id=1, files=(replace(file, name=name),))
        with pytest.raises(InvalidRequest, match="no name of a sorted file"):
            seal(tmp_path / "folder", manifest)


# Reading: what is damaged is found.


def test_a_folder_that_is_not_sealed_is_not_found(place: Place, tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(NotFound):
            read_manifest(SnapshotRef(uri=str(folder), sha256=place.ref.sha256))
    for uri in ("s3://bucket/folder", "a\0b"):
        with pytest.raises(InvalidRequest, match="local folder"):
            read_manifest(SnapshotRef(uri=uri, sha256=place.ref.sha256))


def test_a_flipped_bit_of_the_manifest_is_found(place: Place) -> None:
    path = place.sealed / MANIFEST_NAME
    good = path.read_bytes()
    for bit in range(0, len(good) * 8, 7):
        flip(path, bit)
        with pytest.raises(Corrupt):
            read_manifest(place.ref)
        path.write_bytes(good)
    for cut in (0, 1, len(good) - 1):
        path.write_bytes(good[:cut])
        with pytest.raises(Corrupt):
            read_manifest(place.ref)


def test_a_flipped_bit_of_a_file_is_found(place: Place) -> None:
    good = place.file.read_bytes()
    for bit in sorted(random.Random(4).sample(range(len(good) * 8), 12)):
        flip(place.file, bit)
        with pytest.raises(Corrupt, match="SHA-256"):
            verify(place.ref)
        with pytest.raises(Corrupt, match="SHA-256"):
            place.attach()
        assert list(place.folder.iterdir()) == []
        place.file.write_bytes(good)
    place.attach().close()


@pytest.mark.parametrize("piece_bytes", [0, 4096, 100_000])
@pytest.mark.parametrize("can_link", [True, False])
def test_a_flipped_bit_of_any_piece_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int, can_link: bool) -> None:
    """Files of several pieces, and of none: as format 1 of the manifest has them."""
    if not can_link:
        monkeypatch.setattr(os, "link", refuse_link)
    path = tmp_path / file_name(0)
    written = write(path, ROWS)
    good = path.read_bytes()
    pieces = [good[at : at + piece_bytes] for at in range(0, len(good), piece_bytes)] if piece_bytes else [good]
    digests = [sha256(piece).digest() for piece in pieces]
    found = sha256(b"".join(digests)) if piece_bytes else sha256(good)
    file = replace(written, piece_bytes=piece_bytes, sha256=found.hexdigest())
    manifest = Manifest(store="flights", version=3, partition_count=1, created_ms=1, value_schema_id=1, files=(file,))
    ref = seal(tmp_path, manifest)
    assert verify(ref) == manifest
    ends = [0, *(at + len(piece) - 1 for at, piece in zip(range(0, len(good), piece_bytes or len(good)), pieces, strict=True))]
    for end in ends:
        flip(path, 8 * end + 3)
        for attempt in (lambda: verify(ref), lambda: attach(ref, manifest, identity_of(ref), tmp_path / "replica")):
            with pytest.raises(Corrupt, match="SHA-256"):
                attempt()
        path.write_bytes(good)
    if len(pieces) > 1:  # each piece is what it was, but they have changed places
        path.write_bytes(pieces[1] + pieces[0] + b"".join(pieces[2:]))
        with pytest.raises(Corrupt, match="SHA-256"):
            verify(ref)
        path.write_bytes(good)
    storage = attach(ref, manifest, identity_of(ref), tmp_path / "replica")
    assert list(storage.scan()) == ROWS
    storage.close()


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\x00", lambda data: b""])
def test_a_file_of_another_size_is_found(place: Place, change: Callable[[bytes], bytes]) -> None:
    place.file.write_bytes(change(place.file.read_bytes()))
    for attempt in (lambda: verify(place.ref), place.attach):
        with pytest.raises(Corrupt, match="bytes"):
            attempt()


def test_a_missing_file_is_found(place: Place) -> None:
    place.file.unlink()
    for attempt in (lambda: verify(place.ref), place.attach):
        with pytest.raises(Corrupt, match="missing"):
            attempt()
    (place.sealed / MANIFEST_NAME).unlink()
    with pytest.raises(NotFound):
        place.attach()


def test_a_file_with_other_rows_than_its_manifest_says_is_found(tmp_path: Path) -> None:
    file = replace(write(tmp_path / "a.sst", ROWS), rows=len(ROWS) - 1)
    manifest = Manifest(store="flights", version=3, partition_count=1, created_ms=1, value_schema_id=1, files=(file,))
    ref = seal(tmp_path, manifest)
    with pytest.raises(Corrupt, match="holds 3000 rows"):
        attach(ref, manifest, identity_of(ref), tmp_path / "replica")


def test_a_file_that_is_no_sorted_file_is_corrupt(tmp_path: Path) -> None:
    garbage = random.Random(1).randbytes(5000)
    (tmp_path / "a.sst").write_bytes(garbage)
    file = PartitionFile(partition=0, name="a.sst", rows=1, size=5000, sha256=sha256(garbage).hexdigest(), min_key=b"a", max_key=b"b")
    manifest = Manifest(store="flights", version=3, partition_count=1, created_ms=1, value_schema_id=1, files=(file,))
    ref = seal(tmp_path, manifest)
    with pytest.raises(Corrupt):
        attach(ref, manifest, identity_of(ref), tmp_path / "replica")
    assert list((tmp_path / "replica").iterdir()) == []


# Attaching.


def test_an_attached_replica_holds_the_snapshot(place: Place, replica: RocksStorage) -> None:
    assert replica.identity == identity_of(place.ref)
    assert replica.position == Position()
    assert replica.row_count == len(ROWS)
    assert list(replica.scan()) == ROWS
    assert replica.folder == place.folder / "life-1"
    assert list(place.folder.iterdir()) == [replica.folder]


def test_an_empty_partition_is_a_replica_too(place: Place) -> None:
    folder = place.replicas / replica_name("flights", 3, 1)
    storage = attach(place.ref, place.manifest, identity_of(place.ref, partition=1), folder)
    assert (storage.row_count, list(storage.scan())) == (0, [])
    storage.close()
    again = open_replica(folder)
    assert again is not None
    again.apply([Mutation(b"a", b"1")], POSITION)
    assert again.get(b"a") == b"1"
    again.close()


def compact(storage: RocksStorage) -> None:
    options = CompactOptions()
    options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
    for rocks in (storage._rocks, storage._metadata_rocks()):
        rocks.flush()
        rocks.compact_range(None, None, options)


@pytest.mark.parametrize("can_link", [True, False])
def test_a_sealed_file_is_never_changed(place: Place, monkeypatch: pytest.MonkeyPatch, can_link: bool) -> None:
    before = (place.file.read_bytes(), place.file.stat().st_mtime_ns, place.file.stat().st_ino)
    with monkeypatch.context() as patch:
        if not can_link:
            patch.setattr(os, "link", refuse_link)
        storage = place.attach()
    assert place.file.stat().st_nlink == (2 if can_link else 1)

    def unchanged() -> bool:
        return before == (place.file.read_bytes(), place.file.stat().st_mtime_ns, place.file.stat().st_ino)

    storage.apply([Mutation(key, b"new", b"m") for key, _ in ROWS[::2]] + [Mutation(b"zz", b"more")], POSITION)
    compact(storage)
    assert unchanged()
    assert place.file.stat().st_nlink == 1, "compacted away, so no longer shared"
    storage.apply([Mutation(key, None) for key, _ in ROWS], POSITION)
    storage.close()
    again = open_replica(place.folder)
    assert again is not None
    compact(again)
    again.close()
    assert unchanged()
    verify(place.ref)


def refuse_link(*_: object, **__: object) -> None:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def test_a_replica_outlives_its_sealed_folder(place: Place, replica: RocksStorage) -> None:
    place.file.unlink()
    assert list(replica.scan()) == ROWS


def test_an_incarnation_is_made_in_an_empty_place(place: Place, replica: RocksStorage) -> None:
    for incarnation in ("life-1", "life-2"):
        with pytest.raises(Conflict, match="life-1 already"):
            place.attach(incarnation)
    assert [path.name for path in place.folder.iterdir()] == ["life-1"]


def test_what_an_interrupted_attachment_left_is_deleted(place: Place) -> None:
    for left in (".tmp-life-1", ".tmp-life-0"):
        (place.folder / left / "incoming").mkdir(parents=True)
        (place.folder / left / "CURRENT").write_bytes(b"garbage")
    assert open_replica(place.folder) is None
    assert list(place.folder.iterdir()) == []
    (place.folder / ".tmp-life-1").mkdir()
    place.attach().close()


@pytest.mark.parametrize(
    "change",
    [
        {"store": "other"},
        {"version": 4},
        {"partition": 2},
        {"partition": -1},
        {"snapshot_sha256": ""},
        {"incarnation": ""},
        {"incarnation": ".tmp-x"},
        {"incarnation": "../x"},
        {"incarnation": "a/b"},
    ],
)
def test_a_snapshot_becomes_only_what_it_is_of(place: Place, change: dict[str, str | int]) -> None:
    identity = replace(identity_of(place.ref), **change)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(InvalidRequest):
        attach(place.ref, place.manifest, identity, place.folder)
    assert not place.folder.exists()


# Opening again.


def test_a_replica_is_opened_as_it_was_left(place: Place) -> None:
    storage = place.attach()
    storage.apply([Mutation(b"000001", None, b"m"), Mutation(b"x", b"new")], POSITION)
    storage.close()
    again = open_replica(place.folder)
    assert again is not None
    assert (again.identity, again.position) == (identity_of(place.ref), POSITION)
    assert (again.get(b"000001"), again.get_metadata(b"000001"), again.get(b"x")) == (None, b"m", b"new")
    again.close()


def test_where_nothing_is_nothing_is_opened(tmp_path: Path) -> None:
    assert open_replica(tmp_path / "none") is None
    assert open_replica(tmp_path) is None
    with pytest.raises(NotFound):
        RocksStorage(tmp_path / "none")


def test_a_replica_has_one_owner(place: Place, replica: RocksStorage) -> None:
    with pytest.raises(Conflict, match="open elsewhere"):
        open_replica(place.folder)
    child = "import sys, pathlib; from venice.storage.snapshot import open_replica; open_replica(pathlib.Path(sys.argv[1]))"
    other = subprocess.run([sys.executable, "-c", child, str(place.folder)], capture_output=True, text=True, timeout=60, check=False)
    assert "venice.errors.Conflict" in other.stderr


def test_a_closed_replica_can_be_opened_though_a_scan_is_held(place: Place) -> None:
    storage = place.attach()
    held = [storage.scan(), storage.scan_metadata(), storage.image(), storage.scan(b"zzz")]
    next(storage.scan())
    storage.close()
    again = open_replica(place.folder)
    assert again is not None
    again.close()
    del held


def test_a_renamed_replica_is_refused(place: Place) -> None:
    place.attach().close()
    (place.folder / "life-1").rename(place.folder / "life-2")
    with pytest.raises(Corrupt, match="holds another replica"):
        open_replica(place.folder)
    (place.folder / "life-2").rename(place.folder / "life-1")
    for name in (replica_name("flights", 3, 1), replica_name("other", 3, 0), "anything"):
        renamed = place.folder.rename(place.replicas / name)
        with pytest.raises(Corrupt, match="holds another replica"):
            open_replica(renamed)
        renamed.rename(place.folder)
    storage = open_replica(place.folder)
    assert storage is not None
    storage.close()


def test_two_incarnations_are_refused(place: Place) -> None:
    place.attach().close()
    (place.folder / "life-2").mkdir()
    with pytest.raises(Corrupt, match="2 incarnations"):
        open_replica(place.folder)


# Damage under a replica.


def damaged(pattern: str) -> list[Callable[[Path], None]]:
    def each(act: Callable[[Path], object]) -> Callable[[Path], None]:
        def damage(folder: Path) -> None:
            paths = sorted(folder.glob(pattern))
            assert paths
            for path in paths:
                act(path)

        return damage

    return [
        each(lambda path: path.unlink()),
        each(lambda path: path.write_bytes(b"")),
        each(lambda path: path.write_bytes(path.read_bytes()[:-10])),
        each(lambda path: path.write_bytes(random.Random(2).randbytes(3000))),
    ]


@pytest.mark.parametrize("damage", [*damaged("CURRENT"), *damaged("MANIFEST-*")[:2], *damaged("*.sst")])
def test_a_damaged_directory_is_corrupt(place: Place, damage: Callable[[Path], None]) -> None:
    place.attach().close()
    damage(place.folder / "life-1")
    with pytest.raises(Corrupt):
        open_replica(place.folder)
    with pytest.raises(Corrupt):  # and nothing keeps it locked
        open_replica(place.folder)


@pytest.mark.parametrize("damage", [*damaged("rocksdict-config.json"), *damaged("OPTIONS-*")])
def test_damage_beside_the_data_is_harmless_or_corrupt(place: Place, damage: Callable[[Path], None]) -> None:
    place.attach().close()
    damage(place.folder / "life-1")
    try:
        storage = open_replica(place.folder)
    except Corrupt:
        return
    assert storage is not None
    assert list(storage.scan()) == ROWS
    storage.close()


def test_a_cut_list_of_files_hides_no_rows(place: Place) -> None:
    """RocksDB takes a cut end of its MANIFEST for an interrupted write, and opens what was there before it."""
    place.attach().close()
    (path,) = (place.folder / "life-1").glob("MANIFEST-*")
    good = path.read_bytes()
    for cut in range(len(good) - 1, 0, -11):
        for left in (place.folder / "life-1").glob("MANIFEST-*"):
            left.unlink()
        (place.folder / "life-1" / "CURRENT").write_text(f"{path.name}\n")
        path.write_bytes(good[:cut])
        try:
            storage = open_replica(place.folder)
        except Corrupt:
            continue
        assert storage is not None
        assert list(storage.scan()) == ROWS
        storage.close()


def test_an_empty_directory_is_no_replica(place: Place) -> None:
    (place.folder / "life-1").mkdir(parents=True)
    with pytest.raises(Corrupt):
        open_replica(place.folder)


def test_a_flipped_bit_is_found_when_it_is_read(place: Place) -> None:
    place.attach().close()
    (data,) = (path for path in (place.folder / "life-1").glob("*.sst") if path.stat().st_ino == place.file.stat().st_ino)
    flip(data, data.read_bytes().index(b"value 1500") * 8 + 3)
    storage = open_replica(place.folder)
    assert storage is not None
    reads: list[Callable[[], object]] = [
        lambda: storage.get(b"001500"),
        lambda: storage.multi_get([b"000001", b"001500"]),
        lambda: list(storage.scan()),
        lambda: list(storage.scan(b"001500")),
        lambda: checkpoint(storage, place.replicas / "checkpoint", partition_count=2, created_ms=1),
    ]
    for read in reads:
        with pytest.raises(Corrupt, match="damaged"):
            read()
    assert storage.get(b"000001") == ROWS[1][1]
    assert not list((place.replicas / "checkpoint").iterdir())
    storage.close()


# Checkpoints.


def test_a_checkpoint_holds_values_metadata_tombstones_and_position(place: Place, replica: RocksStorage) -> None:
    replica.apply([Mutation(b"000001", None, b"tombstone"), Mutation(b"x", b"new", b"m"), Mutation(b"y", b"plain")], POSITION)
    expected = (list(replica.scan()), list(replica.scan_metadata()))
    ref = checkpoint(replica, place.replicas / "checkpoint", partition_count=2, created_ms=5)
    manifest = verify(ref)
    assert (manifest.partition, manifest.topic_id, manifest.position) == (0, "topic-1", POSITION)
    assert (manifest.rows, [file.kind for file in manifest.files]) == (len(expected[0]), [FileKind.METADATA, FileKind.VALUES])
    folder = place.replicas / "late" / replica_name("flights", 3, 0)
    joiner = attach(ref, manifest, identity_of(ref, incarnation="life-9"), folder)
    assert (list(joiner.scan()), list(joiner.scan_metadata())) == expected
    assert joiner.position == POSITION
    joiner.apply([Mutation(b"000001", b"back"), Mutation(b"x", None)], Position(next_offset=10))
    joiner.close()
    again = open_replica(folder)
    assert again is not None
    assert (again.get(b"000001"), again.get_metadata(b"000001"), again.get_metadata(b"x")) == (b"back", None, None)
    again.close()


def test_a_checkpoint_is_of_its_partition_and_topic(place: Place, replica: RocksStorage) -> None:
    ref = checkpoint(replica, place.replicas / "checkpoint", partition_count=2, created_ms=5)
    manifest = read_manifest(ref)
    with pytest.raises(InvalidRequest, match="partition 1"):
        attach(ref, manifest, identity_of(ref, partition=1), place.replicas / "a")
    with pytest.raises(InvalidRequest, match="topic"):
        attach(ref, manifest, replace(identity_of(ref), topic_id="topic-2"), place.replicas / "a")
    with pytest.raises(Conflict, match="not empty"):
        checkpoint(replica, place.replicas / "checkpoint", partition_count=2, created_ms=5)


def test_checkpoints_of_equal_replicas_have_equal_files(place: Place, replica: RocksStorage) -> None:
    """Also where values and metadata are the same rows, so that both files are the same, to the id that RocksDB makes of it."""
    mutations = [Mutation(b"x%d" % number, b"new", b"new") for number in range(100)] + [Mutation(key, None) for key, _ in ROWS]
    memory = MemoryStorage(identity_of(place.ref), POSITION)
    for storage in (replica, memory):
        storage.apply(mutations, POSITION)
    manifests = []
    for name, storage in (("rocks", replica), ("memory", memory)):
        ref = checkpoint(storage, place.replicas / name, partition_count=2, created_ms=5)
        manifests.append(read_manifest(ref))
    assert manifests[0] == manifests[1]
    metadata, values = (place.replicas / "rocks" / file.name for file in manifests[0].files)
    assert metadata.read_bytes() == values.read_bytes()
    joiner = attach(ref, manifests[1], identity_of(ref, incarnation="life-9"), place.replicas / "late" / replica_name("flights", 3, 0))
    assert list(joiner.scan()) == list(joiner.scan_metadata()) == sorted((change.key, b"new") for change in mutations[:100])
    joiner.close()


def test_an_empty_replica_has_a_checkpoint(tmp_path: Path) -> None:
    memory = MemoryStorage(Identity(store="flights", version=3, partition=0, topic_id="topic-1", incarnation="m"), POSITION)
    ref = checkpoint(memory, tmp_path / "checkpoint", partition_count=1, created_ms=5)
    storage = attach(ref, read_manifest(ref), identity_of(ref), tmp_path / "replica")
    assert (storage.row_count, storage.position) == (0, POSITION)
    storage.close()


def test_a_checkpoint_is_of_one_moment_while_records_are_applied(place: Place, replica: RocksStorage) -> None:
    """Every batch writes its number to all of some keys, as value and metadata: a checkpoint must see one number."""
    keys = [b"000%03d" % number for number in range(0, 1000, 50)]
    replica.apply([Mutation(key, b"0", b"0") for key in keys], Position(next_offset=0))
    stop = threading.Event()

    def apply() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            replica.apply([Mutation(key, b"%d" % number, b"%d" % number) for key in keys], Position(next_offset=number))

    writer = threading.Thread(target=apply)
    writer.start()
    try:
        for number in range(5):
            ref = checkpoint(replica, place.replicas / f"checkpoint-{number}", partition_count=2, created_ms=5)
            manifest = read_manifest(ref)
            storage = attach(ref, manifest, identity_of(ref), place.replicas / f"replica-{number}")
            moment = b"%d" % manifest.position.next_offset
            assert {storage.get(key) for key in keys} == {storage.get_metadata(key) for key in keys} == {moment}
            storage.close()
    finally:
        stop.set()
        writer.join()


# A full disk: a process that may not write files larger than a limit meets the same errors.

LIMITED = """
import pathlib, resource, sys
from venice.errors import Full
from venice.storage import Mutation, Position
from venice.storage.sealed import PartitionWriter
from venice.storage.snapshot import checkpoint, open_replica

folder = pathlib.Path(sys.argv[1])
storage = open_replica(folder)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

def expect_full(act):
    try:
        for number in range(200):
            act(number)
    except Full as error:
        assert error.hint
    else:
        raise SystemExit(f"{act.__name__} was not refused")

def apply(number):
    storage.apply([Mutation(b"key%d" % number, b"v" * 10_000)], Position(next_offset=number + 1))

writer = PartitionWriter(folder.parent / "a.sst")
def put(number):
    writer.put(b"%06d" % number, b"v" * 10_000)
    if number == 199:
        writer.finish(0)

expect_full(apply)
applied = storage.position.next_offset
assert storage.get(b"key%d" % (applied - 1)) is not None and storage.get(b"key%d" % applied) is None
expect_full(put)
expect_full(lambda number: checkpoint(storage, folder.parent / f"checkpoint-{number}", partition_count=2, created_ms=1))
writer.abort()
storage.close()
print(applied)
"""


def test_a_full_disk_is_named_and_nothing_is_half_done(place: Place) -> None:
    place.attach().close()
    done = subprocess.run([sys.executable, "-c", LIMITED, str(place.folder)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    applied = int(done.stdout)
    storage = open_replica(place.folder)
    assert storage is not None
    assert applied > 10
    assert storage.position == Position(next_offset=applied)
    assert [storage.get(b"key%d" % number) is not None for number in (0, applied - 1, applied)] == [True, True, False]
    storage.close()


def test_an_attachment_without_room_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(Full, match="no room"):
        place.attach()
    assert list(place.folder.iterdir()) == []
