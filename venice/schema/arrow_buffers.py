"""Arrow columns over NumPy's memory, and single values, straight from their buffers.

pyarrow's own `array`, `scalar` and `to_numpy` import pandas wherever that is installed, which takes a third of a second in
each process. What every push goes through, and every process that writes for one, does without them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def number_column(numbers: npt.NDArray[Any]) -> pa.Array:
    """Numbers without nulls, not copied if they lie one behind the other."""
    numbers = np.ascontiguousarray(numbers)
    return pa.Array.from_buffers(pa.from_numpy_dtype(numbers.dtype), len(numbers), [None, pa.py_buffer(numbers)])


def binary_scalar(data: bytes) -> pa.Scalar:
    """`pa.scalar(data, pa.binary())`."""
    ends = np.array([0, len(data)], np.int32)
    return pa.Array.from_buffers(pa.binary(), 1, [None, pa.py_buffer(ends), pa.py_buffer(data)])[0]
