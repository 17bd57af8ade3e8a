"""The wheel holds everything, under the names it is imported by; the pinned versions are versions of what we depend on."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from venice import supervisor
from venice.config import Settings
from venice.errors import NotFound

ROOT = Path(__file__).resolve().parent.parent.parent
PREFIXED = {"flows": "venice_flows", "schemas": "venice_schemas"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    source = tmp_path_factory.mktemp("source") / "venice"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("venice", *PREFIXED):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    built = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=source, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(source / built.stdout.split()[-1])


def test_every_module_and_schema_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    expected = {"venice/py.typed"}
    for folder in ("venice", *PREFIXED):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".avsc"):
                expected.add(f"{PREFIXED.get(folder, folder)}/{path.relative_to(ROOT / folder).as_posix()}")
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == expected


def test_the_wheel_names_its_license_its_command_and_its_light_dependencies(wheel: zipfile.ZipFile) -> None:
    info = {name.split("/", 1)[1]: wheel.read(name).decode() for name in wheel.namelist() if ".dist-info/" in name}
    assert "Apache License" in info["licenses/LICENSE"]
    assert "venice = venice.cli:main" in info["entry_points.txt"]
    required = [line for line in info["METADATA"].splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert sorted(line.split()[1] for line in required) == ["fastavro", "httptools", "numpy", "zstandard"]


def test_every_dependency_is_pinned_once_by_name_and_version_only() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    pinned = [line.partition("==")[0] for line in lines]
    assert len(pinned) == len(set(pinned))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(item for extra in project["optional-dependencies"].values() for item in extra)]
    names = {re.split(r"[\[;<>= ]", item)[0].lower().replace("_", "-") for item in wanted} - {"venice-data"}
    assert names <= set(pinned), f"not pinned: {sorted(names - set(pinned))}"


@pytest.mark.parametrize(
    ("version", "advice"), [((3, 12, 1), "pip install 'venice-data[all]'"), ((3, 14, 0), "into an environment of Python 3.12")]
)
def test_workers_without_their_engine_are_refused_at_once(
    version: tuple[int, int, int], advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for a worker that cannot come; on a Python that has no bytewax the message says which one has."""
    monkeypatch.setitem(sys.modules, "bytewax", None)
    monkeypatch.setattr(supervisor, "sys", SimpleNamespace(version_info=version, executable=sys.executable))
    settings = Settings(data=tmp_path)
    with pytest.raises(NotFound) as of_node:
        supervisor.run_node(settings)
    with pytest.raises(NotFound) as of_cluster:
        supervisor.Cluster(settings).start()
    assert advice in of_node.value.hint == of_cluster.value.hint
    assert list(tmp_path.iterdir()) == []
