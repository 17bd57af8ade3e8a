"""A node as if on a machine of its own: started by itself, and killed with all its workers for as long as the test likes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from test_supervisor import alive, children
from waiting import eventually

from venice.config import Settings, environment
from venice.processes import worker_id, worker_url
from venice.supervisor import healthy


class Machine:
    """`venice run node`, in the folder of `settings`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def worker(self) -> str:
        """Its first worker."""
        return worker_id(self.settings, 0)

    def start(self) -> None:
        """Start it, and wait until its workers answer."""
        self.settings.data.mkdir(parents=True, exist_ok=True)
        with (self.settings.data / "node.log").open("ab") as output:
            command = [sys.executable, "-m", "venice.cli", "run", "node"]
            self._process = subprocess.Popen(
                command, env=environment(self.settings), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        urls = [f"{worker_url(self.settings, index)}/health" for index in range(self.settings.workers)]
        eventually(lambda: all(map(healthy, urls)), lambda: f"{self.settings.node} does not answer", timeout_s=60)

    def kill(self) -> None:
        """SIGKILL all of it, the supervisor first: nothing is started again, nothing ends in order."""
        if self._process is None:
            return
        victims = [self._process.pid, *children(self._process.pid)]
        os.kill(victims[0], signal.SIGSTOP)
        for pid in reversed(victims):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        eventually(lambda: not any(map(alive, victims)), lambda: victims, timeout_s=60)

    def incarnations(self) -> dict[str, str]:
        """Replica → the name of its directory, of which no two are alike."""
        found = sorted(self.settings.replicas.glob(f"{self.worker}/*/*"))
        return {path.parent.name: path.name for path in found if not path.name.startswith(".")}


def replica_files(machine: Machine) -> list[Path]:
    """Folders of replicas on it, whole or not."""
    return list(machine.settings.replicas.glob(f"{machine.worker}/*"))
