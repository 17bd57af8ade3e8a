"""What a push from Spark does without Spark: refuse to begin, and encode as a task does."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pyarrow as pa
import pytest
from push_kit import LONG, record
from py4j.protocol import Py4JError

from venice.errors import InvalidRequest, Unavailable
from venice.model import Compression
from venice.push import spark
from venice.push.spark_tasks import Encoding


@pytest.mark.parametrize("missing", ["pandas", "pyspark.sql"])
def test_missing_packages_are_named_before_a_version_is_begun(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    frame: Any = None
    with pytest.raises(InvalidRequest, match=f"needs {missing.partition('.')[0]}") as refused:
        spark.push(frame, "http://127.0.0.1:1", "features")
    assert refused.value.hint == "pip install 'venice-data[spark]'"


LOST = """An error occurred while calling o64.collectToPython.
: org.apache.spark.SparkException: Job aborted due to stage failure: ExecutorLostFailure (executor 1 exited)
\tat java.base/java.lang.Thread.run(Thread.java:840)
Caused by: java.io.EOFException
\t... 37 more
"""


@pytest.mark.parametrize(
    ("said", "named"),
    [("Answer from Java side is empty", "Answer from Java"), (LOST, "org.apache.spark.SparkException: Job aborted .* exited")],
)
def test_a_spark_that_loses_an_executor_or_is_lost_is_unavailable(said: str, named: str) -> None:
    with pytest.raises(Unavailable, match=f"Spark's job failed: {named}"), spark._told():
        raise Py4JError(said)


def test_a_number_that_its_field_cannot_hold_is_refused_as_by_any_other_push() -> None:
    rows = pa.RecordBatch.from_pydict({"key": pa.array([1, 2]), "n": pa.array([7, 3_000_000_000])})
    later = pa.RecordBatch.from_pydict({"key": pa.array([3]), "n": pa.array([7])})
    encoding = Encoding(LONG, record(("n", "int")), None, None, 3, 1, 1 << 20, Compression.NONE, b"")
    given = iter([rows, later])
    *_, last = encoding(given)
    assert next(given, None) is None
    told = pickle.loads(last.column("value")[0].as_py())
    assert isinstance(told, InvalidRequest)
    assert "cannot read the data: " in told.message
    assert "3000000000" in told.message
