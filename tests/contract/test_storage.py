"""What every storage does: the suite runs unchanged on RocksDB and in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from venice.errors import Unavailable
from venice.model import SnapshotRef
from venice.storage import Identity, Mutation, PartitionStorage, Position
from venice.storage.memory import MemoryStorage
from venice.storage.sealed import seal
from venice.storage.snapshot import Manifest, attach, checkpoint, read_manifest

IDENTITY = Identity(store="flights", version=3, partition=1, topic_id="topic-1", incarnation="life-1")
POSITION = Position(next_offset=9, vector=((0, 1, 4), (1, 1, 2**60)), term=2, session=2**64 - 1, sequence=7, caught_up_session=3)


def empty_snapshot(folder: Path) -> tuple[SnapshotRef, Manifest]:
    folder.mkdir(parents=True)
    manifest = Manifest(store="flights", version=3, partition_count=2, created_ms=1, value_schema_id=1)
    return seal(folder, manifest), manifest


def on_rocks(folder: Path) -> PartitionStorage:
    ref, manifest = empty_snapshot(folder / "sealed")
    identity = replace(IDENTITY, snapshot_sha256=ref.sha256)
    return attach(ref, manifest, identity, folder / "flights_v3.000001")


def in_memory(folder: Path) -> PartitionStorage:
    return MemoryStorage(IDENTITY)


@pytest.fixture(params=[on_rocks, in_memory])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PartitionStorage]:
    make: Callable[[Path], PartitionStorage] = request.param
    made = make(tmp_path)
    yield made
    made.close()


def put(storage: PartitionStorage, **rows: bytes) -> None:
    storage.apply([Mutation(key.encode(), value) for key, value in rows.items()], storage.position)


def test_a_new_one_is_empty_and_at_the_start(storage: PartitionStorage) -> None:
    assert storage.identity.incarnation == "life-1"
    assert storage.position == Position()
    assert storage.row_count == 0
    assert storage.get(b"") is None
    assert storage.get_metadata(b"a") is None
    assert storage.multi_get([]) == []
    assert list(storage.scan()) == list(storage.scan_metadata()) == []


def test_values_are_read_by_key(storage: PartitionStorage) -> None:
    put(storage, a=b"1", b=b"", c=b"\x00" * 5000)
    assert storage.get(b"a") == b"1"
    assert storage.get(b"b") == b""
    assert storage.get(b"c") == b"\x00" * 5000
    assert storage.get(b"ab") is None
    assert storage.multi_get([b"c", b"none", b"a", b"a"]) == [b"\x00" * 5000, None, b"1", b"1"]
    assert storage.multi_get((b"a", b"b")) == [b"1", b""]
    assert storage.row_count == 3


def test_any_bytes_are_a_key(storage: PartitionStorage) -> None:
    keys = [b"", b"\x00", b"\x00\x00", b"\x7f", b"\x80", b"\xff", b"\xff\xff", bytes(range(256)) * 4]
    storage.apply([Mutation(key, b"v" + key) for key in reversed(keys)], Position())
    assert storage.multi_get(keys) == [b"v" + key for key in keys]
    assert [key for key, _ in storage.scan()] == sorted(keys)


def test_later_mutations_of_a_batch_win(storage: PartitionStorage) -> None:
    storage.apply(
        [
            Mutation(b"a", b"1"),
            Mutation(b"a", None),
            Mutation(b"b", None),
            Mutation(b"b", b"2"),
            Mutation(b"c", b"3"),
            Mutation(b"c", b"4"),
        ],
        Position(),
    )
    assert storage.multi_get([b"a", b"b", b"c"]) == [None, b"2", b"4"]


def test_deleting_what_is_not_there_does_nothing(storage: PartitionStorage) -> None:
    storage.apply([Mutation(b"a", None)], Position(next_offset=1))
    assert storage.get(b"a") is None
    assert list(storage.scan()) == []


def test_values_and_metadata_replace_each_their_own(storage: PartitionStorage) -> None:
    storage.apply([Mutation(b"a", b"1", b"m1"), Mutation(b"b", None, b"m2"), Mutation(b"c", b"3")], Position())
    assert [storage.get_metadata(key) for key in (b"a", b"b", b"c")] == [b"m1", b"m2", None]
    assert list(storage.scan()) == [(b"a", b"1"), (b"c", b"3")]
    assert list(storage.scan_metadata()) == [(b"a", b"m1"), (b"b", b"m2")]
    storage.apply([Mutation(b"a", b"1"), Mutation(b"b", b"2", b"m3"), Mutation(b"c", None, b"m4")], Position())
    assert list(storage.scan()) == [(b"a", b"1"), (b"b", b"2")]
    assert list(storage.scan_metadata()) == [(b"b", b"m3"), (b"c", b"m4")]
    storage.apply([Mutation(b"d", b"4", b"m5"), Mutation(b"d", b"4")], Position())
    assert storage.get_metadata(b"d") is None


def test_the_position_moves_with_the_batch(storage: PartitionStorage) -> None:
    storage.apply([Mutation(b"a", b"1")], POSITION)
    assert storage.position == POSITION
    storage.apply([], Position(next_offset=10))
    assert storage.position == Position(next_offset=10)
    assert storage.get(b"a") == b"1"


def test_a_scan_begins_at_a_key(storage: PartitionStorage) -> None:
    put(storage, a=b"1", b=b"2", d=b"4")
    assert [key for key, _ in storage.scan(b"b")] == [b"b", b"d"]
    assert [key for key, _ in storage.scan(b"c")] == [b"d"]
    assert [key for key, _ in storage.scan(b"e")] == []


def test_a_long_scan_is_whole(storage: PartitionStorage) -> None:
    rows = [(b"%06d" % number, b"v%d" % number) for number in range(256 * 3)]
    storage.apply([Mutation(*row) for row in rows], Position())
    assert list(storage.scan()) == rows
    assert list(storage.scan(rows[255][0])) == rows[255:]
    storage.apply([Mutation(b"z", b"last")], Position())
    assert list(storage.scan()) == [*rows, (b"z", b"last")]


def test_a_scan_is_as_of_its_call(storage: PartitionStorage) -> None:
    put(storage, a=b"1", b=b"2")
    values, metadata = storage.scan(), storage.scan_metadata()
    storage.apply([Mutation(b"a", b"changed", b"m"), Mutation(b"b", None), Mutation(b"c", b"new")], Position())
    assert list(values) == [(b"a", b"1"), (b"b", b"2")]
    assert list(metadata) == []


def test_an_image_is_of_one_moment(storage: PartitionStorage) -> None:
    storage.apply([Mutation(b"a", b"1", b"m1")], POSITION)
    image = storage.image()
    storage.apply([Mutation(b"a", None, b"m2"), Mutation(b"b", b"2")], Position(next_offset=99))
    assert image.position == POSITION
    assert list(image.values) == [(b"a", b"1")]
    assert list(image.metadata) == [(b"a", b"m1")]


def test_a_checkpoint_of_an_image_is_of_that_moment_and_gives_way_in_between(storage: PartitionStorage, tmp_path: Path) -> None:
    storage.apply([Mutation(b"%05d" % number, b"old", b"old") for number in range(1000)], POSITION)
    image = storage.image()
    later = replace(POSITION, next_offset=99)
    turns = 0

    def pace() -> None:
        nonlocal turns
        turns += 1
        storage.apply([Mutation(b"%05d" % number, b"new", b"new") for number in range(0, 2000, 2)], later)

    ref = checkpoint(storage, tmp_path / "checkpoint", partition_count=2, created_ms=1, image=image, pace=pace)
    assert turns > 4
    manifest = read_manifest(ref)
    assert manifest.position == POSITION
    folder = tmp_path / "late" / "flights_v3.000001"
    made = attach(ref, manifest, replace(IDENTITY, incarnation="late", snapshot_sha256=ref.sha256), folder)
    expected = [(b"%05d" % number, b"old") for number in range(1000)]
    assert (list(made.scan()), list(made.scan_metadata()), made.position) == (expected, expected, POSITION)
    made.close()


def test_a_checkpoint_that_is_given_up_is_not_sealed(storage: PartitionStorage, tmp_path: Path) -> None:
    storage.apply([Mutation(b"%05d" % number, b"v") for number in range(1000)], POSITION)

    def pace() -> None:
        storage.close()

    with pytest.raises(Unavailable):
        checkpoint(storage, tmp_path / "checkpoint", partition_count=2, created_ms=1, pace=pace)
    assert list((tmp_path / "checkpoint").iterdir()) == []


def test_everything_is_unavailable_after_close(storage: PartitionStorage) -> None:
    put(storage, a=b"1")
    begun = storage.scan()
    assert next(begun) == (b"a", b"1")
    fresh = storage.scan_metadata()
    image = storage.image()
    storage.close()
    storage.close()
    calls: list[Callable[[], object]] = [
        lambda: storage.get(b"a"),
        lambda: storage.multi_get([b"a"]),
        lambda: storage.get_metadata(b"a"),
        lambda: storage.scan(),
        lambda: storage.scan_metadata(),
        lambda: storage.image(),
        lambda: storage.row_count,
        lambda: storage.apply([Mutation(b"a", b"2")], Position()),
        lambda: next(begun),
        lambda: next(fresh),
        lambda: next(image.values),
    ]
    for call in calls:
        with pytest.raises(Unavailable, match="closed"):
            call()
    assert storage.position == Position()
    assert storage.identity.store == "flights"
