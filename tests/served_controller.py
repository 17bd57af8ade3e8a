"""A controller behind its API, in the process of the test."""

from __future__ import annotations

import json
import threading
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from typing import Any

import uvicorn
from control_kit import make_policy
from waiting import eventually

from venice.clock import SystemClock
from venice.control.api import build_app
from venice.control.controller import Controller
from venice.control.remote import ControllerClient
from venice.log.sqlite import SqliteLog

CLOCK = SystemClock()


class Served:
    """A controller behind its API in this process."""

    def __init__(self, folder: Path, port: int) -> None:
        self.log = SqliteLog(folder / "log", CLOCK)
        self.controller = Controller(self.log, CLOCK, make_policy(folder), rng=Random(1))
        self.controller.start()
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        config = uvicorn.Config(build_app(self.controller), host="127.0.0.1", port=port, log_level="critical", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        eventually(lambda: self._server.started, timeout_s=20)
        self.client = ControllerClient(self.url, CLOCK, retry_s=5)

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, json.loads(answer) if answer else None

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.controller.close()
        self.log.close()
