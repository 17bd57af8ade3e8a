"""The files under docker/ against what they start: commands, settings, ports, versions. No Docker engine is needed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from venice.cli import app
from venice.clock import SystemClock
from venice.config import Settings
from venice.log.open import open_log
from venice.processes import worker_url
from venice.supervisor import STOP_S

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == COMPOSE["x-venice"]["image"]}
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, flags=re.MULTILINE)


def settings_of(environment: dict[str, str]) -> Settings:
    """The settings that the variables mean; a variable that is no setting is an error."""
    return Settings.model_validate({name.removeprefix("VENICE_").lower(): value for name, value in environment.items()})


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in instructions("ENV") for pair in line.split())


def test_it_is_kafka_controller_router_and_two_nodes() -> None:
    commands = sorted(" ".join(service.get("command", [])) for service in OURS.values())
    assert commands == ["", "run controller", "run node", "run node", "run router"]
    assert set(SERVICES) - set(OURS) == {"kafka"}


@pytest.mark.parametrize("name", [name for name, service in OURS.items() if "command" in service])
def test_commands_exist(name: str) -> None:
    result = CliRunner().invoke(app, [*OURS[name]["command"], "--help"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", OURS)
def test_services_find_each_other(name: str) -> None:
    settings = settings_of(image_environment() | OURS[name]["environment"])
    assert settings.log_url.startswith("kafka:")
    open_log(settings.log_url, SystemClock()).close()
    host, port = settings.log_url.removeprefix("kafka:").split(":")
    assert f"PLAINTEXT://{host}:{port}" == SERVICES[host]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"PLAINTEXT://:{port}" in SERVICES[host]["environment"]["KAFKA_LISTENERS"].split(",")
    for url, command in ((settings.controller_url, "controller"), (settings.router_url, "router")):
        port = url.rpartition(":")[2]
        assert url == f"http://{command}:{port}"
        assert SERVICES[command]["command"] == ["run", command]
        assert f"{port}:{port}" in SERVICES[command]["ports"]
    if OURS[name].get("command") == ["run", "node"]:
        assert (settings.node, settings.worker_host) == (name, name)


@pytest.mark.parametrize("name", [name for name, service in OURS.items() if "command" in service])
def test_processes_are_asked_where_they_listen_and_are_given_time_to_stop(name: str) -> None:
    settings = settings_of(image_environment() | OURS[name]["environment"])
    url = {"controller": f"{settings.controller_url}/api/v1/health", "router": f"{settings.router_url}/health"}
    (asked,) = re.findall(r"urlopen\('(.*)'\)", OURS[name]["healthcheck"]["test"][-1])
    assert asked == url.get(name, f"{worker_url(settings, 0)}/health")
    assert int(OURS[name]["stop_grace_period"].removesuffix("s")) > STOP_S
    assert OURS[name]["restart"] == "unless-stopped"


def test_the_image_is_built_once() -> None:
    assert [name for name, service in SERVICES.items() if "build" in service] == ["controller"]


@pytest.mark.parametrize("name", SERVICES)
def test_volumes_are_declared_and_lie_where_the_data_is(name: str) -> None:
    targets = dict(volume.split(":") for volume in SERVICES[name].get("volumes", []))
    assert set(targets) <= set(COMPOSE["volumes"])
    if name == "kafka":
        assert list(targets.values()) == [SERVICES[name]["environment"]["KAFKA_LOG_DIRS"]]
    else:
        settings = settings_of(image_environment())
        assert set(targets.values()) <= {str(settings.data), settings.blobs_url}


def test_the_controller_nodes_and_clients_share_the_blob_folder() -> None:
    with_blobs = {name for name, service in SERVICES.items() if any(volume.startswith("blobs:") for volume in service.get("volumes", []))}
    assert with_blobs == set(OURS) - {"router"}


def test_kafka_is_the_version_that_is_tested() -> None:
    pom = (ROOT / "docker" / "kafka" / "pom.xml").read_text()
    (version,) = re.findall(r"<kafka.version>(.*)</kafka.version>", pom)
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{version}"
    assert SERVICES["kafka"]["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_the_image_installs_what_there_is() -> None:
    for sources in instructions("COPY"):
        for source in sources.split()[:-1]:
            assert (ROOT / source).exists(), source
    (extra,) = re.findall(r'"\.\[(\w+)\]"', DOCKERFILE)
    assert extra in PROJECT["optional-dependencies"]
    (entry,) = instructions("ENTRYPOINT")
    assert json.loads(entry)[0] in PROJECT["scripts"]
    (base,) = instructions("FROM")
    assert base in ("python:3.11-slim", "python:3.12-slim"), "the versions that all extras work on"
    settings_of(image_environment())


@pytest.mark.parametrize(
    ("hidden", "advice"), [("java", "apt-get install openjdk-17-jre-headless"), ("jars", "python docker/kafka/broker.py fetch")]
)
def test_a_broker_that_cannot_start_says_what_is_missing(tmp_path: Path, hidden: str, advice: str) -> None:
    """One line, which is also what skipped tests show."""
    folder = tmp_path / "kafka"
    folder.mkdir()
    script = folder / "broker.py"
    script.write_text((ROOT / "docker" / "kafka" / "broker.py").read_text())
    path = tmp_path / "bin"
    path.mkdir()
    if hidden == "jars":
        (path / "java").write_text("#!/bin/sh\n")
        (path / "java").chmod(0o755)
    done = subprocess.run(
        [sys.executable, str(script), "start", str(tmp_path / "broker")],
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert advice in done.stderr
