"""Laws of the wire format: it is Avro, what was encoded is decoded, garbage gives `Corrupt` and nothing else."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from venice import wire
from venice.errors import BY_KIND, Corrupt, InvalidRequest, VeniceError
from venice.message import Headers, Request, ResponseParser, render_request

SCHEMAS = Path(__file__).parents[2] / "schemas" / "wire"
NAMES = ("MultiGetClientRequestKey", "MultiGetRouterRequestKey", "MultiGetResponseRecord", "StreamingFooterRecord")
PARSED = {name: fastavro.parse_schema(json.loads((SCHEMAS / f"{name}.v1.avsc").read_text())) for name in NAMES}

positions = st.integers(0, 2**31 - 2)
schema_ids = st.integers(1, 2**31 - 1)
contents = st.binary(max_size=3000)


def rows_of(fields: tuple[str, ...], values: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [dict(zip(fields, value, strict=True)) for value in values]


def by_fastavro(name: str, values: list[Any]) -> bytes:
    out = io.BytesIO()
    for value in values:
        fastavro.schemaless_writer(out, PARSED[name], value)
    return out.getvalue()


@given(st.lists(contents, max_size=20))
def test_keys_are_avro(keys: list[bytes]) -> None:
    body = wire.encode_keys(keys)
    assert body == by_fastavro("MultiGetClientRequestKey", keys)
    assert wire.decode_keys(body) == keys


@given(st.lists(st.tuples(positions, contents, positions), max_size=20))
def test_routed_keys_are_avro(keys: list[tuple[int, bytes, int]]) -> None:
    body = b"".join([wire.encode_routed_key(*key) for key in keys])
    assert body == by_fastavro("MultiGetRouterRequestKey", rows_of(("keyIndex", "keyBytes", "partitionId"), keys))
    assert wire.decode_routed_keys(body) == keys


@given(st.lists(st.tuples(positions, contents, schema_ids), max_size=20))
def test_rows_are_avro(rows: list[tuple[int, bytes, int]]) -> None:
    body = b"".join([wire.encode_row(*row) for row in rows])
    assert body == by_fastavro("MultiGetResponseRecord", rows_of(("keyIndex", "value", "schemaId"), rows))
    assert wire.decode_rows(body) == rows


@given(st.lists(positions, max_size=5), st.sampled_from([200, 503]), contents)
def test_the_marks_of_a_stream_are_avro(missing: list[int], status: int, detail: bytes) -> None:
    body = b"".join([wire.encode_missing(position) for position in missing]) + wire.encode_footer(wire.Footer(status, detail))
    footer = by_fastavro("StreamingFooterRecord", [{"status": status, "detail": detail, "trailerHeaders": {}}])
    rows = [{"keyIndex": -1 - position, "value": b"", "schemaId": -1000} for position in missing]
    assert body == by_fastavro("MultiGetResponseRecord", [*rows, {"keyIndex": -1_000_000, "value": footer, "schemaId": -1001}])


@given(st.lists(st.tuples(positions, contents, schema_ids), max_size=8), st.lists(positions, max_size=4), st.data())
def test_a_stream_may_arrive_in_any_pieces(rows: list[tuple[int, bytes, int]], missing: list[int], data: st.DataObject) -> None:
    body = b"".join([wire.encode_row(*row) for row in rows]) + b"".join([wire.encode_missing(position) for position in missing])
    body += wire.encode_footer(wire.Footer(200))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    stream = wire.RowStream()
    found = [row for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True) for row in stream.feed(body[start:end])]
    stream.finish()
    assert (found, stream.missing, stream.footer) == (rows, missing, wire.Footer(200))


DECODERS: dict[str, Callable[[bytes], object]] = {
    "keys": wire.decode_keys,
    "routed_keys": wire.decode_routed_keys,
    "rows": wire.decode_rows,
    "metadata": wire.decode_metadata,
    "answers": lambda data: ResponseParser().feed(data),
}
METADATA = wire.Metadata(
    store="s", sequence=1, version=1, partition_count=1, compression="none", key_schema="", value_schemas=(), replicas=(("u",),)
)
VALID = {
    "keys": wire.encode_keys([b"a", b"b" * 100]),
    "routed_keys": wire.encode_routed_key(3, b"key", 7),
    "rows": wire.encode_row(0, b"value", 1) + wire.encode_missing(1) + wire.encode_footer(wire.Footer(200)),
    "metadata": wire.encode_json(wire.metadata_facts(METADATA)),
    "answers": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-VENICE-SCHEMA-ID: 1\r\n\r\nok",
}


@pytest.mark.parametrize("name", DECODERS)
@given(st.binary(max_size=200))
def test_garbage_is_corrupt_and_nothing_else(name: str, data: bytes) -> None:
    with contextlib.suppress(Corrupt):
        DECODERS[name](data)


@pytest.mark.parametrize("name", DECODERS)
@given(st.data())
def test_a_changed_byte_is_corrupt_or_another_message(name: str, data: st.DataObject) -> None:
    body = bytearray(VALID[name])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Corrupt):
        DECODERS[name](bytes(body))


@pytest.mark.parametrize("name", ["keys", "routed_keys", "rows"])
@given(st.data())
def test_a_cut_batch_is_never_taken_for_a_whole_one_with_a_torn_end(name: str, data: st.DataObject) -> None:
    whole = VALID[name] * 2
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        DECODERS[name](cut)
    except Corrupt:
        return
    assert whole.startswith(cut)
    if name == "keys":
        assert wire.encode_keys(wire.decode_keys(cut)) == cut


@given(st.sampled_from(sorted(BY_KIND)), st.text(), st.text(), st.dictionaries(st.text(), st.integers() | st.text(), max_size=3))
def test_errors_survive_the_wire(kind: str, message: str, hint: str, data: dict[str, int | str]) -> None:
    data = {name: value for name, value in data.items() if name not in ("message", "hint", "self")}
    error = BY_KIND[kind](message, hint=hint, **data)
    response = wire.error_response(error)
    again = wire.error_of(response.status, response.body)
    assert (type(again), again.message, again.hint, again.data) == (type(error), message, hint, data)


@given(st.integers(100, 599), st.binary(max_size=60) | st.sampled_from([b"[" * 50_000, b'{"kind":"full","message":1,"hint":2,"data":[]}']))
def test_an_error_body_of_any_bytes_is_an_error(status: int, body: bytes) -> None:
    assert isinstance(wire.error_of(status, body), VeniceError)


@given(st.binary(max_size=60))
def test_a_key_of_any_bytes_passes_through_a_path(key: bytes) -> None:
    assert wire.key_of_path(wire.path_of_key(key)) == key


@given(st.binary(max_size=30))
def test_a_path_of_any_bytes_is_a_key_or_refused(text: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        wire.key_of_path(text)


names = st.sampled_from([b"x-venice-schema-id", b"accept", b"x-other"])


@given(st.lists(st.tuples(st.dictionaries(names, st.sampled_from([b"1", b"text"])), contents), min_size=1, max_size=5), st.integers(1, 50))
def test_answers_may_arrive_in_any_pieces(answers: list[tuple[dict[bytes, bytes], bytes]], size: int) -> None:
    text = b""
    for headers, body in answers:
        # A request and an answer differ in their first line only.
        rendered = render_request(Request(b"POST", b"/", Headers(headers), body), b"h")
        text += b"HTTP/1.1 200 OK\r\n" + rendered.partition(b"\r\n")[2]
    parser = ResponseParser()
    found = [answer for start in range(0, len(text), size) for answer in parser.feed(text[start : start + size])]
    assert [(answer.headers.items() >= headers.items(), answer.body) for answer, (headers, _) in zip(found, answers, strict=True)] == [
        (True, body) for _, body in answers
    ]
