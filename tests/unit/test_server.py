"""The worker's handler: which version answers, in which form, and what wrong requests get."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from serving_kit import VALUE_SCHEMA, WIDER_SCHEMA, ServedCluster, a_store, ask, cluster_of, row

from venice import wire
from venice.errors import Corrupt, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.message import Headers, Request, Response, render_head
from venice.schema.codec import Codec, key_codec
from venice.serve.server import WorkerHandler
from venice.storage import Mutation, PartitionStorage, Position
from venice.storage.format import encode_value

VALUES = Codec(VALUE_SCHEMA)
KEYS = key_codec('"long"')


def target(key: Any, store: str = "rows", keys: Codec = KEYS) -> str:
    return f"/storage/{store}/{wire.path_of_key(keys.encode(key)).decode()}?f=b64"


@pytest.fixture
def cluster() -> Iterator[ServedCluster]:
    with cluster_of() as made:
        made.add_store(a_store("rows"))
        made.push("rows", {key: row(key, 1) for key in range(100)})
        yield made


def never(answer: bytes | None) -> None:
    raise AssertionError("a worker answers at once")


class BothWays(WorkerHandler):
    """Asks the lane before it answers: that gives the same bytes, or none."""

    shortened = 0

    def handle(self, request: Request) -> Response | Awaitable[Response]:
        lane = self.lane(request.headers) if request.method == b"GET" else None
        short = lane(request.target, never) if lane else False
        answer = super().handle(request)
        if isinstance(short, bytes):
            self.shortened += 1
            assert isinstance(answer, Response)
            assert (
                short == render_head(answer.status, answer.headers, False) + b"Content-Length: %d\r\n\r\n" % len(answer.body) + answer.body
            )
        return answer


@pytest.fixture
def handler(cluster: ServedCluster) -> WorkerHandler:
    worker = cluster.workers[0]
    return BothWays(lambda: cluster.catalog, lambda: worker.replicas, on_corrupt=lambda *replica: worker.corrupt.append(replica))


def error_of(answer: Response) -> VeniceError:
    assert answer.headers[wire.ERROR]
    return wire.error_of(answer.status, answer.body)


def test_a_get_names_version_schema_and_sequence(cluster: ServedCluster, handler: WorkerHandler) -> None:
    answer = ask(handler.handle, "GET", target(7))
    assert answer.status == 200
    assert VALUES.decode(answer.body) == row(7, 1)
    assert answer.headers == {
        b"x-venice-api-version": b"1",
        b"x-venice-store-version": b"1",
        b"x-venice-catalog-seq": b"%d" % cluster.catalog.sequence,
        b"x-venice-schema-id": b"1",
        b"x-venice-compression-strategy": b"none",
        b"content-type": b"avro/binary",
    }


def test_plain_gets_take_the_short_way(cluster: ServedCluster, handler: WorkerHandler) -> None:
    assert isinstance(handler, BothWays)
    for number, key in enumerate((7, 8, 12345, 7), start=1):
        ask(handler.handle, "GET", target(key))
        assert handler.shortened == number


def test_a_lane_follows_the_catalog(cluster: ServedCluster, handler: WorkerHandler) -> None:
    current, pinned = handler.lane({}), handler.lane({wire.STORE_VERSION: b"1"})
    later = handler.lane({wire.CATALOG_SEQUENCE: b"%d" % (cluster.catalog.sequence + 1)})
    assert current is not None
    assert pinned is not None
    assert later is not None
    path = target(7).encode()
    assert later(path, never) is False, "it waits for a catalog that is not here yet"
    before = current(path, never)
    assert isinstance(before, bytes)
    cluster.push("rows", {key: row(key, 2) for key in range(100)})
    after = current(path, never)
    assert isinstance(after, bytes)
    assert b"version: 2" in after.lower()
    assert later(path, never) == after
    held = pinned(path, never)
    assert isinstance(held, bytes)
    assert held.endswith(before[-10:])
    assert b"version: 1" in held.lower()


def test_a_missing_key_is_a_404_without_error(handler: WorkerHandler) -> None:
    answer = ask(handler.handle, "GET", target(12345))
    assert (answer.status, answer.body) == (404, b"")
    assert wire.ERROR not in answer.headers
    assert answer.headers[wire.STORE_VERSION] == b"1"


def test_padded_and_quoted_base64_is_taken(handler: WorkerHandler) -> None:
    for form in ("Dg", "Dg==", "Dg%3D%3D"):
        assert ask(handler.handle, "GET", f"/storage/rows/{form}?f=b64").status == 200


@pytest.mark.parametrize("key", ["!!!", "A", "Dg=x", "%FF", "////////////////////"])
def test_a_key_that_does_not_decode_is_named_with_its_schema(handler: WorkerHandler, key: str) -> None:
    with pytest.raises(InvalidRequest, match=r"base64|decode"):
        ask(handler.handle, "GET", f"/storage/rows/{key}?f=b64")


def test_the_key_schema_is_in_the_hint(handler: WorkerHandler) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask(handler.handle, "GET", "/storage/rows/____________________?f=b64")
    assert '"long"' in caught.value.hint


def test_an_unknown_store_is_no_missing_key(handler: WorkerHandler) -> None:
    answer = ask(handler.handle, "GET", target(7, store="nope"))
    assert answer.status == 400
    assert isinstance(error_of(answer), NotFound)
    assert "rows" in error_of(answer).hint


def test_a_store_without_a_version_is_unavailable(cluster: ServedCluster, handler: WorkerHandler) -> None:
    cluster.add_store(a_store("empty"))
    with pytest.raises(Unavailable, match="no version"):
        ask(handler.handle, "GET", target(7, store="empty"))


def test_every_open_version_can_be_asked_for(cluster: ServedCluster, handler: WorkerHandler) -> None:
    cluster.push("rows", {key: row(key, 2) for key in range(100)})
    cluster.push("rows", {key: row(key, 3) for key in range(100)}, swap=False)
    editions = {
        asked: VALUES.decode(ask(handler.handle, "GET", target(7), **({"store_version": asked} if asked else {})).body)["edition"]
        for asked in ("", "1", "2", "3")
    }
    assert editions == {"": 2, "1": 1, "2": 2, "3": 3}


def test_a_retired_version_is_served_until_it_is_closed(cluster: ServedCluster, handler: WorkerHandler) -> None:
    assert ask(handler.handle, "GET", target(7), store_version="1").status == 200
    cluster.push("rows", {key: row(key, 2) for key in range(100)})
    assert ask(handler.handle, "GET", target(7), store_version="1").status == 200
    cluster.retire("rows", 1)
    assert ask(handler.handle, "GET", target(7), store_version="1").status == 200
    cluster.drop("rows", 1)
    assert ask(handler.handle, "GET", target(7), store_version="1").status == 421


@pytest.mark.parametrize("body", [b"", wire.encode_keys([KEYS.encode(7)])])
def test_a_version_that_is_not_open_is_421_with_fresh_metadata(cluster: ServedCluster, handler: WorkerHandler, body: bytes) -> None:
    answer = ask(handler.handle, "POST" if body else "GET", "/storage/rows" if body else target(7), body, store_version="9")
    assert answer.status == 421
    assert answer.headers[wire.CATALOG_SEQUENCE] == b"%d" % cluster.catalog.sequence
    error = error_of(answer)
    assert isinstance(error, Unavailable)
    metadata = wire.decode_metadata(json.dumps(error.data["metadata"]).encode())
    assert (metadata.version, metadata.partition_count, metadata.replicas[0]) == (1, 4, (cluster.workers[0].url,))


def test_a_partition_that_is_not_here_is_421(cluster: ServedCluster, handler: WorkerHandler) -> None:
    worker = cluster.workers[0]
    worker.replicas = {("rows", 1): {partition: held for partition, held in worker.replicas["rows", 1].items() if partition != 2}}
    keys = [KEYS.encode(key) for key in range(100)]
    statuses = {ask(handler.handle, "GET", target(key)).status for key in range(100)}
    assert statuses == {200, 421}
    assert ask(handler.handle, "POST", "/storage/rows", wire.encode_keys(keys)).status == 421


def test_a_replica_closed_under_a_read_is_421(cluster: ServedCluster, handler: WorkerHandler) -> None:
    for held in cluster.workers[0].replicas["rows", 1].values():
        held.close()
    assert ask(handler.handle, "GET", target(7)).status == 421
    assert ask(handler.handle, "POST", "/storage/rows", wire.encode_keys([KEYS.encode(7)])).status == 421


class BrokenStorage:
    """A replica with a bad block."""

    def get(self, key: bytes) -> bytes | None:
        raise Corrupt("block checksum mismatch")

    def multi_get(self, keys: list[bytes]) -> list[bytes | None]:
        raise Corrupt("block checksum mismatch")


def test_a_corrupt_block_is_told_and_reported(cluster: ServedCluster, handler: WorkerHandler) -> None:
    worker = cluster.workers[0]
    broken: dict[int, PartitionStorage] = {partition: BrokenStorage() for partition in range(4)}  # type: ignore[misc]  # only what a read calls
    worker.replicas = {("rows", 1): broken}
    with pytest.raises(Corrupt):
        ask(handler.handle, "GET", target(7))
    with pytest.raises(Corrupt):
        ask(handler.handle, "POST", "/storage/rows", wire.encode_keys([KEYS.encode(7)]))
    assert len(worker.corrupt) == 2
    assert worker.corrupt[0] == worker.corrupt[1]
    assert worker.corrupt[0][:2] == ("rows", 1)


def test_a_stored_value_that_is_none_is_corrupt(cluster: ServedCluster, handler: WorkerHandler) -> None:
    for held in cluster.workers[0].replicas["rows", 1].values():
        held.apply([Mutation(KEYS.encode(7), b"\xff\xff")], Position(next_offset=2))
    with pytest.raises(Corrupt):
        ask(handler.handle, "GET", target(7))
    assert cluster.workers[0].corrupt


def test_values_with_a_timestamp_or_another_schema_are_served(cluster: ServedCluster, handler: WorkerHandler) -> None:
    for held in cluster.workers[0].replicas["rows", 1].values():
        stamped = Mutation(KEYS.encode(7), encode_value(3, b"stamped", 1_700_000_000_000))
        real_time = Mutation(KEYS.encode(8), encode_value(4, b"real time", 1_700_000_000_000, 2))
        held.apply([stamped, real_time], Position(next_offset=2))
    for key, body, schema_id in ((7, b"stamped", b"3"), (8, b"real time", b"4")):
        answer = ask(handler.handle, "GET", target(key))
        assert (answer.body, answer.headers[wire.SCHEMA_ID]) == (body, schema_id)


def test_a_batch_has_what_is_found(handler: WorkerHandler) -> None:
    asked = [5, 1000, 7, 2000, 5]
    answer = ask(handler.handle, "POST", "/storage/rows", wire.encode_keys([KEYS.encode(key) for key in asked]))
    assert answer.status == 200
    assert (answer.headers[wire.STORE_VERSION], wire.SCHEMA_ID in answer.headers) == (b"1", False)
    rows = sorted(wire.decode_rows(answer.body))
    assert [(found.position, VALUES.decode(found.value), found.schema_id) for found in rows] == [
        (position, row(asked[position], 1), 1) for position in (0, 2, 4)
    ]


def test_an_empty_batch_is_answered(handler: WorkerHandler) -> None:
    assert ask(handler.handle, "POST", "/storage/rows").body == b""


def test_a_stream_names_missing_keys_and_ends_with_a_footer(handler: WorkerHandler) -> None:
    body = wire.encode_keys([KEYS.encode(key) for key in (5, 1000)])
    answer = ask(handler.handle, "POST", "/storage/rows", body, streaming="1")
    stream = wire.RowStream()
    assert [found.position for found in stream.feed(answer.body)] == [0]
    assert (stream.missing, stream.footer) == ([1], wire.Footer(200))
    assert answer.headers[wire.STREAMING_RESPONSE] == b"1"


def test_routed_keys_are_answered_under_their_positions(cluster: ServedCluster, handler: WorkerHandler) -> None:
    plain = ask(handler.handle, "GET", target(7))
    partition = next(p for p, held in cluster.workers[0].replicas["rows", 1].items() if held.get(KEYS.encode(7)))
    body = wire.encode_routed_key(70, KEYS.encode(7), partition)
    answer = ask(handler.handle, "POST", "/storage/rows", body, routed="1", store_version="1")
    assert wire.decode_rows(answer.body) == [(70, plain.body, 1)]
    body = wire.encode_routed_key(70, KEYS.encode(7), 99)
    assert ask(handler.handle, "POST", "/storage/rows", body, routed="1", store_version="1").status == 421


def test_a_batch_of_garbage_is_an_invalid_request(handler: WorkerHandler) -> None:
    with pytest.raises(InvalidRequest, match="no list of keys"):
        ask(handler.handle, "POST", "/storage/rows", b"\xff\xff\xff")
    with pytest.raises(InvalidRequest, match="does not decode"):
        ask(handler.handle, "POST", "/storage/rows", wire.encode_keys([b"\xff\xff"]))


def test_a_batch_of_too_many_keys_is_413(cluster: ServedCluster) -> None:
    handler = WorkerHandler(lambda: cluster.catalog, lambda: cluster.workers[0].replicas, keys_max=3)
    answer = ask(handler.handle, "POST", "/storage/rows", wire.encode_keys([b"\x02"] * 4))
    assert (answer.status, error_of(answer).data["keys_max"]) == (413, 3)


def test_a_newer_wire_version_is_refused_by_name(handler: WorkerHandler) -> None:
    for path in (target(7), "/health", "/storage/rows/7"):
        with pytest.raises(InvalidRequest, match="version '2'"):
            ask(handler.handle, "GET", path, api_version="2")


def test_a_request_waits_for_the_sequence_it_asks_for(cluster: ServedCluster, handler: WorkerHandler) -> None:
    async def scenario() -> Response:
        asked = cluster.catalog.sequence + 1
        fields = Headers({wire.CATALOG_SEQUENCE: b"%d" % asked})
        waiting = handler.handle(Request(b"GET", target(7).encode(), fields))
        assert not isinstance(waiting, Response)
        task = asyncio.ensure_future(waiting)
        await asyncio.sleep(0)  # the task has a turn
        assert not task.done()
        cluster.push("rows", {7: row(7, 2)})
        return await task

    answer = asyncio.run(scenario())
    assert VALUES.decode(answer.body)["edition"] == 2


def test_a_sequence_that_does_not_come_is_unavailable(cluster: ServedCluster) -> None:
    handler = WorkerHandler(lambda: cluster.catalog, lambda: cluster.workers[0].replicas, wait_s=0.01)

    async def scenario(path: str) -> Response:
        waiting = handler.handle(Request(b"GET", path.encode(), Headers({wire.CATALOG_SEQUENCE: b"999"})))
        assert not isinstance(waiting, Response)
        return await waiting

    for path in (target(7), "/metadata/rows"):
        with pytest.raises(Unavailable, match="999"):
            asyncio.run(scenario(path))


def test_a_pinned_version_does_not_wait_for_the_catalog(handler: WorkerHandler) -> None:
    assert ask(handler.handle, "GET", target(7), store_version="1", catalog_seq="999").status == 200


@pytest.mark.parametrize("name", ["store_version", "catalog_seq"])
def test_a_header_that_is_no_number_is_refused(handler: WorkerHandler, name: str) -> None:
    with pytest.raises(InvalidRequest, match=name.upper().replace("_", "-")):
        ask(handler.handle, "GET", target(7), **{name: "one"})


def test_metadata_paths(cluster: ServedCluster, handler: WorkerHandler) -> None:
    sequence = cluster.catalog.sequence

    def get(path: str) -> Any:
        answer = ask(handler.handle, "GET", path)
        assert (answer.status, answer.headers[wire.CATALOG_SEQUENCE]) == (200, b"%d" % sequence)
        return json.loads(answer.body)

    assert get("/health") == {"status": "ok", "sequence": sequence}
    assert get("/current_version/rows") == {"store": "rows", "version": 1, "sequence": sequence}
    assert get("/key_schema/rows") == {"store": "rows", "id": 1, "schema": '"long"'}
    assert get("/value_schema/rows/1") == {"store": "rows", "id": 1, "schema": VALUE_SCHEMA}
    assert get("/value_schema/rows") == {"store": "rows", "schemas": [{"id": 1, "schema": VALUE_SCHEMA}]}
    metadata = wire.decode_metadata(ask(handler.handle, "GET", "/metadata/rows").body)
    assert metadata.replicas == ((cluster.workers[0].url,),) * 4


def test_metadata_of_a_store_without_a_version(cluster: ServedCluster, handler: WorkerHandler) -> None:
    cluster.add_store(a_store("empty"))
    metadata = wire.decode_metadata(ask(handler.handle, "GET", "/metadata/empty").body)
    assert (metadata.version, metadata.partition_count, metadata.replicas) == (0, 0, ())


@pytest.mark.parametrize(
    "path", ["/", "/nope", "/nope/rows", "/health/x", "/metadata/nope", "/metadata/rows/1", "/value_schema/rows/7", "/metadata", "//", "*"]
)
def test_unknown_paths_are_not_found(handler: WorkerHandler, path: str) -> None:
    with pytest.raises(NotFound):
        ask(handler.handle, "GET", path)


@pytest.mark.parametrize("schema_id", ["x", "-1", "", "1/2", "99999999999999999999"])
def test_a_schema_id_is_a_number(handler: WorkerHandler, schema_id: str) -> None:
    with pytest.raises(InvalidRequest):
        ask(handler.handle, "GET", f"/value_schema/rows/{schema_id}")


@pytest.mark.parametrize(("method", "path"), [("PUT", "/storage/rows/1"), ("DELETE", "/storage/rows"), ("POST", "/health")])
def test_other_methods_are_405_with_those_allowed(handler: WorkerHandler, method: str, path: str) -> None:
    answer = ask(handler.handle, method, path)
    assert answer.status == 405
    assert b"GET" in answer.headers[b"allow"]


@pytest.mark.parametrize("path", ["/storage/", "/storage/rows", "/storage/rows?f=b64", "/storage/rows?x", "/storage/rows/?f=b64"])
def test_a_get_without_a_key_is_refused(handler: WorkerHandler, path: str) -> None:
    with pytest.raises(InvalidRequest):
        ask(handler.handle, "GET", path)


@pytest.mark.parametrize("path", ["/storage/?f=b64", "/storage//7"])
def test_a_get_without_a_store_is_refused(handler: WorkerHandler, path: str) -> None:
    assert ask(handler.handle, "GET", path).status == 400


# JSON, for people.


def test_curl_gets_json_by_a_plain_key(handler: WorkerHandler) -> None:
    answer = ask(handler.handle, "GET", "/storage/rows/7", accept="application/json")
    assert (answer.status, json.loads(answer.body)) == (200, row(7, 1))
    assert (answer.headers[b"content-type"], answer.headers[wire.STORE_VERSION]) == (b"application/json", b"1")
    missing = ask(handler.handle, "GET", "/storage/rows/7777", accept="text/html, application/json;q=0.9")
    assert (missing.status, json.loads(missing.body)["kind"]) == (404, "missing_key")
    assert wire.ERROR not in missing.headers


def test_a_plain_key_gets_avro_without_the_header(handler: WorkerHandler) -> None:
    assert VALUES.decode(ask(handler.handle, "GET", "/storage/rows/7").body) == row(7, 1)
    assert json.loads(ask(handler.handle, "GET", target(7), accept="application/json").body) == row(7, 1)


def test_a_plain_key_of_the_wrong_type_is_refused(handler: WorkerHandler) -> None:
    for key in ("seven", "7.5", "true", "null", "[7]", "%FF", "99999999999999999999"):
        with pytest.raises(InvalidRequest):
            ask(handler.handle, "GET", f"/storage/rows/{key}", accept="application/json")


def test_a_json_batch(handler: WorkerHandler) -> None:
    headers = {"accept": "application/json", "content_type": "application/json"}
    answer = ask(handler.handle, "POST", "/storage/rows", b"[7, 1000, 5]", **headers)
    assert json.loads(answer.body) == [{"key": 7, "value": row(7, 1)}, {"key": 5, "value": row(5, 1)}]
    for body in (b"7", b"{}", b"[", b"\xff", b'["x"]', b"[" * 100_000):
        with pytest.raises(InvalidRequest):
            ask(handler.handle, "POST", "/storage/rows", body, **headers)


def test_json_of_an_unknown_store_is_an_error(handler: WorkerHandler) -> None:
    assert ask(handler.handle, "GET", "/storage/nope/7", accept="application/json").status == 400


def test_json_errors_stay_errors(handler: WorkerHandler) -> None:
    answer = ask(handler.handle, "GET", "/storage/rows/7", accept="application/json", store_version="9")
    assert (answer.status, json.loads(answer.body)["kind"]) == (421, "unavailable")


ALL_TYPES = {
    "type": "record",
    "name": "Everything",
    "fields": [
        {"name": "bytes", "type": "bytes"},
        {"name": "fixed", "type": {"type": "fixed", "name": "Three", "size": 3}},
        {"name": "decimal", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
        {"name": "nan", "type": "double"},
        {"name": "infinity", "type": "float"},
        {"name": "minus", "type": "double"},
        {"name": "date", "type": {"type": "int", "logicalType": "date"}},
        {"name": "time", "type": {"type": "int", "logicalType": "time-millis"}},
        {"name": "instant", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "local", "type": {"type": "long", "logicalType": "local-timestamp-millis"}},
        {"name": "uuid", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "maybe", "type": ["null", "bytes"]},
        {"name": "list", "type": {"type": "array", "items": "float"}},
        {"name": "map", "type": {"type": "map", "values": "boolean"}},
        {"name": "enum", "type": {"type": "enum", "name": "Color", "symbols": ["RED", "BLUE"]}},
        {"name": "large", "type": "long"},
    ],
}
EVERYTHING: dict[str, Any] = {
    "bytes": b"\x00\xff",
    "fixed": b"abc",
    "decimal": Decimal("-12.50"),
    "nan": math.nan,
    "infinity": math.inf,
    "minus": -math.inf,
    "date": date(2013, 1, 31),
    "time": time(12, 30, 1),
    "instant": datetime(2013, 1, 31, 12, 0, 0, 123456, UTC),
    "local": datetime(2013, 1, 31, 12),  # noqa: DTZ001 - a local timestamp has no zone
    "uuid": UUID("12345678-1234-5678-1234-567812345678"),
    "maybe": b"x",
    "list": [1.5, 2.0],
    "map": {"a": True},
    "enum": "BLUE",
    "large": 2**62,
}
EVERYTHING_IN_JSON = {
    "bytes": "AP8=",
    "fixed": "YWJj",
    "decimal": "-12.50",
    "nan": "NaN",
    "infinity": "Infinity",
    "minus": "-Infinity",
    "date": "2013-01-31",
    "time": "12:30:01",
    "instant": "2013-01-31T12:00:00.123456+00:00",
    "local": "2013-01-31T12:00:00",
    "uuid": "12345678-1234-5678-1234-567812345678",
    "maybe": "eA==",
    "list": [1.5, 2.0],
    "map": {"a": True},
    "enum": "BLUE",
    "large": 2**62,
}


def test_every_type_is_shown_in_json_and_taken_as_a_key() -> None:
    with cluster_of() as cluster:
        schema = json.dumps(ALL_TYPES)
        cluster.add_store(a_store("all", schema, schema))
        cluster.push("all", [(EVERYTHING, EVERYTHING)])
        handler = WorkerHandler(lambda: cluster.catalog, lambda: cluster.workers[0].replicas)
        path = "/storage/all/" + quote(json.dumps(EVERYTHING_IN_JSON), safe="")
        answer = ask(handler.handle, "GET", path, accept="application/json")
        assert json.loads(answer.body) == EVERYTHING_IN_JSON
        body = json.dumps([EVERYTHING_IN_JSON]).encode()
        batch = ask(handler.handle, "POST", "/storage/all", body, accept="application/json", content_type="application/json")
        assert json.loads(batch.body) == [{"key": EVERYTHING_IN_JSON, "value": EVERYTHING_IN_JSON}]


@pytest.mark.parametrize(
    ("schema", "key", "text"),
    [
        ('"string"', "a/b?c d", "a%2Fb%3Fc%20d"),
        ('"string"', "a/b", "a/b"),
        ('"string"', "123", "123"),
        ('"string"', '"quoted"', "%22quoted%22"),
        ('"string"', "Zürich", "Z%C3%BCrich"),
        ('"string"', "", ""),
        ('"boolean"', True, "true"),
        ('"double"', 1.5, "1.5"),
        ('"double"', 2.0, "2"),
        ('"bytes"', b"\x00\xff", "AP8="),
        ('{"type": "int", "logicalType": "date"}', date(2013, 1, 31), "2013-01-31"),
        ('{"type": "enum", "name": "C", "symbols": ["RED"]}', "RED", "RED"),
        ('["null", "long"]', 7, "7"),
        ('["null", "long"]', None, "null"),
    ],
)
def test_plain_keys_of_every_kind(schema: str, key: Any, text: str) -> None:
    with cluster_of() as cluster:
        cluster.add_store(a_store("keys", schema, '"string"'))
        cluster.push("keys", {key: "found"})
        handler = WorkerHandler(lambda: cluster.catalog, lambda: cluster.workers[0].replicas)
        answer = ask(handler.handle, "GET", f"/storage/keys/{text}", accept="application/json")
        assert (answer.status, json.loads(answer.body)) == (200, "found")


def test_json_of_a_value_whose_schema_is_not_known_yet_is_unavailable(cluster: ServedCluster, handler: WorkerHandler) -> None:
    store = cluster.catalog.stores["rows"]
    cluster.add_store(replace(store, value_schemas=a_store("rows", '"long"', VALUE_SCHEMA, WIDER_SCHEMA).value_schemas))
    cluster.push("rows", {7: {**row(7, 2), "extra": 1.0}}, schema_id=2)
    cluster.add_store(replace(cluster.catalog.stores["rows"], value_schemas=store.value_schemas))
    with pytest.raises(Unavailable, match="schema 2"):
        ask(handler.handle, "GET", "/storage/rows/7", accept="application/json")
