"""What a push from Spark does without Spark: refuse to begin, and encode as a task does."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from venice.errors import InvalidRequest
from venice.push import spark


@pytest.mark.parametrize("missing", ["pandas", "pyspark.sql"])
def test_missing_packages_are_named_before_a_version_is_begun(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    frame: Any = None
    with pytest.raises(InvalidRequest, match=f"needs {missing.partition('.')[0]}") as refused:
        spark.push(frame, "http://127.0.0.1:1", "features")
    assert refused.value.hint == "pip install 'venice-data[spark]'"
