"""The bytes of the log format, version 1. They are never edited: logs written by a release hold them.

python tests/golden/record/test_golden_record.py        writes the file of a record that was added
"""

from __future__ import annotations

from pathlib import Path

import pytest

from venice.record import Kind, Origin, Record, decode, encode

HERE = Path(__file__).parent

RECORDS: dict[str, Record] = {
    "batch_put": Record(Kind.PUT, b"\x02", b"value", schema_id=1),
    "batch_put_with_its_own_time": Record(Kind.PUT, b"\x02", b"value", schema_id=1, timestamp_ms=1_700_000_000_000),
    "leader_put": Record(
        Kind.PUT,
        b"key",
        b"value",
        schema_id=3,
        origin=Origin.REAL_TIME,
        timestamp_ms=1_700_000_000_123,
        region=1,
        metadata=b"\x00\x01\x02",
        term=7,
        session=0xFEDCBA9876543210,
        sequence=4096,
        vector=((0, 2, 17), (1, 2, 4_294_967_296)),
    ),
    "leader_delete": Record(
        Kind.DELETE,
        b"key",
        schema_id=3,
        origin=Origin.REAL_TIME,
        timestamp_ms=-1,
        region=0,
        metadata=b"\x09",
        term=7,
        session=1,
        sequence=1,
        vector=((0, 0, 1),),
    ),
    "update": Record(
        Kind.UPDATE,
        b"key",
        b"delta",
        schema_id=2,
        update_schema_id=1,
        origin=Origin.REAL_TIME,
        timestamp_ms=5,
        region=0,
        session=9,
        sequence=1,
    ),
    "expire": Record(Kind.EXPIRE, b"key", origin=Origin.REAL_TIME, timestamp_ms=1_700_000_000_000, region=0),
    "start_of_version": Record(Kind.START_OF_VERSION, timestamp_ms=1_700_000_000_000),
    "declare_leadership": Record(Kind.DECLARE_LEADERSHIP, region=0, term=8, session=2, sequence=0),
    "progress": Record(Kind.PROGRESS, region=0, term=8, session=2, sequence=1, vector=((0, 0, 5), (0, 8, 5), (1, 0, 5))),
    "caught_up": Record(Kind.CAUGHT_UP, region=0, term=8, session=2, sequence=2, vector=((0, 0, 6),)),
    "end_of_push": Record(Kind.END_OF_PUSH, timestamp_ms=1_700_000_000_000),
    "heartbeat": Record(Kind.HEARTBEAT, timestamp_ms=1_700_000_000_000, region=0),
    "entity": Record(Kind.ENTITY, b"store/flights", b'{"name":"flights"}', term=1, session=3, sequence=12),
    "declare_controller": Record(Kind.DECLARE_CONTROLLER, term=1, session=3),
    "dead_letter": Record(
        Kind.DEAD_LETTER,
        b"flights_rt/2/17",
        b"garbage",
        timestamp_ms=1_700_000_000_000,
        region=0,
        metadata=b"corrupt: fails its checksum",
        term=1,
        sequence=2,
    ),
    "report": Record(Kind.REPORT, b"worker/node-1-0", b"{}", timestamp_ms=1_700_000_000_000),
}


def path_of(name: str) -> Path:
    return HERE / f"{name}.v1.hex"


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_the_bytes_of_version_1(name: str) -> None:
    golden = bytes.fromhex(path_of(name).read_text())
    assert encode(RECORDS[name]).hex() == golden.hex()
    assert decode(golden) == RECORDS[name]


def test_every_kind_has_golden_bytes() -> None:
    assert {record.kind for record in RECORDS.values()} == set(Kind)


if __name__ == "__main__":
    for name, record in RECORDS.items():
        if not path_of(name).exists():
            path_of(name).write_text(encode(record).hex(" ") + "\n")
