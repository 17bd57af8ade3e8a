"""`venice put --stdin` takes each type as `venice get` prints it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from producer_kit import make_site

from venice import cli
from venice.cli_output import EXIT_CODES
from venice.clock import SystemClock
from venice.log.open import open_log
from venice.schema.codec import Codec
from venice.schema.json_values import to_json

PLAIN = '{"type": "record", "name": "P", "fields": [{"name": "next", "type": ["null", "P"]}, {"name": "on", "type": "boolean"}]}'
CASES: list[tuple[str, list[Any], list[Any]]] = [
    ("long", [1, -5], ["1", 1.5, True, None]),
    ("string", ["", "ä"], [1, None]),
    ("boolean", [True, False], [0, "true"]),
    ("double", [1, 1.5, "NaN", "-Infinity"], ["1", True]),
    ("bytes", ["AAE="], ["!", 1]),
    (PLAIN, [{"next": {"next": None, "on": True}, "on": False}], [{"next": None, "on": 1}, {"next": None, "on": True, "off": 1}]),
    ('{"type": "array", "items": {"type": "enum", "name": "E", "symbols": ["A", "B"]}}', [[], ["A", "B"]], [["C"], "A"]),
    ('{"type": "map", "values": ["null", "long"]}', [{}, {"a": 1, "b": None}], [{"a": "b"}, []]),
    ('{"type": "long", "logicalType": "timestamp-millis"}', ["2024-05-06T07:08:09+00:00"], [1, "yesterday"]),
]


@pytest.mark.parametrize(("schema", "good", "bad"), CASES, ids=[case[0][:30] for case in CASES])
def test_values_are_taken_as_they_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], schema: str, good: list[Any], bad: list[Any]
) -> None:
    url = f"sqlite:{tmp_path / 'log'}"
    log = open_log(url, SystemClock())
    schema = schema if schema.startswith("{") else json.dumps(schema)
    site = make_site(log, url, partitions=1, value_schema=schema)
    monkeypatch.setenv("VENICE_LOG", url)

    def put(values: list[Any]) -> int:
        lines = "".join(json.dumps({"key": "k", "value": value}) + "\n" for value in values)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
        return cli.run(["put", site.store.name, "--stdin", "--json"])

    assert put(good) == 0
    assert json.loads(capsys.readouterr().out)["written"] == len(good)
    decode = Codec(schema).decode
    assert [to_json(decode(record.value)) for record in site.records()] == good
    for value in bad:
        assert put([value]) == EXIT_CODES["invalid_request"]
        assert json.loads(capsys.readouterr().err)["data"]["line"] == 1
    assert len(site.records()) == len(good)
    log.close()
