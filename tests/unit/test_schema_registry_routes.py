"""The routes of a schema registry, by Confluent's own client and serializers, and what they refuse by bare HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext
from served_controller import Served

from venice.client.schemas import SchemaIds
from venice.control.registry_api import MEDIA_TYPE
from venice.errors import Conflict, Corrupt, Unavailable
from venice.schema import confluent
from venice.schema.codec import Codec

CITY = {"type": "record", "name": "City", "namespace": "geo", "fields": [{"name": "inhabitants", "type": "long"}]}
WIDER = {**CITY, "fields": [*CITY["fields"], {"name": "country", "type": "string", "default": ""}]}
BROKEN = {**CITY, "fields": [{"name": "inhabitants", "type": "string"}]}
VALUES = SerializationContext("cities", MessageField.VALUE)


def text(document: Any) -> str:
    return json.dumps(document)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, free_port: Any) -> Iterator[Served]:
    opened = Served(tmp_path_factory.mktemp("registry"), free_port())
    opened.client.create_store("cities", key_schema='"string"', value_schema=text(CITY))
    opened.client.create_store("towns", key_schema='"string"', value_schema=text(CITY))
    opened.client.create_store("bare", key_schema='"long"')
    yield opened
    opened.close()


@pytest.fixture
def registry(served: Served) -> Iterator[SchemaRegistryClient]:
    client = SchemaRegistryClient({"url": served.url})
    yield client
    client.close()


def refused(error: pytest.ExceptionInfo[SchemaRegistryError]) -> tuple[int, int]:
    return error.value.http_status_code, error.value.error_code


def parsed(schema: Schema | None) -> Any:
    assert schema is not None
    assert schema.schema_str is not None
    return json.loads(schema.schema_str)


def test_what_their_serializer_writes_everybody_reads(served: Served, registry: SchemaRegistryClient) -> None:
    """A producer of their own registers the schema; their deserializer, ours and the store itself read what it wrote."""
    write = AvroSerializer(registry, text(WIDER))
    message = write({"inhabitants": 717710, "country": "Norway"}, VALUES)
    assert message is not None
    assert [schema.id for schema in served.client.list_schemas("cities")] == [1, 2]
    assert Codec(served.client.list_schemas("cities")[1].text).decode(message, confluent.HEADER_BYTES)["country"] == "Norway"
    other = SchemaRegistryClient({"url": served.url})
    assert AvroDeserializer(other)(message, VALUES) == {"inhabitants": 717710, "country": "Norway"}
    assert AvroDeserializer(other, text(CITY))(message, VALUES) == {"inhabitants": 717710}
    other.close()
    assert confluent.decoder(SchemaIds(served.url))(message) == {"inhabitants": 717710, "country": "Norway"}
    # The same again is the same schema, and its id follows from its text.
    schema_id = int.from_bytes(message[1:5], "big")
    assert registry.register_schema("cities-value", Schema(text(WIDER), "AVRO")) == schema_id
    assert confluent.schema_id_of(served.client.list_schemas("cities")[1].text) == schema_id


def test_their_client_looks_around(served: Served, registry: SchemaRegistryClient) -> None:
    assert registry.get_subjects() == ["bare-key", "cities-key", "cities-value", "towns-key", "towns-value"]
    first = registry.get_version("towns-value", 1)
    assert first.schema_id is not None
    assert (first.subject, first.version, parsed(first.schema)) == ("towns-value", 1, CITY)
    assert registry.get_latest_version("towns-value").schema_id == first.schema_id
    assert registry.get_versions("towns-value") == [1]
    assert parsed(registry.get_schema(first.schema_id)) == CITY
    # Equal schemas of several stores share one id.
    assert registry.get_version("cities-value", 1).schema_id == first.schema_id
    assert set(registry.get_subjects_by_schema_id(first.schema_id)) == {"cities-value", "towns-value"}
    places = {(one.subject, one.version) for one in registry.get_schema_versions(first.schema_id)}
    assert places == {("cities-value", 1), ("towns-value", 1)}
    found = registry.lookup_schema("towns-value", Schema(json.dumps({**CITY, "doc": "same"}), "AVRO"))
    assert (found.version, found.schema_id) == (1, first.schema_id)
    assert registry.register_schema("towns-key", Schema('"string"', "AVRO")) == registry.get_latest_version("cities-key").schema_id
    assert registry.get_compatibility() == registry.get_compatibility("towns-value") == "FULL_TRANSITIVE"
    assert registry.get_global_mode() == "READWRITE"


def test_compatibility_is_asked_without_registering(registry: SchemaRegistryClient) -> None:
    wider, broken = Schema(text(WIDER), "AVRO"), Schema(text(BROKEN), "AVRO")
    assert registry.test_compatibility("towns-value", wider)
    assert not registry.test_compatibility("towns-value", broken)
    assert not registry.test_compatibility("towns-value", broken, version=1)
    assert registry.test_compatibility_all_versions("towns-value", wider)
    assert registry.test_compatibility("towns-key", Schema('"string"', "AVRO"))
    assert not registry.test_compatibility("towns-key", Schema('"long"', "AVRO"))
    assert registry.get_versions("towns-value") == [1]


def test_refusals_have_their_codes(registry: SchemaRegistryClient) -> None:
    cases: list[tuple[Callable[[], Any], tuple[int, int], str]] = [
        (lambda: registry.register_schema("towns-value", Schema(text(BROKEN), "AVRO")), (409, 409), "inhabitants"),
        (lambda: registry.register_schema("towns-value", Schema('{"type": "recor"}', "AVRO")), (422, 42201), "recor"),
        (lambda: registry.register_schema("towns-value", Schema("{}", "JSON")), (422, 42201), "not JSON"),
        (lambda: registry.register_schema("towns-key", Schema('"long"', "AVRO")), (409, 409), "never changes"),
        (lambda: registry.register_schema("villages-value", Schema('"long"', "AVRO")), (404, 40401), "venice store create"),
        (lambda: registry.get_latest_version("villages"), (404, 40401), "villages"),
        (lambda: registry.get_versions("bare-value"), (404, 40401), "bare-value"),
        (lambda: registry.get_version("towns-value", 7), (404, 40402), "has 1"),
        (lambda: registry.get_version("towns-value", 0), (422, 42202), "latest"),
        (lambda: registry.get_version("towns-value", "9" * 5000), (422, 42202), "not a valid"),  # type: ignore[arg-type]  # a URL may hold it
        (lambda: registry.get_schema(4711), (404, 40403), "4711"),
        (lambda: registry.lookup_schema("towns-value", Schema('"long"', "AVRO")), (404, 40403), "towns-value"),
        (lambda: registry.set_compatibility("towns-value", "NONE"), (422, 42205), "FULL_TRANSITIVE"),
        (lambda: registry.delete_subject("towns-value"), (422, 42205), "stay"),
    ]
    for call, codes, words in cases:
        with pytest.raises(SchemaRegistryError) as error:
            call()
        assert refused(error) == codes, error.value
        assert words in error.value.error_message


def test_on_the_wire(served: Served) -> None:
    """Errors and answers as documented, content type included, and nothing but these routes: ours keep their own errors."""

    def call(method: str, path: str, body: str | None = None) -> tuple[int, str | None, Any]:
        connection = HTTPConnection("127.0.0.1", served.port, timeout=10)
        connection.request(method, path, body, {"content-type": "application/vnd.schemaregistry.v1+json"})
        response = connection.getresponse()
        answer = response.status, response.getheader("content-type"), json.loads(response.read())
        connection.close()
        return answer

    assert call("GET", "/") == (200, MEDIA_TYPE, {})
    assert call("GET", "/subjects?subjectPrefix=bare") == (200, MEDIA_TYPE, ["bare-key"])
    assert call("GET", "/schemas/types") == (200, MEDIA_TYPE, ["AVRO"])
    assert call("GET", "/subjects/towns-value/versions/latest/schema") == (200, MEDIA_TYPE, CITY)
    status, media, told = call("GET", "/subjects/nowhere-value/versions")
    assert (status, media, sorted(told)) == (404, MEDIA_TYPE, ["error_code", "message"])
    assert call("GET", "/schemas/ids/one")[2] == {"error_code": 404, "message": "HTTP 404 Not Found"}
    assert call("POST", "/subjects/towns-value/versions", "{}")[2]["error_code"] == 42201
    body = text({"schema": text(BROKEN)})
    status, _, told = call("POST", "/compatibility/subjects/towns-value/versions/latest?verbose=true", body)
    assert (status, told["is_compatible"], "inhabitants" in told["messages"][0]) == (200, False, True)
    assert call("GET", "/api/v1/stores/nowhere")[2]["kind"] == "not_found"
    assert call("GET", "/nothing")[2]["kind"] == "not_found"


def test_ids_that_cannot_be_had(served: Served, free_port: Any) -> None:
    ids = SchemaIds(served.url)
    assert (ids(4711), ids(4711)) == (None, None)
    with pytest.raises(Corrupt, match="schema 4711"):
        confluent.decoder(ids)(b"\0" + (4711).to_bytes(4, "big"))
    with pytest.raises(Unavailable, match="does not answer"):
        SchemaIds(f"http://127.0.0.1:{free_port()}", retry_s=0)(1)


def test_two_schemas_never_share_an_id(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids of other texts fall together only by chance, so chance is replaced here."""
    monkeypatch.setattr("venice.control.subjects.schema_id_of", lambda text: 5)
    with pytest.raises(Conflict, match="registry id 5"):
        served.controller.create_store("rivers", key_schema='"int"')
