"""A push from a real Spark cluster of two hosts that runs a slow task a second time, beside the first: one attempt's rows are sealed.

Spark does not do that within one process, or on one host: so here are a master and two workers, at two loopback addresses.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from waiting import eventually

from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.control.remote import ControllerClient
from venice.model import StoreConfig
from venice.push import spark
from venice.push.spark_tasks import Writing
from venice.supervisor import Cluster

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")

SCHEMA = '{"type": "record", "name": "Row", "fields": [{"name": "n", "type": "long"}]}'
ROWS = 200


@pytest.fixture
def session(tmp_path: Path, free_port: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> Iterator[SparkSession]:
    if shutil.which("java") is None:
        message = "Spark needs Java: apt-get install -y default-jre-headless"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)  # Spark is a program of Java
    import pyspark
    from pyspark.sql import SparkSession

    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    monkeypatch.setenv("SPARK_DAEMON_MEMORY", "256m")
    url = f"spark://127.0.0.1:{free_port()}"
    command = [str(Path(pyspark.__file__).parent / "bin" / "spark-class")]
    master = [
        "org.apache.spark.deploy.master.Master",
        "--host",
        "127.0.0.1",
        "--port",
        url.rpartition(":")[2],
        "--webui-port",
        str(free_port()),
    ]
    worker = ["org.apache.spark.deploy.worker.Worker", "--cores", "1", "--memory", "512m", "--work-dir", str(tmp_path / "work"), url]
    started: list[subprocess.Popen[bytes]] = []
    with (tmp_path / "said").open("ab") as said:

        def start(arguments: list[str], address: str) -> None:
            environment = {**os.environ, "SPARK_LOCAL_IP": address}
            started.append(subprocess.Popen([*command, *arguments], env=environment, stdout=said, stderr=said))

        try:
            start(master, "127.0.0.1")
            for address in ("127.0.0.2", "127.0.0.3"):
                start([*worker[:-1], "--host", address, "--webui-port", str(free_port()), url], address)
            eventually(lambda: workers_in(tmp_path / "said") == 2, lambda: (tmp_path / "said").read_text()[-2000:], timeout_s=120)
            builder = SparkSession.builder.master(url).appName("speculating")
            for name, option in {
                "spark.ui.enabled": "false", "spark.log.level": "OFF", "spark.driver.host": "127.0.0.1", "spark.executor.memory": "512m",
                "spark.executor.cores": "1", "spark.sql.shuffle.partitions": "2", "spark.local.dir": str(tmp_path / "local"),
                "spark.sql.warehouse.dir": str(tmp_path / "warehouse"), "spark.speculation": "true", "spark.speculation.interval": "100ms",
                "spark.speculation.multiplier": "1", "spark.speculation.quantile": "0.5", "spark.sql.adaptive.enabled": "false",
            }.items():  # fmt: skip
                builder = builder.config(name, option)
            made = builder.getOrCreate()
            yield made
            made.stop()
        finally:
            for process in started:
                process.kill()
                process.wait()


def workers_in(said: Path) -> int:
    """How many have found the master."""
    return said.read_text().count("Successfully registered with master")


def slow_at_first(told: Path) -> Callable[[str, Any], Callable[..., Any]]:
    """`Writing`, of which the first attempt at partition 0 writes other values, and then hangs."""

    def writing(folder: str, policy: Any) -> Callable[..., Any]:
        def spoiled(batches: Iterator[Any]) -> Iterator[Any]:
            for batch in batches:
                pairs = zip(batch.column("key").to_pylist(), batch.column("value").to_pylist(), strict=True)
                values = pa.array([value if key is None else value[:-1] + b"\x63" for key, value in pairs], pa.binary())
                yield batch.set_column(batch.schema.get_field_index("value"), "value", values)

        def write(batches: Iterator[Any]) -> Iterator[Any]:
            from pyspark import TaskContext

            context = TaskContext.get()
            assert context is not None
            if context.partitionId() != 0:
                yield from Writing(folder, policy)(batches)
                return
            first = context.attemptNumber() == 0
            results = list(Writing(folder, policy)(spoiled(batches) if first else batches))
            (told / f"attempt-{context.attemptNumber()}").touch()
            deadline = time.monotonic() + 120
            while first and time.monotonic() < deadline:
                time.sleep(0.05)  # until Spark ends it, having taken the second one's result
            yield from results

        return write

    return writing


def test_one_attempt_of_a_task_that_runs_twice_is_sealed(
    session: SparkSession, start_cluster: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = start_cluster().settings
    client = ControllerClient(settings.controller_url, SystemClock())
    client.create_store("twice", key_schema='"long"', value_schema=SCHEMA, config=StoreConfig(partition_count=2))
    told = tmp_path / "told"
    told.mkdir()
    monkeypatch.setattr(spark, "Writing", slow_at_first(told))
    result = spark.push(session.sql(f"SELECT explode(sequence(1, {ROWS})) AS key, 1L AS n"), settings, "twice")
    assert sorted(path.name for path in told.iterdir()) == ["attempt-0", "attempt-1"], "both wrote their file"
    assert (result.rows, result.duplicates) == (ROWS, 0)
    (folder,) = Path(settings.blobs_url).glob("twice/twice_v1/*")
    assert sorted(path.name for path in folder.iterdir()) == ["000000.values.sst", "000001.values.sst", "manifest.json"]
    with closing(ThinClient(settings.router_url, "twice")) as reader:
        assert reader.batch_get(range(ROWS + 1)) == {key: {"n": 1} for key in range(1, ROWS + 1)}, "none of the first attempt's"
