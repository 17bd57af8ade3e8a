"""Replicas read beside the process that owns them: whatever it does to its files, a reader sees one moment, and the newest."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from venice.clock import SystemClock
from venice.errors import Unavailable
from venice.storage import Identity, Mutation, Position
from venice.storage.beside import BesideStorage
from venice.storage.format import IDENTITY_KEY, META, POSITION_KEY, encode_identity, encode_position
from venice.storage.rocks import RocksStorage
from venice.storage.tuning import open_rocks

KEYS = [b"key %d" % number for number in range(200)]
IDENTITY = Identity(store="s", version=1, partition=0, topic_id="t", incarnation="i")

OWNER = """
import sys
from pathlib import Path
from venice.storage import Mutation, Position
from venice.storage.rocks import RocksStorage
storage = RocksStorage(Path(sys.argv[1]))
keys = [b"key %d" % number for number in range(200)]
number = 1
for _ in sys.stdin:
    for _ in range(70):
        number += 1
        storage.apply([Mutation(key, b"%d" % number) for key in keys], Position(next_offset=number))
        if number % 7 == 0:
            storage.flush()
"""


def make(folder: Path) -> Path:
    rocks = open_rocks(folder, create=True)
    meta = rocks.get_column_family(META)
    meta[IDENTITY_KEY], meta[POSITION_KEY] = encode_identity(IDENTITY), encode_position(Position(next_offset=1))
    for key in KEYS:
        rocks[key] = b"1"
    meta.close()
    rocks.close()
    return folder


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[RocksStorage]:
    storage = RocksStorage(make(tmp_path / "i"))
    yield storage
    storage.close()


def beside(folder: Path) -> BesideStorage:
    return BesideStorage(folder, SystemClock(), immutable=False)


def test_it_reads_what_the_owner_wrote_and_what_it_is_told(owner: RocksStorage) -> None:
    owner.apply([Mutation(KEYS[0], b"2"), Mutation(KEYS[1], None)], Position(next_offset=2))
    reader = beside(owner.folder)
    assert [reader.get(key) for key in KEYS[:3]] == [b"2", None, b"1"]
    owner.apply([Mutation(KEYS[0], b"3"), Mutation(KEYS[2], None)], Position(next_offset=3))
    assert reader.multi_get(KEYS[:4]) == [b"2", None, b"1", b"1"]
    reader.change([(KEYS[0], b"3"), (KEYS[2], None)], 3)
    assert reader.multi_get(KEYS[:4]) == [b"3", None, None, b"1"]
    assert [reader.bare_get(key) for key in KEYS[:4]] == [b"3", None, None, b"1"]


def test_changes_that_its_files_hold_do_not_bring_old_values_back(owner: RocksStorage) -> None:
    told = []
    reader = beside(owner.folder)
    for number in range(2, 6):
        owner.apply([Mutation(KEYS[0], b"%d" % number)], Position(next_offset=number))
        told.append(([(KEYS[0], b"%d" % number)], number))
    owner.flush()
    reader.renew()
    for changes, next_offset in told:
        reader.change(changes, next_offset)
        assert reader.get(KEYS[0]) == b"5"
    reader.change([(KEYS[0], b"6")], 6)
    assert reader.get(KEYS[0]) == b"6"


def test_files_that_the_owner_deletes_are_read_on(owner: RocksStorage) -> None:
    reader = BesideStorage(owner.folder, SystemClock(), immutable=True)
    get = reader.bare_get
    owner.close()
    shutil.rmtree(owner.folder)
    assert [get(key) for key in KEYS] == [b"1"] * len(KEYS)
    with pytest.raises(Unavailable, match="beside its owner"):
        beside(owner.folder)


def test_a_folder_opened_amid_writes_and_flushes_is_of_one_moment(tmp_path: Path) -> None:
    """Every write of the owner gives all keys one number and is its position: files of two moments would show two numbers."""
    folder = make(tmp_path / "i")
    with subprocess.Popen([sys.executable, "-c", OWNER, str(folder)], stdin=subprocess.PIPE) as owner:
        try:
            assert owner.stdin is not None
            seen = 0
            reader = beside(folder)
            for _ in range(40):
                owner.stdin.write(b"go on\n")
                owner.stdin.flush()
                for _ in range(3):
                    reader.renew()
                    base = reader._layers.base
                    assert base >= seen
                    seen = base
                    assert set(reader.multi_get(KEYS)) == {b"%d" % seen}
        finally:
            owner.kill()
    assert seen > 1
