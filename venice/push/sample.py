"""A sample of a push's values, for the dictionary they are compressed with. Taken before the input is read, and cheap.

Of files: the first rows of each, or of some spread evenly among them. Of a query, which nobody may run twice: the first
rows that it returns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import duckdb
import pyarrow as pa

from venice.compression import train
from venice.push.encode import RowEncoder
from venice.push.intake import Reader
from venice.push.plan import Plan
from venice.push.sources import read_error

FILES_MAX: Final = 16
SAMPLE_BYTES: Final = 6 << 20
"""A hundred times a dictionary: more takes longer to learn from and teaches little."""
READ_BYTES: Final = 64 << 20
"""Of rows, in memory: no more are read than that and one batch for each file."""
_ROWS_MAX: Final = 65_536
_BATCH_ROWS: Final = 1024


def dictionary_for(connection: duckdb.DuckDBPyConnection, plan: Plan, reader: Reader, value_bytes_max: int) -> bytes:
    """A dictionary for the values of a plan; empty if there is too little to learn from.

    Args:
        connection: One without a query under way.

    Raises:
        InvalidRequest: A row of the sample cannot be read or encoded.
        Full: A value of the sample is larger than `value_bytes_max`.
    """
    connection.execute("SET TimeZone = 'UTC'")
    found: list[bytes] = []
    for batch in _samples(connection, plan, reader):
        encoder = RowEncoder(plan, batch.schema, value_bytes_max=value_bytes_max, connection=connection)
        found += encoder.encode(batch).values.to_pylist()
    total = sum(map(len, found))
    step = max(1, -(-total // SAMPLE_BYTES))
    return train(found[::step])


def _samples(connection: duckdb.DuckDBPyConnection, plan: Plan, reader: Reader) -> Iterable[pa.RecordBatch]:
    if not plan.source.files:
        yield from reader.peek()
        return
    files = plan.source.files
    count = min(len(files), FILES_MAX)
    for file in (files[place * len(files) // count] for place in range(count)):
        left_bytes = READ_BYTES // count
        try:
            replace(plan.source, files=(file,)).prepare(connection)
            batches = connection.execute(f"{plan.select_from((file,))} LIMIT {_ROWS_MAX // count}").to_arrow_reader(_BATCH_ROWS)
            while left_bytes > 0 and (batch := next(batches, None)) is not None:
                left_bytes -= batch.nbytes
                yield batch
        except (duckdb.Error, pa.ArrowException) as error:
            raise read_error(error, file, plan.source.hide) from error
