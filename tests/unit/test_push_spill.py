"""The scratch of a push: where rows wait between reading and writing, and how its space is given back."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import push_kit
import pyarrow as pa
import pytest
from push_kit import push_folder, record

from venice.push.duplicates import DuplicatePolicy
from venice.push.merge import merge
from venice.push.runs import Spill, write_run


def test_a_released_file_is_empty_and_the_others_are_as_they_were(tmp_path: Path) -> None:
    policy = DuplicatePolicy(allow=True)
    rows = {b"%05d" % i: bytes(100) + b"%d" % i for i in range(10_000)}
    with closing(Spill(tmp_path, 2)) as spill:
        run = write_run(0, pa.array(rows.keys()), pa.array(rows.values()), 2, spill, policy)
        sizes = [os.fstat(descriptor).st_size for descriptor in spill.descriptors]
        assert sum(sizes) == sum(8 + len(key) + len(value) for key, value in rows.items())
        first = list(merge(run.blocks[0], policy))
        spill.release(spill.file_of(0))
        assert [os.fstat(descriptor).st_size for descriptor in spill.descriptors] == [0, sizes[1]]
        merged = {key: value for step in [*first, *merge(run.blocks[1], policy)] for key, value in zip(step.keys, step.values, strict=True)}
    assert merged == rows


@pytest.mark.parametrize("partition_count", [5, 100])
def test_every_file_is_released_once_its_partitions_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partition_count: int
) -> None:
    released: list[tuple[int, int]] = []
    release = Spill.release

    def seen(spill: Spill, file: int) -> None:
        released.append((spill.descriptors[0], file))
        release(spill, file)

    monkeypatch.setattr(Spill, "release", seen)
    query = "SELECT i AS key, 'value ' || i AS name FROM range(3000) t(i)"
    pushed = push_folder(tmp_path, value_schema=record(("name", "string")), sql=query, partition_count=partition_count)
    assert pushed.rows == {i: {"name": f"value {i}"} for i in range(3000)}
    assert len(released) == len(set(released)) == 2 * min(partition_count, 32)


def test_a_push_of_files_does_not_pull_pandas_in(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
import duckdb
from push_kit import push_folder, record
from venice import cli
folder = Path({str(tmp_path)!r})
file = folder / "rows.parquet"
duckdb.sql("SELECT i AS key, 'value ' || i AS name, [i]::FLOAT[] AS vector FROM range(3000) t(i)").write_parquet(str(file))
schema = record(("name", "string"), ("vector", {{"type": "array", "items": "float"}}))
assert len(push_folder(folder, inputs=[file], value_schema=schema).rows) == 3000
assert "pandas" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(push_kit.__file__).parent)}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=environment)


def test_what_a_writing_process_imports_does_not_pull_pandas_in() -> None:
    program = """
import sys
import numpy as np
from venice.schema.arrow_buffers import number_column
from venice.push.runs import assemble
rows = assemble(np.array([1, 2], np.uint32), np.frombuffer(b"abb", np.uint8))
assert rows.take(number_column(np.array([1, 0]))).to_pylist() == [b"bb", b"a"]
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
