"""A real PostgreSQL server for a test module: Debian's, in a folder of its own, on a free port, as a user without rights."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

USER, PASSWORD = "venice", "pa$$ word/1"


@dataclass(frozen=True)
class Postgres:
    """A running server with one database, `postgres`."""

    port: int
    programs: Path

    def url(self, password: str = "pa%24%24%20word%2F1", database: str = "postgres") -> str:
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def run(self, sql: str) -> None:
        command = [str(self.programs / "psql"), "-qX", "-v", "ON_ERROR_STOP=1", self.url()]
        done = subprocess.run(command, input=sql.encode(), capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()


def is_here() -> bool:
    """Whether there is one, or has to be."""
    return _programs() is not None or bool(os.environ.get("CI"))


def _programs() -> Path | None:
    # Debian keeps the server's programs off PATH, one folder per release.
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    named = shutil.which("initdb")
    return found[-1].parent if found else Path(named).parent if named else None


@contextmanager
def postgres(free_port: Callable[..., int]) -> Iterator[Postgres]:
    """The server, until the block ends; a test without one is skipped, and in CI fails."""
    programs = _programs()
    if programs is None:
        said = "no PostgreSQL here: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(said)
        pytest.skip(said)  # not every developer has it
    user = "nobody" if os.geteuid() == 0 else None  # The server refuses to run as root.
    # Not below pytest's folder, which that user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="venice-postgres-"))
    data, secret, port = folder / "data", folder / "password", free_port()
    secret.write_text(PASSWORD)
    if user is not None:
        for path in (folder, secret):
            shutil.chown(path, user)

    def run(*command: str) -> None:
        # Into a file: a pipe would stay open as long as the server runs.
        with (folder / "said").open("ab") as said:
            done = subprocess.run(
                command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, cwd=folder, timeout=300, user=user, check=False
            )
        assert done.returncode == 0, (folder / "said").read_text()

    control = [str(programs / "pg_ctl"), "-D", str(data), "-w", "-t", "250"]
    try:
        run(str(programs / "initdb"), "-D", str(data), "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync", "-E", "UTF8")
        run(*control, "-l", str(folder / "log"), "-o", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off", "start")
        try:
            yield Postgres(port, programs)
        finally:
            run(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
