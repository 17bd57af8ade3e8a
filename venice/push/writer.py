"""The second half of a push: each partition's runs are merged into its sorted file.

Write path: read → encode → partition → sort → **seal**. `SstFileWriter` holds the interpreter for every row, so the work is
shared between processes, not threads. They are plain child processes that are sent pickled jobs: unlike a process pool they
neither import the caller's main module again nor outlive a caller that is killed.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from threading import Event
from typing import IO, BinaryIO, Final, NamedTuple

from venice.errors import Unavailable, VeniceError
from venice.push.duplicates import Conflicts, DuplicatePolicy
from venice.push.memory import freed_memory_kept
from venice.push.merge import merge
from venice.push.runs import Block
from venice.storage.snapshot import FileKind, PartitionFile, PartitionWriter, file_name

# Not `-m venice.push.writer`: the module would be `__main__` there, and its pickled classes strangers here. Nothing a child
# does forms cycles, but it makes lists of ten thousands of rows all the time. And NumPy would start threads for linear algebra,
# which spin for a while before they sleep.
_START: Final = """
import gc, os
gc.disable()
os.environ["OPENBLAS_NUM_THREADS"] = "1"
from venice.push.writer import main
main()
"""
_CHILD: Final = (sys.executable, "-c", _START)
_STEP_BYTES: Final = 4 << 20
"""Least that is written between two messages about it: each wakes the process that gets it."""


class Work(NamedTuple):
    """What is the same for all partitions."""

    folder: Path
    policy: DuplicatePolicy
    kind: FileKind = FileKind.VALUES


class Job(NamedTuple):
    """One partition."""

    partition: int
    blocks: list[Block]


class Step(NamedTuple):
    """Said while a partition is written: rows and bytes since the last one."""

    rows: int
    bytes: int


class Written(NamedTuple):
    """A finished partition."""

    file: PartitionFile
    duplicates: int
    conflicts: Conflicts = Conflicts()


class Failed(NamedTuple):
    """A partition that could not be written."""

    error: VeniceError


def write_partition(work: Work, job: Job, said: Callable[[Step], None]) -> Written:
    """Merge the runs of a partition that has rows into its file.

    Raises:
        Full: The disk is full.
    """
    writer = PartitionWriter(work.folder / file_name(job.partition, work.kind))
    duplicates, conflicts, step = 0, Conflicts(), Step(0, 0)
    for rows in merge(job.blocks, work.policy):
        writer.put_all(rows.keys, rows.values)
        duplicates += rows.duplicates
        conflicts = conflicts.plus(rows.conflicts)
        step = Step(step.rows + len(rows.keys), step.bytes + rows.bytes)
        if step.bytes >= _STEP_BYTES:
            said(step)
            step = Step(0, 0)
    said(step)
    return Written(writer.finish(job.partition, work.kind), duplicates, conflicts)


class Writers:
    """Lanes that write the partitions of a push.

    Args:
        work: What is the same for all partitions.
        processes: Child processes to share the work between; 0 = write in this one.
        descriptors: Of the runs' files; the children inherit them.
        count: Told rows and bytes as they are written, by any lane.
        done: Told of each partition that is written, by any lane.
    """

    def __init__(
        self,
        work: Work,
        *,
        processes: int,
        descriptors: Sequence[int],
        count: Callable[[int, int], None],
        done: Callable[[int], None],
    ) -> None:
        self._work = work
        self._count = count
        self._done = done
        self._jobs: Queue[Job] = Queue()
        self._stopped = Event()
        self.written: list[Written] = []
        self._children = [_start(descriptors) for _ in range(processes)]

    def lanes(self, jobs: Sequence[Job]) -> list[Callable[[], None]]:
        """One function per thread; each returns when all jobs, taken in their order, are done."""
        for job in jobs:
            self._jobs.put(job)
        if not self._children:
            return [self._lane_here]
        return [partial(self._lane_child, child) for child in self._children]

    def stop(self) -> None:
        """End the lanes soon, half-written partitions or not; from any thread."""
        self._stopped.set()
        for child in self._children:
            child.kill()

    def close(self) -> None:
        """End the child processes."""
        for child in self._children:
            stdin, stdout = _pipes(child)
            with suppress(BrokenPipeError):  # It has ended already.
                stdin.close()
            stdout.close()
            child.wait()

    def _lane_here(self) -> None:
        def said(step: Step) -> None:
            if self._stopped.is_set():
                raise Unavailable("the push was stopped", hint="push again")
            self._count(*step)

        while not self._stopped.is_set() and (job := self._next()) is not None:
            self._add(write_partition(self._work, job, said))

    def _lane_child(self, child: subprocess.Popen[bytes]) -> None:
        stdin, stdout = _pipes(child)
        while not self._stopped.is_set() and (job := self._next()) is not None:
            try:
                pickle.dump((self._work, job), stdin, pickle.HIGHEST_PROTOCOL)
                stdin.flush()
                while isinstance(answer := pickle.load(stdout), Step):
                    self._count(*answer)
            except (OSError, EOFError, pickle.UnpicklingError) as error:
                if self._stopped.is_set():
                    return
                raise Unavailable(
                    f"a writing process of the push ended with code {child.wait()}", hint="see its last words above, and push again"
                ) from error
            if isinstance(answer, Failed):
                raise answer.error
            self._add(answer)

    def _add(self, written: Written) -> None:
        self.written.append(written)
        self._done(written.file.partition)

    def _next(self) -> Job | None:
        try:
            return self._jobs.get_nowait()
        except Empty:
            return None


def _start(descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(_CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=descriptors)


def _pipes(child: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert child.stdin is not None
    assert child.stdout is not None
    return child.stdin, child.stdout


def serve(source: BinaryIO, sink: BinaryIO, parent: int) -> None:
    """Do the jobs that come from `source` until it ends or the parent process is gone."""

    def say(message: Step | Written | Failed) -> None:
        if os.getppid() != parent:
            raise EOFError("the push is gone")
        pickle.dump(message, sink, pickle.HIGHEST_PROTOCOL)
        sink.flush()

    while True:
        try:
            work, job = pickle.load(source)
            try:
                say(write_partition(work, job, say))
            except VeniceError as error:
                say(Failed(error))
        except (EOFError, BrokenPipeError):
            return


def main() -> None:
    """The child process: stdout carries answers, so that whatever prints is sent to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with freed_memory_kept():
        serve(sys.stdin.buffer, answers, os.getppid())
