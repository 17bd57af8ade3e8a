"""Schemas by id from a registry that says what the test wants."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from scripted_server import Peer, ScriptedServer, answer

from venice.client.schemas import SchemaIds
from venice.errors import Corrupt, InvalidRequest
from venice.kafka_connector import KafkaFault, Message, message_decoder


def saying(body: object, status: str = "200 OK") -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        for _ in peer.requests():
            peer.say(answer(json.dumps(body).encode(), status=status))

    return script


def test_a_message_of_a_schema_that_is_not_avro_is_a_fault() -> None:
    with ScriptedServer(saying({"schemaType": "PROTOBUF", "schema": 'syntax = "proto3";'})) as server:
        decode = message_decoder("text", "avro-confluent", None, None, server.url)
        for offset in range(3):
            found = decode(Message(b"key", b"\0\0\0\0\7\6", topic="t", partition=0, offset=offset, timestamp=(1, 1000)))
            assert isinstance(found, KafkaFault)
            assert "schema 7 is PROTOBUF, not Avro" in found.reason
        assert server.connections == 1
        with pytest.raises(Corrupt):
            SchemaIds(server.url)(8)


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
def test_a_registry_that_wants_to_be_asked_otherwise_stops_the_flow(status: str) -> None:
    with ScriptedServer(saying({"error_code": 40101}, status)) as server:
        decode = message_decoder("text", "avro-confluent", None, None, server.url)
        message = Message(b"key", b"\0\0\0\0\7\6", topic="t", timestamp=(1, 1000))
        with pytest.raises(InvalidRequest, match=f"answered {status[:3]}"):
            decode(message)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h:abc", "'http://h:…'"),
        ("http://me:secret", "'http://me:…'"),
        ("me:secret", "'me:…'"),
        ("http://me:secret@h:abc", "'…@h:…'"),
        ("http://me:with@h:secret", "'…@h:…'"),
        ("http://me:12/secret@h", "'…@h'"),
        ("http://me:secret@[::1", "'…@[::1'"),
        ("ftp://me:secret@h:21/x", "'…@h:21/x'"),
        ("me:se/cret@h:8081", "'…@h:8081'"),
        ("http://me:secret@", "'…@'"),
        ("nowhere", "'nowhere'"),
    ],
)
def test_what_is_no_url_is_refused_without_its_password(url: str, shown: str) -> None:
    with pytest.raises(InvalidRequest, match="of the form") as refused:
        SchemaIds(url)
    assert refused.value.message.startswith(f"registry {shown} is not")
    assert refused.value.__cause__ is None
    assert "cret" not in str(refused.value)
