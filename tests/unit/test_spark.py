"""Pushes of Spark data frames, by a real Spark of two cores: the same files as without it, whatever happens to its tasks."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from push_kit import LONG, record
from pyarrow import parquet

from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings, load
from venice.control.remote import ControllerClient
from venice.errors import Full, InvalidRequest, Unavailable
from venice.model import Compression, StoreConfig, VersionStatus
from venice.push import spark
from venice.push.batch import push
from venice.push.session import PushResult
from venice.push.spark_tasks import Writing
from venice.rules.partitioning import partition_of
from venice.schema.codec import key_codec
from venice.storage import Identity
from venice.storage.snapshot import attach, read_manifest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# It works, as these tests show; the warning is about other parts of it.
pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")

SCHEMA = record(
    ("n", "int"),
    ("name", ["null", "string"]),
    ("embedding", {"type": "array", "items": "float"}),
    ("at", {"type": "long", "logicalType": "timestamp-micros"}),
    ("price", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}),
)
COUNT = 2_000
SQL = f"""
    SELECT i - 500 AS key, CAST(i % 7 AS INT) AS n, CASE WHEN i % 5 > 0 THEN concat('name ', i) END AS name,
           array(CAST(i AS FLOAT), CAST(0.5 AS FLOAT)) AS embedding, timestamp_micros(1700000000000000 + i) AS at,
           CAST(i / 4 AS DECIMAL(9, 2)) AS price
    FROM (SELECT explode(sequence(0, {COUNT - 1})) AS i)
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    if shutil.which("java") is None:
        message = "Spark needs Java: apt-get install -y default-jre-headless"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)  # Spark is a program of Java
    from pyspark.sql import SparkSession

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        options = {
            "spark.ui.enabled": "false",
            "spark.sql.shuffle.partitions": "2",
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.execution.arrow.maxRecordsPerBatch": "500",
            "spark.local.dir": str(tmp_path_factory.mktemp("spark")),
            "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
            "spark.log.level": "OFF",  # Tasks fail here on purpose.
        }
        builder = SparkSession.builder.master("local[2,4]").appName("tests")
        for name, option in options.items():
            builder = builder.config(name, option)
        made = builder.getOrCreate()
        yield made
        made.stop()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[..., int]) -> Iterator[Settings]:
    from venice.supervisor import Cluster  # Not above: see `tests/clusters.py`.

    cluster = Cluster(
        load(
            data=tmp_path_factory.mktemp("data"),
            controller_url=f"http://127.0.0.1:{free_port()}",
            router_url=f"http://127.0.0.1:{free_port()}",
            worker_port=free_port(),
        )
    )
    cluster.start()
    yield cluster.settings
    cluster.stop()


@pytest.fixture
def client(settings: Settings) -> ControllerClient:
    return ControllerClient(settings.controller_url, SystemClock())


def sealed(client: ControllerClient, result: PushResult, folder: Path) -> tuple[Any, list[bytes], list[tuple[bytes, bytes]]]:
    """The manifest but for what names the version, its files byte for byte, and the rows that RocksDB finds in them."""
    assert result.version is not None
    version = client.get_version(result.store, result.version).version
    assert version.snapshot is not None
    manifest = read_manifest(version.snapshot)
    rows: list[tuple[bytes, bytes]] = []
    for partition in range(manifest.partition_count):
        identity = Identity(
            store=result.store, version=result.version, partition=partition, topic_id="", incarnation=f"i{partition}",
            snapshot_sha256=version.snapshot.sha256,
        )  # fmt: skip
        with closing(attach(version.snapshot, manifest, identity, folder / f"{result.store}-{result.version}-{partition}")) as storage:
            rows += storage.scan()
    written = [(Path(version.snapshot.uri) / file.name).read_bytes() for file in manifest.files]
    return replace(manifest, store="", version=0, created_ms=0), written, rows


def folder_of(settings: Settings, result: PushResult) -> Path:
    (folder,) = Path(settings.blobs_url).glob(f"{result.store}/{result.store}_v{result.version}/*")
    return folder


def test_files_are_those_of_a_push_without_spark(
    session: SparkSession, settings: Settings, client: ControllerClient, tmp_path: Path
) -> None:
    config = StoreConfig(partition_count=3)
    for store in ("by-spark", "by-duckdb"):
        client.create_store(store, key_schema=LONG, value_schema=SCHEMA, config=config)
    frame = session.sql(SQL)
    rows = frame.union(frame.where("key < 0"))
    parquet.write_table(rows.toArrow(), tmp_path / "rows.parquet")
    for compression in (Compression.NONE, Compression.ZSTD):
        for store in ("by-spark", "by-duckdb"):
            client.update_store(store, compression=compression.value)
        ours = spark.push(rows.repartition(2), settings, "by-spark")
        theirs = push(settings, "by-duckdb", inputs=tmp_path / "rows.parquet")
        assert (ours.rows, ours.duplicates, ours.partition_rows) == (COUNT, 500, theirs.partition_rows)
        again = push(settings, "by-duckdb", inputs=tmp_path / "rows.parquet")
        first = sealed(client, theirs, tmp_path)
        assert sealed(client, ours, tmp_path) == first
        assert sealed(client, again, tmp_path) == first
    client.update_store("by-spark", compression="zstd-dict")
    assert spark.push(frame, settings.controller_url, "by-spark", push_id="again").rows == COUNT
    assert spark.push(frame, settings, "by-spark", push_id="again").existing
    with closing(ThinClient(settings.router_url, "by-spark")) as reader:
        found = reader.batch_get(range(-500, COUNT - 499))
        assert {key: row["n"] for key, row in found.items()} == {key: (key + 500) % 7 for key in range(-500, COUNT - 500)}


def test_what_does_not_fit_fails_by_name(session: SparkSession, settings: Settings, client: ControllerClient) -> None:
    small = StoreConfig(partition_count=1, record_bytes_max=1024)
    client.create_store("wrong", key_schema=LONG, value_schema=record(("n", "long")), config=small)
    rows = "SELECT explode(sequence(1, 50)) AS key, 1L AS n"
    wrong: list[tuple[str, type[Exception], str]] = [
        (f"{rows} UNION ALL SELECT 7, 2L", InvalidRequest, "same key: 7 \\("),
        (f"{rows} UNION ALL SELECT NULL, 2L", InvalidRequest, "'key' of the data is null"),
        (f"{rows} UNION ALL SELECT raise_error('the source is broken'), 2L", Unavailable, "Spark's job failed: .*the source is broken"),
    ]
    for number, (sql, error, words) in enumerate(wrong, start=1):
        with pytest.raises(error, match=words):
            spark.push(session.sql(sql), settings, "wrong")
        assert client.get_version("wrong", number).version.status is VersionStatus.ERROR
    with pytest.raises(InvalidRequest, match="no column 'n'"):
        spark.push(session.sql("SELECT 1L AS key, 2L AS m"), settings, "wrong")
    assert client.get_store("wrong").largest_version == len(wrong)
    assert not list(Path(settings.blobs_url).glob("wrong/*/*"))
    allowed = spark.push(session.sql(f"{wrong[0][0]} UNION ALL SELECT 99, NULL"), settings, "wrong", allow_duplicates=True)
    assert (allowed.rows, allowed.duplicates, allowed.skipped) == (50, 1, 1)
    with closing(ThinClient(settings.router_url, "wrong")) as reader:
        assert reader.batch_get(range(100)) == {key: {"n": 1 + (key == 7)} for key in range(1, 51)}
    client.create_store("large", key_schema=LONG, value_schema=record(("text", "string")), config=small)
    with pytest.raises(Full, match="the value of key 3 has"):
        spark.push(session.sql("SELECT 3L AS key, repeat('x', 2000) AS text"), settings, "large")
    assert spark.push(session.sql("SELECT 1L AS key, '' AS text WHERE false"), settings, "large").rows == 0


def test_conflicts_of_all_partitions_are_named(session: SparkSession, settings: Settings, client: ControllerClient) -> None:
    client.create_store("conflicting", key_schema=LONG, value_schema=record(("n", "long")), config=StoreConfig(partition_count=3))
    planted = sorted({partition_of(key_codec(LONG).encode(key), 3): key for key in range(100)}.values())
    assert len(planted) == 3, "one in each partition"
    rows = "SELECT explode(sequence(0, 2999)) AS key, 1L AS n"
    twice = " ".join(f"UNION ALL SELECT {key}, 2L UNION ALL SELECT {key}, 3L" for key in planted)
    with pytest.raises(InvalidRequest, match="several rows with different values have the same key: ") as caught:
        spark.push(session.sql(f"{rows} UNION ALL SELECT 7, 1L {twice}"), settings, "conflicting")
    assert sorted(int(key) for key in caught.value.data["keys"]) == planted
    assert caught.value.data["count"] == 3
    assert client.get_version("conflicting", 1).version.status is VersionStatus.ERROR
    assert not list(Path(settings.blobs_url).glob("conflicting/*/*"))
    every = session.sql(f"{rows} UNION ALL SELECT explode(sequence(0, 2999)), 2L")
    with pytest.raises(InvalidRequest, match="and 2,990 more"):
        spark.push(every, settings, "conflicting")


def test_what_spark_loses_or_refuses_is_told_in_its_words(session: SparkSession, settings: Settings, client: ControllerClient) -> None:
    client.create_store("lost", key_schema=LONG, value_schema=record(("n", "int")), config=StoreConfig(partition_count=1))

    def dying(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            if batch.num_rows:
                os._exit(1)
            yield batch

    rows = session.sql("SELECT 1L AS key, 3000000000L AS n")
    with pytest.raises(Unavailable, match=r"Spark's job failed: .*crashed"):
        spark.push(rows.mapInArrow(dying, "key bigint, n bigint"), settings, "lost")
    for compression in ("none", "zstd-dict"):  # Found by a task, and here.
        client.update_store("lost", compression=compression)
        with pytest.raises(InvalidRequest, match=r"cannot read the data: .*3000000000"):
            spark.push(rows, settings, "lost")
    assert client.get_version("lost", 3).version.status is VersionStatus.ERROR
    with pytest.raises(InvalidRequest, match=r"refuses the data frame: .*CalendarIntervalType"):
        spark.push(session.sql("SELECT 1L AS key, make_interval(1) AS n"), settings, "lost")
    assert client.get_store("lost").largest_version == 3


def test_tasks_that_die_are_done_again(
    session: SparkSession, settings: Settings, client: ControllerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_store("retried", key_schema=LONG, value_schema=record(("n", "long")), config=StoreConfig(partition_count=2))

    def dying_once(folder: str, policy: Any) -> Callable[..., Any]:
        def write(batches: Iterator[Any]) -> Iterator[Any]:
            from pyspark import TaskContext

            context = TaskContext.get()
            assert context is not None
            for result in Writing(folder, policy)(batches):
                if context.attemptNumber() == 0:
                    os._exit(1)  # Its file is written, and nobody heard of it.
                yield result

        return write

    monkeypatch.setattr(spark, "Writing", dying_once)
    frame: DataFrame = session.sql("SELECT explode(sequence(1, 500)) AS key, 1L AS n")
    result = spark.push(frame, settings, "retried")
    assert (result.rows, result.duplicates) == (500, 0)
    assert sorted(path.name for path in folder_of(settings, result).iterdir()) == [
        "000000.values.sst",
        "000001.values.sst",
        "manifest.json",
    ]
    with closing(ThinClient(settings.router_url, "retried")) as reader:
        assert len(reader.batch_get(range(1, 501))) == 500
