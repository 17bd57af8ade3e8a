"""The control API over HTTP: `/api/v1/…`, its OpenAPI page at `/docs`, errors as JSON {kind, message, hint, data}.

Beside it stand the routes of a schema registry (`venice/control/registry_api.py`), with errors as its clients know them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from venice.control import stores
from venice.control.answers import Health, Keep, NodeChange, NodeInfo, PushGrant, VersionInfo
from venice.control.controller import Controller
from venice.control.encoding import to_json
from venice.control.registry_api import registry_routes
from venice.errors import InvalidRequest, NotFound, VeniceError
from venice.model import BackupStrategy, Compression, HybridConfig, Rollout, Store, StoreConfig, ValueSchema
from venice.wire import error_json, status_of

PREFIX = "/api/v1"


class Body(BaseModel):
    """A request's body: a field that is not known is an error, not a setting that silently does nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ConfigBody(Body):
    """What an owner may set; what is left out keeps its value."""

    partition_count: int | None = Field(None, description="Partitions of versions made from now on.")
    replication_factor: int | None = Field(None, description="Nodes that hold each partition.")
    versions_preserved: int | None = Field(None, description="Complete versions that stay, the current one included.")
    record_bytes_max: int | None = Field(None, description="Largest encoded value, in bytes.")
    compression: Compression | None = Field(None, description="Of the values of versions made from now on.")
    storage_quota_bytes: int | None = Field(None, description="Largest size of a pushed version's files, in bytes; -1: any.")
    backup_strategy: BackupStrategy | None = Field(None, description="When a complete version makes room for the next.")
    backup_retention_s: int | None = Field(None, description="For so long after a swap backups are kept, in seconds.")
    superset_schema: bool | None = Field(None, description="Register the superset of all value schemas whenever one is added.")

    def given(self) -> dict[str, int | str]:
        """The fields that are not None."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}


class HybridBody(Body):
    """How versions pushed from now on follow the store's real-time topic; what is left out has its default."""

    rewind_s: int = Field(HybridConfig().rewind_s, description="How far before a push's start real-time writes are replayed onto it.")
    lag_records_max: int = Field(HybridConfig().lag_records_max, description="Real-time writes a partition may lack and be ready.")

    def made(self) -> HybridConfig:
        return HybridConfig(rewind_s=self.rewind_s, lag_records_max=self.lag_records_max)


class CreateStore(Body):
    """A new store; schemas are Avro JSON."""

    name: str
    key_schema: str
    value_schema: str | None = None
    owner: str = ""
    config: ConfigBody = ConfigBody()
    hybrid: HybridBody | None = Field(None, description="Given: the store takes real-time writes.")


class UpdateStore(Body):
    """Changes of a store."""

    owner: str | None = None
    config: ConfigBody = ConfigBody()
    hybrid: HybridBody | None = Field(None, description="null: versions pushed from now on are batch; left out: no change.")

    def hybrid_given(self) -> HybridConfig | Keep | None:
        """`hybrid`, with its absence told apart from null."""
        if "hybrid" not in self.model_fields_set:
            return Keep.KEEP
        return self.hybrid.made() if self.hybrid is not None else None


class AddSchema(Body):
    """A value schema, as Avro JSON."""

    schema_: str = Field(alias="schema")


class RolloutBody(Body):
    """Nodes that a version goes to first."""

    nodes: tuple[str, ...] = Field(description="Their names, or a share such as 25%.")
    after_s: int | None = Field(None, ge=0, description="Seconds until it goes to the others by itself; null: when it is rolled forward.")


class CreateVersion(Body):
    """The beginning of a push."""

    push_id: str = Field(description="Names the push: the same id finds the same version again.")
    deferred_swap: bool = Field(False, description="Stop at PUSHED; an operator rolls forward.")
    rollout: RolloutBody | None = Field(None, description="Nodes that get it first.")
    config: ConfigBody = Field(ConfigBody(), description="What the store's configuration becomes, if the push begins.")


class Seal(Body):
    """A sealed snapshot."""

    uri: str
    sha256: str = Field(description="Of the manifest's bytes.")
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    value_schema_id: int = Field(ge=1)


class Reason(Body):
    """Why a version is given up."""

    reason: str = ""


_NO_REASON = Reason()


def build_app(controller: Controller) -> FastAPI:
    """The API of a controller that was opened. Handlers run in threads: the controller may wait for the log."""
    app = FastAPI(title="Venice control API", version="1", docs_url="/docs", redoc_url=None, openapi_url=f"{PREFIX}/openapi.json")
    _add_errors(app)
    _add_stores(app, controller)
    _add_versions(app, controller)
    _add_cluster(app, controller)
    app.include_router(registry_routes(controller))
    return app


def _answer(value: object, cls: Any = None, status: int = 200) -> Response:
    # Encoded by the model's own adapter: the same bytes as in the catalog, and nothing is validated twice.
    return Response(to_json(value, cls), status, media_type="application/json")


def _add_stores(app: FastAPI, controller: Controller) -> None:
    @app.post(f"{PREFIX}/stores", response_model=Store, status_code=201, tags=["stores"])
    def create_store(body: CreateStore) -> Response:
        store = controller.create_store(
            body.name,
            key_schema=body.key_schema,
            value_schema=body.value_schema,
            owner=body.owner,
            config=stores.configured(StoreConfig(), body.config.given()),
            hybrid=body.hybrid.made() if body.hybrid is not None else None,
        )
        return _answer(store, status=201)

    @app.get(f"{PREFIX}/stores", response_model=list[Store], tags=["stores"])
    def list_stores() -> Response:
        return _answer(controller.list_stores(), tuple[Store, ...])

    @app.get(f"{PREFIX}/stores/{{store}}", response_model=Store, tags=["stores"])
    def get_store(store: str) -> Response:
        return _answer(controller.get_store(store))

    @app.patch(f"{PREFIX}/stores/{{store}}", response_model=Store, tags=["stores"])
    def update_store(store: str, body: UpdateStore) -> Response:
        return _answer(controller.update_store(store, owner=body.owner, config=body.config.given(), hybrid=body.hybrid_given()))

    @app.delete(f"{PREFIX}/stores/{{store}}", status_code=204, tags=["stores"])
    def delete_store(store: str) -> Response:
        controller.delete_store(store)
        return Response(status_code=204)

    @app.post(f"{PREFIX}/stores/{{store}}/schemas", response_model=ValueSchema, tags=["schemas"])
    def add_schema(store: str, body: AddSchema) -> Response:
        return _answer(controller.add_schema(store, body.schema_))

    @app.get(f"{PREFIX}/stores/{{store}}/schemas", response_model=list[ValueSchema], tags=["schemas"])
    def list_schemas(store: str) -> Response:
        return _answer(controller.get_store(store).value_schemas, tuple[ValueSchema, ...])


def _add_versions(app: FastAPI, controller: Controller) -> None:
    @app.post(f"{PREFIX}/stores/{{store}}/versions", response_model=PushGrant, tags=["versions"])
    def create_version(store: str, body: CreateVersion) -> Response:
        rollout = Rollout(**body.rollout.model_dump()) if body.rollout is not None else None
        grant = controller.create_version(
            store, push_id=body.push_id, deferred_swap=body.deferred_swap, rollout=rollout, config=body.config.given()
        )
        return _answer(grant)

    @app.get(f"{PREFIX}/stores/{{store}}/versions", response_model=list[VersionInfo], tags=["versions"])
    def list_versions(store: str) -> Response:
        return _answer(controller.list_versions(store), tuple[VersionInfo, ...])

    @app.get(f"{PREFIX}/stores/{{store}}/versions/{{number}}", response_model=VersionInfo, tags=["versions"])
    def get_version(store: str, number: int) -> Response:
        return _answer(controller.get_version(store, number))

    @app.post(f"{PREFIX}/stores/{{store}}/versions/{{number}}/heartbeat", response_model=VersionInfo, tags=["versions"])
    def heartbeat(store: str, number: int) -> Response:
        return _answer(controller.heartbeat(store, number))

    @app.post(f"{PREFIX}/stores/{{store}}/versions/{{number}}/seal", response_model=VersionInfo, tags=["versions"])
    def seal(store: str, number: int, body: Seal) -> Response:
        sealed = controller.seal(
            store,
            number,
            uri=body.uri,
            sha256=body.sha256,
            rows=body.rows,
            bytes_=body.bytes,
            value_schema_id=body.value_schema_id,
        )
        return _answer(sealed)

    @app.post(f"{PREFIX}/stores/{{store}}/versions/{{number}}/kill", response_model=VersionInfo, tags=["versions"])
    def kill(store: str, number: int, body: Reason = _NO_REASON) -> Response:
        return _answer(controller.kill(store, number, body.reason))

    @app.post(f"{PREFIX}/stores/{{store}}/versions/{{number}}/fail", response_model=VersionInfo, tags=["versions"])
    def fail(store: str, number: int, body: Reason = _NO_REASON) -> Response:
        return _answer(controller.fail(store, number, body.reason))

    @app.post(f"{PREFIX}/stores/{{store}}/rollback", response_model=Store, tags=["versions"])
    def rollback(store: str) -> Response:
        return _answer(controller.rollback(store))

    @app.post(f"{PREFIX}/stores/{{store}}/roll-forward", response_model=Store, tags=["versions"])
    def roll_forward(store: str) -> Response:
        return _answer(controller.roll_forward(store))


def _add_cluster(app: FastAPI, controller: Controller) -> None:
    @app.get(f"{PREFIX}/nodes", response_model=list[NodeInfo], tags=["cluster"])
    def nodes() -> Response:
        return _answer(controller.nodes(), tuple[NodeInfo, ...])

    @app.post(f"{PREFIX}/nodes/{{node}}/{{change}}", response_model=NodeInfo, tags=["cluster"])
    def change_node(node: str, change: NodeChange) -> Response:
        return _answer(controller.change_node(node, change))

    @app.get(f"{PREFIX}/health", response_model=Health, tags=["cluster"])
    def health() -> Response:
        return _answer(controller.health())


def _add_errors(app: FastAPI) -> None:
    def tell(error: VeniceError, status: int | None = None) -> Response:
        return Response(error_json(error), status or status_of(error), media_type="application/json")

    def venice(request: Request, error: Exception) -> Response:
        assert isinstance(error, VeniceError)
        return tell(error)

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return tell(InvalidRequest(f"{request.method} {request.url.path}: {where}: {first['msg']}", hint="the API is described at /docs"))

    def other(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        made = NotFound if error.status_code == 404 else InvalidRequest
        return tell(made(f"{request.method} {request.url.path}: {error.detail}", hint="the API is described at /docs"), error.status_code)

    def bug(request: Request, error: Exception) -> Response:
        return tell(VeniceError(f"{request.method} {request.url.path} failed inside the controller", hint="its trace is on stderr"), 500)

    handlers: list[tuple[type[Exception], Callable[[Request, Exception], Response]]] = [
        (VeniceError, venice),
        (RequestValidationError, invalid),
        (HTTPException, other),
        (Exception, bug),
    ]
    for cls, handler in handlers:
        app.add_exception_handler(cls, handler)
