"""The controller's routes that speak as a Confluent Schema Registry does, so that existing Avro tools register schemas here.

What they answer, their error codes and their content type are those of Confluent's API reference. Schemas are checked,
kept and numbered as everywhere else; `venice/control/subjects.py` says under which names and ids they appear.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field

from venice.control import subjects
from venice.control.controller import Controller
from venice.control.subjects import Registered
from venice.errors import Conflict, Fenced, Incompatible, InvalidRequest, Unavailable, VeniceError
from venice.model import Store
from venice.schema import registry

MEDIA_TYPE: Final = "application/vnd.schemaregistry.v1+json"
LEVEL: Final = "FULL_TRANSITIVE"
"""How every value schema fits every other of its store."""

_LATEST: Final = ("latest", "-1")
_VERSION_DIGITS_MAX: Final = 9


class _Refusal(Exception):
    """An answer with the code that Confluent's registry gives it; its status is the code's first three digits."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class SchemaBody(BaseModel):
    """A schema as clients send it; what newer clients add is ignored."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    text: str = Field(alias="schema")
    schema_type: str = Field("AVRO", alias="schemaType")
    references: list[dict[str, Any]] = []

    def avro(self) -> str:
        """The text. Refused: what is no Avro schema by itself."""
        if self.schema_type != "AVRO":
            raise _Refusal(42201, f"Invalid schema: values are Avro, not {self.schema_type}")
        if self.references:
            raise _Refusal(42201, "Invalid schema: references to other subjects are not followed; write the types out")
        return self.text


class _Route(APIRoute):
    """Tells errors as clients of a registry expect them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                first = error.errors()[0]
                if first["loc"][0] == "path":
                    return _refused(404, "HTTP 404 Not Found")
                return _refused(42201, f"Invalid schema: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}")
            except _Refusal as error:
                return _refused(error.code, str(error))
            except VeniceError as error:
                return _refused(_code(error), str(error))

        return handler


def registry_routes(controller: Controller) -> APIRouter:
    """The routes over a controller that was opened."""
    routes = APIRouter(route_class=_Route, tags=["schema registry"], default_response_class=Response)
    _add_schemas(routes, controller)
    _add_subjects(routes, controller)
    _add_versions(routes, controller)
    _add_settings(routes, controller)
    return routes


def _add_schemas(routes: APIRouter, controller: Controller) -> None:
    def known(schema_id: int, subject: str = "") -> list[Registered]:
        found = subjects.with_id(controller.catalog, schema_id)
        if subject:
            found = [one for one in found if one.subject == subject]
        if not found:
            raise _Refusal(40403, f"Schema {schema_id} not found")
        return found

    @routes.get("/schemas/types")
    def types() -> Response:
        return _answer(["AVRO"])

    @routes.get("/schemas/ids/{schema_id}")
    def schema(schema_id: int, subject: str = "") -> Response:
        return _answer({"schema": known(schema_id, subject)[0].text})

    @routes.get("/schemas/ids/{schema_id}/schema")
    def schema_text(schema_id: int, subject: str = "") -> Response:
        return _answer(json.loads(known(schema_id, subject)[0].text))

    @routes.get("/schemas/ids/{schema_id}/subjects")
    def subjects_of(schema_id: int) -> Response:
        return _answer(sorted({one.subject for one in known(schema_id)}))

    @routes.get("/schemas/ids/{schema_id}/versions")
    def versions_of(schema_id: int) -> Response:
        return _answer([{"subject": one.subject, "version": one.version} for one in known(schema_id)])


def _add_subjects(routes: APIRouter, controller: Controller) -> None:
    @routes.get("/")
    def root() -> Response:
        return _answer({})

    @routes.get("/subjects")
    def names(prefix: Annotated[str, Query(alias="subjectPrefix")] = "") -> Response:
        return _answer([name for name in subjects.subjects(controller.catalog) if name.startswith(prefix)])

    @routes.post("/subjects/{subject}")
    def look_up(subject: str, body: SchemaBody) -> Response:
        found = subjects.find(_store(controller, subject), subject, body.avro())
        if found is None:
            raise _Refusal(40403, f"Schema not found under subject '{subject}'")
        return _answer(_told(found))

    @routes.post("/subjects/{subject}/versions")
    def register(subject: str, body: SchemaBody) -> Response:
        text = body.avro()
        store = _store(controller, subject, even_empty=True)
        found = subjects.find(store, subject, text)
        if found is None and subject.endswith(subjects.KEY):
            raise Incompatible(
                f"the key schema of store {store.name!r} is {store.key_schema} and never changes", hint="make another store for other keys"
            )
        if found is None:
            schema = controller.add_schema(store.name, text)
            found = Registered(subject=subject, version=schema.id, text=schema.text)
        return _answer({"id": found.id})

    @routes.delete("/subjects/{subject}")
    @routes.delete("/subjects/{subject}/versions/{version}")
    def delete(subject: str, version: str = "") -> Response:
        raise _Refusal(42205, f"Schemas of '{subject}' stay as long as their store: what was written with them must be read")


def _add_versions(routes: APIRouter, controller: Controller) -> None:
    def find(subject: str, version: str) -> Registered:
        return _version(_store(controller, subject), subject, version)

    @routes.get("/subjects/{subject}/versions")
    def list_versions(subject: str) -> Response:
        return _answer([one.version for one in subjects.versions(_store(controller, subject), subject)])

    @routes.get("/subjects/{subject}/versions/{version}")
    def get_version(subject: str, version: str) -> Response:
        return _answer(_told(find(subject, version)))

    @routes.get("/subjects/{subject}/versions/{version}/schema")
    def get_text(subject: str, version: str) -> Response:
        return _answer(json.loads(find(subject, version).text))

    @routes.get("/subjects/{subject}/versions/{version}/referencedby")
    def get_references(subject: str, version: str) -> Response:
        find(subject, version)
        return _answer([])

    @routes.post("/compatibility/subjects/{subject}/versions")
    def compatible_with_all(subject: str, body: SchemaBody, verbose: bool = False) -> Response:
        return _judged(subject, body.avro(), subjects.versions(_store(controller, subject), subject), verbose)

    @routes.post("/compatibility/subjects/{subject}/versions/{version}")
    def compatible_with(subject: str, version: str, body: SchemaBody, verbose: bool = False) -> Response:
        return _judged(subject, body.avro(), (find(subject, version),), verbose)


def _add_settings(routes: APIRouter, controller: Controller) -> None:
    @routes.get("/config")
    def level() -> Response:
        return _answer({"compatibilityLevel": LEVEL})

    @routes.get("/config/{subject}")
    def level_of(subject: str) -> Response:
        _store(controller, subject)
        return _answer({"compatibilityLevel": LEVEL})

    @routes.put("/config")
    @routes.put("/config/{subject}")
    @routes.delete("/config/{subject}")
    def set_level(subject: str = "") -> Response:
        raise _Refusal(42205, f"The compatibility level is {LEVEL} for all: every version of a store reads every other")

    @routes.get("/mode")
    @routes.get("/mode/{subject}")
    def mode(subject: str = "") -> Response:
        return _answer({"mode": "READWRITE"})

    @routes.put("/mode")
    @routes.put("/mode/{subject}")
    @routes.delete("/mode/{subject}")
    def set_mode(subject: str = "") -> Response:
        raise _Refusal(42205, "The mode is READWRITE and stays")

    @routes.get("/contexts")
    def contexts() -> Response:
        return _answer(["."])


def _store(controller: Controller, subject: str, *, even_empty: bool = False) -> Store:
    store = subjects.store_of(controller.catalog, subject)
    if store is None or not (even_empty or subjects.versions(store, subject)):
        how = "subjects are named STORE-value and STORE-key after a store: 'venice store create' makes one"
        raise _Refusal(40401, f"Subject '{subject}' not found: {how}")
    return store


def _version(store: Store, subject: str, version: str) -> Registered:
    found = subjects.versions(store, subject)
    if version in _LATEST:
        return found[-1]
    if not version.isdecimal() or len(version) > _VERSION_DIGITS_MAX or int(version) < 1:
        raise _Refusal(42202, f"The specified version '{version}' is not a valid version id: use a number from 1, or \"latest\"")
    for one in found:
        if one.version == int(version):
            return one
    raise _Refusal(40402, f"Version {version} not found: '{subject}' has {', '.join(str(one.version) for one in found)}")


def _judged(subject: str, text: str, others: tuple[Registered, ...], verbose: bool) -> Response:
    problems: list[str] = []
    if subject.endswith(subjects.KEY):
        if registry.parse(text) != registry.parse(others[0].text):
            problems = ["a store's key schema never changes"]
    else:
        try:
            registry.check_compatible(text, [one.text for one in others])
        except Incompatible as error:
            problems = [str(error)]
    return _answer({"is_compatible": not problems, **({"messages": problems} if verbose else {})})


def _told(one: Registered) -> dict[str, Any]:
    return {"subject": one.subject, "id": one.id, "version": one.version, "schema": one.text}


def _answer(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, ensure_ascii=False), status, media_type=MEDIA_TYPE)


def _refused(code: int, message: str) -> Response:
    return _answer({"error_code": code, "message": message}, code if code < 1000 else code // 100)


def _code(error: VeniceError) -> int:
    match error:
        case Incompatible():
            return 409
        case InvalidRequest():
            return 42201
        case Conflict():
            return 42205
        case Unavailable():
            return 50002
        case Fenced():
            return 50003
        case _:
            return 50001
