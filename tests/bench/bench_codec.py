"""Encoding and decoding: the generated codec beside fastavro, and columns beside rows.

    python tests/bench/bench_codec.py [--rounds 7] [--calls 5000] [--rows 200000]

Each round times every variant in turn; printed are medians over the rounds with their spread, and the ratio to fastavro in
the same round. Single values in microseconds, columns in million rows a second on one thread, and on two.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa

from venice.schema.codec import Codec, copier, reader
from venice.schema.columnar import ColumnDecoder, ColumnEncoder

NARROW = {
    "type": "record",
    "name": "Narrow",
    "fields": [{"name": "name", "type": "string"}, {"name": "score", "type": "double"}, {"name": "count", "type": "int"}],
}
FEATURE = {
    "type": "record",
    "name": "Feature",
    "fields": [
        *NARROW["fields"],
        *({"name": name, "type": "string"} for name in ("country", "device", "segment")),
        {"name": "embedding", "type": {"type": "array", "items": "float"}},
    ],
}
MIXED = {
    "type": "record",
    "name": "Mixed",
    "fields": [
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
        {"name": "blob", "type": "bytes"},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "OLD"]}},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}


def columns(name: str, rows: int) -> pa.RecordBatch:
    random = np.random.default_rng(7)
    number = np.arange(rows)
    narrow = {
        "name": pa.array([f"member {i}" for i in range(rows)]),
        "score": pa.array(random.random(rows)),
        "count": pa.array(random.integers(0, 1000, rows).astype(np.int32)),
    }
    if name == "key":
        return pa.record_batch({"id": pa.array(number)})
    if name == "narrow":
        return pa.record_batch(narrow)
    if name == "mixed":
        return pa.record_batch(
            {
                "day": pa.array(random.integers(0, 20_000, rows).astype(np.int32)).cast(pa.date32()),
                "price": pa.array(random.integers(-(10**6), 10**6, rows)).cast(pa.decimal128(21, 2)),
                "blob": pa.array([b"blob %d" % i for i in range(rows)]),
                "state": pa.array(np.array(["NEW", "OLD"])[number % 2]),
                "note": pa.array([None if i % 3 else f"note {i}" for i in range(rows)]),
            }
        )
    floats = pa.array(random.random(32 * rows).astype(np.float32))
    embedding = pa.ListArray.from_arrays(pa.array(np.arange(0, 32 * rows + 1, 32, dtype=np.int32)), floats)
    texts = {column: pa.array([f"{column} {i % 90}" for i in range(rows)]) for column in ("country", "device", "segment")}
    return pa.record_batch({**narrow, **texts, "embedding": embedding})


def microseconds(call: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls * 1e6


def report(title: str, unit: str, rounds: list[dict[str, float]], *, more_is_better: bool = False) -> None:
    print(f"\n{title} ({unit})")
    base = next(iter(rounds[0]))
    for name in rounds[0]:
        samples = [entry[name] for entry in rounds]
        ratios = [entry[name] / entry[base] if more_is_better else entry[base] / entry[name] for entry in rounds]
        print(
            f"  {name:<34} {statistics.median(samples):8.2f}   {min(samples):.2f}–{max(samples):.2f}"
            f"   {statistics.median(ratios):6.1f}×  ({min(ratios):.1f}–{max(ratios):.1f})"
        )


def single_values(document: dict[str, Any], rounds: int, calls: int) -> None:
    text, parsed = json.dumps(document), fastavro.parse_schema(document)
    row = columns(document["name"].lower(), 3).to_pylist()[1]
    codec, copy = Codec(text), copier(text)
    data = codec.encode(row)
    wanted = {**document, "fields": [*document["fields"][:2], {"name": "added", "type": "long", "default": 1}]}
    project = reader(text, json.dumps(wanted))

    def fastavro_write() -> bytes:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, row)
        return out.getvalue()

    variants: dict[str, Callable[[], Any]] = {
        "fastavro: decode": lambda: fastavro.schemaless_reader(io.BytesIO(data), parsed, None),
        "decode": lambda: codec.decode(data),
        "decode to 2 fields and a default": lambda: project(data),
        "copy of a decoded value": lambda: copy(row),
    }
    report(
        f"{document['name']}: {len(data)} bytes",
        "µs",
        [{name: microseconds(call, calls) for name, call in variants.items()} for _ in range(rounds)],
    )
    variants = {"fastavro: encode, unchecked": fastavro_write, "encode, checked": lambda: codec.encode(row)}
    report(
        f"{document['name']}: encode", "µs", [{name: microseconds(call, calls) for name, call in variants.items()} for _ in range(rounds)]
    )


def column_rates(name: str, schema: Any, rows: int, rounds: int) -> None:
    batch = columns(name, rows)
    text = json.dumps(schema)
    encoder = ColumnEncoder(text, batch.schema)
    decoder = ColumnDecoder(text)
    data = encoder.encode(batch).to_pylist()
    few = 2000
    values = batch.slice(0, few).to_pylist() if isinstance(schema, dict) else batch.slice(0, few).column(0).to_pylist()
    codec = Codec(text)

    def rate(call: Callable[[], Any], count: int) -> float:
        start = time.perf_counter()
        call()
        return count / (time.perf_counter() - start) / 1e6

    half = rows // 2
    halves = [batch.slice(0, half), batch.slice(half)]
    with ThreadPoolExecutor(2) as pool:
        variants: dict[str, tuple[Callable[[], Any], int]] = {
            "codec, row by row: encode": (lambda: [codec.encode(value) for value in values], few),
            "columns: encode": (lambda: encoder.encode(batch), rows),
            "columns: encode, 2 threads": (lambda: list(pool.map(encoder.encode, halves)), rows),
            "codec, row by row: decode": (lambda: [codec.decode(value) for value in data[:few]], few),
            "columns: decode": (lambda: decoder.decode(data), rows),
        }
        samples = [{key: rate(call, count) for key, (call, count) in variants.items()} for _ in range(rounds)]
    report(f"{name}: columns", "million rows/s", samples, more_is_better=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=200_000)
    arguments = parser.parse_args()
    for document in (NARROW, FEATURE):
        single_values(document, arguments.rounds, arguments.calls)
    schemas: dict[str, Any] = {"key": "long", "narrow": NARROW, "feature": FEATURE, "mixed": MIXED}
    for name, schema in schemas.items():
        column_rates(name, schema, arguments.rows, arguments.rounds)


if __name__ == "__main__":
    main()
