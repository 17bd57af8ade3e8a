"""Pushes from other sources, with columns chosen on the command line, into a running cluster; read by a client."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest

from venice import cli
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import environment
from venice.control.remote import ControllerClient
from venice.errors import Incompatible, InvalidRequest, NotFound
from venice.push.batch import push
from venice.supervisor import Cluster

VALUE = json.dumps({"type": "record", "name": "Row", "fields": [{"name": "name", "type": "string"}]})


def test_tables_avro_and_schemas(
    tmp_path: Path, start_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = start_cluster(1).settings
    client = ControllerClient(settings.controller_url, SystemClock())
    client.create_store("rows", key_schema='"long"', value_schema=VALUE)
    with sqlite3.connect(tmp_path / "a.sqlite") as made:
        made.execute("CREATE TABLE people (id INTEGER, title TEXT, seen INTEGER)")
        made.execute("INSERT INTO people VALUES (1, 'Ada', 1700000000000), (2, 'Grace', NULL)")
    made.close()
    for name, value in environment(settings).items():
        if name.startswith("VENICE_"):
            monkeypatch.setenv(name, value)
    shape = ["--key-field", "id", "--rename", "name=title", "--timestamp-field", "seen"]
    assert cli.run(["push", "rows", "--input", str(tmp_path / "a.sqlite"), "--table", "people", *shape]) == 0, capsys.readouterr().err
    with ThinClient(settings.router_url, "rows") as thin:
        assert thin.batch_get([1, 2]) == {1: {"name": "Ada"}, 2: {"name": "Grace"}}
        fields: list[dict[str, Any]] = [
            {"name": "key", "type": "long"},
            {"name": "name", "type": "string"},
            {"name": "born", "type": "int"},
        ]
        fields.append({"name": "tags", "type": {"type": "array", "items": "string"}, "default": []})
        schema = {"type": "record", "name": "Row", "fields": fields}
        with (tmp_path / "part-0.avro").open("wb") as file:
            fastavro.writer(file, schema, [{"key": 3, "name": "Joan", "born": 1917, "tags": ["a"]}])
        source = tmp_path / "part-0.avro"
        push(settings, "rows", inputs=source, register_schema=True, dry_run=True)
        assert len(client.list_schemas("rows")) == 1
        assert push(settings, "rows", inputs=source, register_schema=True).version == 2
        assert thin.get(3) == {"name": "Joan", "born": 1917, "tags": ["a"]}
        push(settings, "rows", inputs=source, register_schema=True)
        assert len(client.list_schemas("rows")) == 2, "it has all columns now"
        push(settings, "rows", inputs=source, value_schema=1)
        assert client.get_store("rows").versions[-1].value_schema_id == 1
    with pytest.raises(NotFound, match=r"store 'rows' has no value schema 7 \(it has 1, 2\)"):
        push(settings, "rows", inputs=source, value_schema=7)
    with pytest.raises(InvalidRequest, match="leave one of the two out"):
        push(settings, "rows", inputs=source, value_schema=1, register_schema=True)
    with pytest.raises((Incompatible, InvalidRequest), match="name"):
        push(settings, "rows", sql="SELECT 1 AS key, 5 AS name, 7 AS more", register_schema=True)
    assert len(client.list_schemas("rows")) == 2, "nothing is registered for an input that does not fit"
    capsys.readouterr()
    assert cli.run(["push", "rows", "--sql", "SELECT 1 AS key", "--rename", "name"]) != 0
    assert "--rename name names no field and column" in capsys.readouterr().err
