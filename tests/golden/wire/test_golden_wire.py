"""The bytes of the wire format, version 1. A released file is never edited: a change here breaks every deployed client."""

from __future__ import annotations

from pathlib import Path

import pytest

from venice import wire
from venice.errors import Unavailable
from venice.message import Headers, Request, render_request
from venice.model import ValueSchema

HERE = Path(__file__).parent

METADATA = wire.Metadata(
    store="flights",
    sequence=42,
    version=3,
    partition_count=2,
    compression="none",
    key_schema='"long"',
    value_schemas=(ValueSchema(id=1, text='"int"'), ValueSchema(id=2, text='"double"')),
    replicas=(("http://127.0.0.1:7100", "http://127.0.0.1:7101"), ("http://127.0.0.1:7101",)),
)
FOOTER = wire.Footer(503, wire.error_json(Unavailable("no replica", hint="try again", store="flights")))
BODIES: dict[str, bytes] = {
    "keys": wire.encode_keys([b"", b"\x02", b"k" * 64, b"z" * 3000]),
    "routed_keys": wire.encode_routed_key(0, b"\x02", 0) + wire.encode_routed_key(70_000, b"key", 511),
    "rows": wire.encode_row(0, b"", 1) + wire.encode_row(5, b"value", 2) + wire.encode_row(70_000, b"v" * 300, 4096),
    "stream": wire.encode_row(1, b"value", 1) + wire.encode_missing(0) + wire.encode_missing(63) + wire.encode_footer(wire.Footer(200)),
    "failed_stream": wire.encode_row(0, b"value", 1) + wire.encode_footer(FOOTER),
}
TEXTS: dict[str, bytes] = {
    "metadata": wire.encode_json(wire.metadata_facts(METADATA)),
    "error": wire.error_json(Unavailable("no replica", hint="try again", store="flights")),
    "get_request": render_request(
        Request(b"GET", b"/storage/flights/Ag?f=b64", Headers({**wire.COMMON, wire.CATALOG_SEQUENCE: b"42"})), b"127.0.0.1:7071"
    ),
    "batch_request": render_request(
        Request(b"POST", b"/storage/flights", Headers({**wire.COMMON, wire.STREAMING: b"1", b"content-type": wire.AVRO}), b"\x02\x02"),
        b"127.0.0.1:7071",
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_are_the_bytes_of_version_1(name: str) -> None:
    assert BODIES[name].hex() == "".join((HERE / f"{name}.v1.hex").read_text().split())


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_the_bytes_of_version_1(name: str) -> None:
    assert TEXTS[name] == (HERE / f"{name}.v1.txt").read_bytes()


def test_the_bytes_of_version_1_are_read() -> None:
    def golden(name: str) -> bytes:
        return bytes.fromhex((HERE / f"{name}.v1.hex").read_text())

    assert wire.decode_keys(golden("keys")) == [b"", b"\x02", b"k" * 64, b"z" * 3000]
    assert wire.decode_routed_keys(golden("routed_keys")) == [(0, b"\x02", 0), (70_000, b"key", 511)]
    assert wire.decode_rows(golden("rows")) == [(0, b"", 1), (5, b"value", 2), (70_000, b"v" * 300, 4096)]
    stream = wire.RowStream()
    assert stream.feed(golden("stream")) == [(1, b"value", 1)]
    assert (stream.missing, stream.footer) == ([0, 63], wire.Footer(200))
    failed = wire.RowStream()
    assert failed.feed(golden("failed_stream")) == [(0, b"value", 1)]
    assert failed.footer == FOOTER
    assert wire.decode_metadata((HERE / "metadata.v1.txt").read_bytes()) == METADATA
