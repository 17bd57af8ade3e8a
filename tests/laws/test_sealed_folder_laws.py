"""One flipped bit anywhere in a folder that a push sealed is found before a row of it serves."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from push_kit import Pushed, push_folder, record

from venice.errors import Corrupt
from venice.model import Compression
from venice.storage import Identity
from venice.storage.manifest import MANIFEST_NAME, file_name
from venice.storage.snapshot import attach, read_manifest, verify

FLIPS_PER_FILE = 24
ROWS = "SELECT i AS key, 'the same text in all rows ' || i AS name, i * 0.5 AS score FROM range(900) t(i)"


@pytest.fixture(scope="module", params=[Compression.NONE, Compression.ZSTD_DICT], ids=lambda one: one.value)
def pushed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    folder = tmp_path_factory.mktemp("pushed")
    schema = record(("name", "string"), ("score", "double"))
    return push_folder(folder, sql=ROWS, value_schema=schema, partition_count=3, compression=request.param)


def positions(size: int, seed: int) -> list[int]:
    """Bits to flip: the first and the last, those around the end, and a sample of all."""
    drawn = random.Random(seed).sample(range(8 * size), FLIPS_PER_FILE)
    return sorted({0, 7, 8 * size - 1, 8 * size - 8, 8 * (size // 2), *drawn})


def test_a_flipped_bit_is_found_before_it_serves(pushed: Pushed, tmp_path: Path) -> None:
    sealed, ref = Path(pushed.built.ref.uri), pushed.built.ref
    files = sorted(path.name for path in sealed.iterdir())
    assert files == [*(file_name(partition) for partition in range(3)), MANIFEST_NAME]
    kept = shutil.copytree(sealed, tmp_path / "kept")
    for number, name in enumerate(files):
        good = (kept / name).read_bytes()
        for bit in positions(len(good), number):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            (sealed / name).write_bytes(bad)
            with pytest.raises(Corrupt):
                verify(ref)
            with pytest.raises(Corrupt):
                serve(pushed, tmp_path / "replica", None if name == MANIFEST_NAME else number)
            assert not any((tmp_path / "replica").glob("*")), "nothing that could be opened is left"
        (sealed / name).write_bytes(good)
    verify(ref)
    for partition in range(3):
        serve(pushed, tmp_path / f"replica-{partition}", partition)


def serve(pushed: Pushed, folder: Path, partition: int | None) -> None:
    """What a worker does before it serves: read the manifest that the catalog names, attach the partition."""
    ref = pushed.built.ref
    manifest = read_manifest(ref)
    assert partition is not None, "a changed manifest was believed"
    identity = Identity(store="rows", version=1, partition=partition, topic_id="", incarnation="life", snapshot_sha256=ref.sha256)
    attach(ref, manifest, identity, folder).close()
