"""Quota, backups and superset of a store from the command line, through the API, to the catalog and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served_controller import Served

from venice import cli
from venice.cli_store_settings import quota_of
from venice.errors import InvalidRequest
from venice.model import UNLIMITED, BackupStrategy, StoreConfig

ONE = '{"type":"record","name":"R","fields":[{"name":"a","type":"long"},{"name":"b","type":"long","default":0}]}'
TWO = '{"type":"record","name":"R","fields":[{"name":"a","type":"long"},{"name":"c","type":"long","default":0}]}'


@pytest.fixture
def served(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Served]:
    running = Served(tmp_path, free_port())
    yield running
    running.close()


def test_settings_by_command(served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VENICE_CONTROLLER_URL", served.url)

    def venice(*arguments: str) -> tuple[int, str]:
        code = cli.run(list(arguments))
        out, err = capsys.readouterr()
        return code, out + err

    def config() -> StoreConfig:
        return served.controller.get_store("s").config

    options = ("--storage-quota", "20GB", "--backup-retention", "3600", "--backup-strategy", "keep-min-versions", "--superset")
    assert venice("store", "create", "s", "--key", "long", "--value", ONE, *options)[0] == 0
    wanted = StoreConfig(
        storage_quota_bytes=20 * 10**9, backup_retention_s=3600, backup_strategy=BackupStrategy.KEEP_MIN_VERSIONS, superset_schema=True
    )
    assert config() == wanted
    assert venice("schema", "add", "s", TWO)[0] == 0
    told = venice("store", "describe", "s")[1]
    assert "storage quota 20.0 GB; a backup goes when one is swapped in, or 3,600 s after a swap" in told
    assert "value schemas: 1, 2, 3; 3 is the superset of all" in told
    assert "superset" in venice("schema", "list", "s")[1]
    assert json.loads(venice("store", "describe", "s", "--json")[1])["superset_schema_id"] == 3
    assert venice("store", "update", "s", "--storage-quota", "unlimited", "--no-superset", "--backup-retention", "0")[0] == 0
    assert (config().storage_quota_bytes, config().superset_schema, config().backup_retention_s) == (UNLIMITED, False, 0)
    assert "storage quota unlimited" in venice("store", "describe", "s")[1]
    code, said = venice("store", "update", "s", "--storage-quota", "much")
    assert (code, "'much' is no size" in said) == (3, True)
    code, said = venice("store", "update", "s", "--backup-strategy", "never")
    assert (code, "backup_strategy" in said, "keep-min-versions" in said) == (3, True, True)


def test_sizes() -> None:
    sizes = {"0": 0, "500": 500, "500B": 500, "1.5kB": 1500, "20 gb": 20 * 10**9, "2GiB": 2 << 30, "1T": 10**12, "Unlimited": UNLIMITED}
    assert {text: quota_of(text) for text in sizes} == sizes
    for wrong in ("", "-1", "GB", "5 X", "1e3"):
        with pytest.raises(InvalidRequest):
            quota_of(wrong)
