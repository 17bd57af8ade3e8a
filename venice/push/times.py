"""The column of a push that holds each row's own time.

Write path: **read** → encode → partition → sort → seal.
"""

from __future__ import annotations

from typing import Final

from venice.errors import InvalidRequest
from venice.push.columns import INTEGERS, TIMESTAMPS, quote, quote_text
from venice.push.sources import Columns, Format, Source

_LAST_MS: Final = 253_402_300_799_999
"""The end of the year 9999: what lies beyond it was not meant in milliseconds."""


def time_expression(source: Source, described: dict[str, Columns], column: str) -> str:
    """SQL of a row's time in milliseconds since 1970, null where the column is.

    Integers are milliseconds; timestamps and dates are taken in UTC if they name no zone. Text is either, in CSV and JSON.

    Raises:
        InvalidRequest: A file lacks the column, or has it of another type.
    """
    kinds: set[str] = set()
    for file, columns in described.items():
        kind = columns.get(column)
        if kind is None:
            if source.format is Format.JSON and (not columns or any(column in others for others in described.values())):
                continue  # JSON leaves nulls out.
            hint = f"it has: {', '.join(columns) or 'none'}"
            raise InvalidRequest(f"{file} has no column {column!r} for the rows' times", hint=hint, file=file, column=column)
        is_text = source.format in (Format.CSV, Format.JSON)
        if not is_text and kind.id not in INTEGERS and kind.id not in TIMESTAMPS and kind.id != "date":
            raise InvalidRequest(
                f"column {column!r} of {file} is {kind}, and the rows' times are integers (milliseconds since 1970) or timestamps",
                hint="change the column's type where the file is written, or cast it in a query (--sql)",
                file=file, column=column, column_type=str(kind),
            )  # fmt: skip
        kinds.add("text" if is_text else "number" if kind.id in INTEGERS else "timestamp")
    if len(kinds) > 1:
        raise InvalidRequest(f"column {column!r} of {source} holds integers in some files and timestamps in others", hint="push them apart")
    return _checked(column, _millis(kinds.pop() if kinds else "text", quote(column)))


def _millis(kind: str, column: str) -> str:
    if kind == "number":
        return f"CAST({column} AS HUGEINT)"
    if kind == "timestamp":
        return f"epoch_ms(CAST({column} AS TIMESTAMP))"
    text = f"trim(CAST({column} AS VARCHAR), ' \"')"
    whole = f"regexp_full_match({text}, '[0-9]{{1,18}}')"
    return f"CASE WHEN {whole} THEN TRY_CAST({text} AS BIGINT) ELSE epoch_ms(CAST(TRY_CAST({text} AS TIMESTAMPTZ) AS TIMESTAMP)) END"


def _checked(column: str, millis: str) -> str:
    name = quote(column)
    said = quote_text(" is no time (milliseconds since 1970, or a timestamp)")
    complaint = f"{quote_text(f'column {column!r}: ')} || CAST({name} AS VARCHAR) || {said}"
    # A comparison with null is not true: what cannot be read is refused as what is out of range.
    good = f"{millis} BETWEEN 0 AND {_LAST_MS}"
    return f"CASE WHEN {name} IS NULL THEN NULL WHEN {good} THEN CAST({millis} AS BIGINT) ELSE error({complaint}) END"
