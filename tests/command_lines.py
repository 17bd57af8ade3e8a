"""What a command line of `venice` ended with, and a value schema to try commands with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

CITY = json.dumps(
    {"type": "record", "name": "City", "fields": [{"name": "country", "type": "string"}, {"name": "inhabitants", "type": "long"}]}
)


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended; `json`, `events` and `error` read what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def events(self) -> list[Any]:
        assert self.code == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> Any:
        assert self.out == "", self.out
        return json.loads(self.err)
