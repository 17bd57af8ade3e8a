"""Settings: read once, at the edge, from `venice.toml` and `VENICE_*` environment variables (these win)."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from venice.errors import InvalidRequest, NotFound

SETTINGS_FILE = "venice.toml"
BROKER_VARIABLE = "VENICE_TEST_KAFKA"
"""Environment variable that names a running Kafka broker, HOST:PORT, for tests and for the quickstart."""


class Flow(BaseModel):
    """A dataflow of a user that a node runs beside its workers: one `[[flows]]` table of the settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="Its name in logs and in the data folder.")
    target: str = Field(pattern=r"^[\w.]+:\w+$", description="MODULE:BUILD, a function (settings, worker) -> Dataflow.")
    workers: int = Field(1, ge=1, le=256, description="Bytewax workers, the threads of its one process.")
    folder: Path = Field(Path("."), description="Where it runs and its module is found, if that is not installed.")
    recovery: bool = Field(True, description="Keep its state in the data folder and go on from there.")
    snapshot_s: float = Field(10.0, ge=0, description="Seconds between two snapshots of that state.")


class Settings(BaseSettings):
    """Where everything is. Cluster-wide ones must agree in every process; those of a node may differ.

    A relative path is relative to the settings file (to the working folder without one).
    """

    model_config = SettingsConfigDict(env_prefix="VENICE_", extra="forbid", frozen=True)

    # Cluster-wide.
    cluster: str = Field("venice", description="Name shown in messages.")
    region: str = Field("local", description="This region's name.")
    log: str = Field("", description="sqlite:FOLDER or kafka:HOST:PORT; default: sqlite in the data folder.")
    blobs: str = Field("", description="Folder or URL that holds sealed snapshots; default: in the data folder.")
    controller_url: str = Field("http://127.0.0.1:7070", description="Where the controller listens and is found.")
    router_url: str = Field("http://127.0.0.1:7071", description="Where the router listens and is found.")

    # Of this node.
    data: Path = Field(Path("venice-data"), description="Folder of everything this machine stores.")
    node: str = Field("node-1", description="This node's name.")
    workers: int = Field(1, ge=1, le=256, description="Worker processes of this node.")
    worker_host: str = Field("127.0.0.1", description="Address the workers listen on and are found at.")
    worker_port: int = Field(7100, ge=1, le=65535, description="Port of the first worker; the others follow it.")
    rebalance_delay_s: float = Field(
        30.0, ge=2, description="A worker silent for so long is lost: its replicas are made anew on other nodes. The controller's."
    )
    retire_grace_s: float = Field(5.0, ge=0, description="How long a retired version stays open for reads under way.")
    push_lease_s: float = Field(15.0, gt=0, description="A push silent for so long is taken for dead.")
    cleanup_delay_s: float = Field(0.0, ge=0, description="A push that would delete a backup is refused for so long after a swap.")
    heartbeat_s: float = Field(
        30.0, gt=0, description="Seconds between the heartbeats of a partition that is not written to, at most; others beat each second."
    )
    checkpoint_records: int = Field(
        100_000,
        ge=0,
        description="A partition of a hybrid store has a checkpoint after so many records, or as many as it has rows; 0: none.",
    )
    checkpoint_s: float = Field(600.0, ge=0, description="Seconds between two checkpoints of a partition at least.")
    topic_margin_s: float = Field(3600.0, ge=0, description="Topics keep what is younger, also where checkpoints hold it.")
    log_json: bool = Field(False, description="Processes log JSON objects, one a line, instead of plain text.")

    flows: tuple[Flow, ...] = Field((), description="Dataflows of your own that this node runs; see docs/write-a-dataflow.md.")

    @field_validator("flows")
    @classmethod
    def _named_once(cls, flows: tuple[Flow, ...]) -> tuple[Flow, ...]:
        names = [flow.name for flow in flows]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{twice[0]!r} is the name of two flows")
        return flows

    @property
    def log_url(self) -> str:
        return self.log or f"sqlite:{self.data / 'log'}"

    @property
    def blobs_url(self) -> str:
        return self.blobs or str(self.data / "blobs")

    @property
    def replicas(self) -> Path:
        """Folder below which workers keep their replicas."""
        return self.data / "replicas"


def load(path: Path | str | None = None, **overrides: Any) -> Settings:
    """Settings from a file, the environment and `overrides` (strongest last).

    Without `path`, `venice.toml` of the working folder is read if it is there.

    Raises:
        NotFound: `path` was given and is not a file.
        InvalidRequest: Unknown or wrong setting; names it and its file.
    """
    file = Path(path) if path is not None else Path(SETTINGS_FILE)
    values: dict[str, Any] = {}
    if file.is_file():
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"{file} is not valid TOML: {error}", hint="mend the line it names") from error
    elif path is not None:
        raise NotFound(f"no settings file at {file}", hint="'venice init' writes one")
    try:
        from_environment = Settings().model_dump(exclude_unset=True)
        settings = Settings(**{**values, **from_environment, **overrides})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        said = "there is no such setting" if first["type"] == "extra_forbidden" else first["msg"]
        raise InvalidRequest(
            f"setting {name!r} ({file if file.is_file() else 'environment'}): {said}",
            hint="the settings and their meanings are listed in docs/operating.md",
        ) from error
    base = file.resolve().parent if file.is_file() else Path.cwd()
    flows = tuple(flow.model_copy(update={"folder": (base / flow.folder).resolve()}) for flow in settings.flows)
    return settings.model_copy(update={"data": (base / settings.data).resolve(), "flows": flows, **_absolute_urls(settings, base)})


def environment(settings: Settings) -> dict[str, str]:
    """This process's environment with `settings` in it: what a child process needs to `load` the same ones."""
    values = settings.model_dump(mode="json").items()
    return {**os.environ, **{f"VENICE_{name.upper()}": value if isinstance(value, str) else json.dumps(value) for name, value in values}}


def without_linear_algebra() -> None:
    """To be called before NumPy is imported: it starts threads for linear algebra, which spin for a while before they sleep."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def named_broker() -> str | None:
    """What `BROKER_VARIABLE` says: the broker that tests and the quickstart use instead of starting one."""
    return os.environ.get(BROKER_VARIABLE) or None


def _absolute_urls(settings: Settings, base: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    if settings.log.startswith("sqlite:"):
        found["log"] = f"sqlite:{(base / settings.log.removeprefix('sqlite:')).resolve()}"
    if settings.blobs and "://" not in settings.blobs:
        found["blobs"] = str((base / settings.blobs).resolve())
    return found
