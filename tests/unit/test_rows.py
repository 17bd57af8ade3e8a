"""Rows of a version: the same answers with and without the kept ones, and no more memory than allowed."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from venice.client.rows import ROW_OVERHEAD_BYTES, Rows
from venice.errors import Unavailable
from venice.rules.partitioning import partition_of
from venice.storage import Identity, Mutation, Position
from venice.storage.memory import MemoryStorage

COUNT = 3


def storages(rows: dict[bytes, bytes]) -> tuple[MemoryStorage, ...]:
    made = tuple(MemoryStorage(Identity(store="s", version=1, partition=number, topic_id="t", incarnation="i")) for number in range(COUNT))
    for key, value in rows.items():
        made[partition_of(key, COUNT)].apply([Mutation(key, value, None)], Position(next_offset=0))
    return made


ROWS = {b"key %d" % number: bytes(random.Random(number).randrange(300)) + b"." for number in range(500)}


def room_taken(rows: Rows) -> int:
    return sum(len(key) + len(value) + ROW_OVERHEAD_BYTES for key, value in rows.kept.items())


@pytest.mark.parametrize("room_bytes", [0, 1, 5_000, 1 << 20])
def test_every_row_is_found_however_much_is_kept(room_bytes: int) -> None:
    rows = Rows(storages(ROWS), room_bytes)
    rng = random.Random(7)
    for key in rng.choices([*ROWS, b"missing"], k=3000):
        assert (rows.kept.get(key) or rows.find(key)) == ROWS.get(key)
        assert room_taken(rows) <= room_bytes
    assert bool(rows.kept) == (room_bytes > 1)


def test_threads_share_the_room() -> None:
    rows = Rows(storages(ROWS), 20_000)

    def read(seed: int) -> None:
        for key in random.Random(seed).choices(list(ROWS), k=4000):
            assert (rows.kept.get(key) or rows.find(key)) == ROWS[key]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
    assert 15_000 < room_taken(rows) <= 20_000


def test_a_closed_partition_says_so() -> None:
    made = storages(ROWS)
    rows = Rows(made, 0)
    for storage in made:
        storage.close()
    with pytest.raises(Unavailable):
        rows.find(b"key 1")
