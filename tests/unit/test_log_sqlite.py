"""The embedded log where it differs from others: its files, damage to them, full disks, forks, the doorbell, its clock."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import pytest

from venice.clock import Clock, ManualClock, SystemClock
from venice.errors import Corrupt, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.log.open import open_log
from venice.log.sqlite import SqliteLog
from venice.log.sqlite_file import DELETE_ROWS
from venice.log.sqlite_reader import CHECK_ALL_S, POLL_BYTES_MAX


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def log(folder: Path, clock: ManualClock) -> Iterator[SqliteLog]:
    log = SqliteLog(folder, clock)
    yield log
    log.close()


def file_of(folder: Path, topic: str) -> Path:
    (path,) = folder.glob(f"{topic}@*.db")
    return path


def outcome(call: Callable[[], Any]) -> type[BaseException] | None:
    try:
        call()
    except VeniceError as error:
        return type(error)
    return None


# URLs and settings


def test_a_sqlite_url_opens_the_folder(folder: Path) -> None:
    log = open_log(f"sqlite:{folder}", SystemClock())
    log.create_topic("t", 1)
    log.close()
    assert (folder / "topics.db").exists()


@pytest.mark.parametrize("url", ["", "sqlite", "sqlite:", "postgres:x", "/some/folder", "kafka", "kafka:"])
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="names no log"):
        open_log(url, SystemClock())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequest, match="file/log"):
        SqliteLog(tmp_path / "file" / "log", SystemClock())


def test_a_topic_that_is_not_there_is_told_with_where_to_look(log: SqliteLog) -> None:
    with pytest.raises(NotFound, match="there is no topic 'nowhere'") as caught:
        log.end_offset("nowhere", 0)
    assert "'venice inspect topic'" in caught.value.hint


def test_topic_ids_come_from_the_given_source(folder: Path, clock: ManualClock) -> None:
    ids = iter(["seed", "first", "second"])
    log = SqliteLog(folder, clock, new_id=lambda: next(ids))
    assert [log.create_topic("a", 1), log.create_topic("b", 1)] == ["first", "second"]
    log.close()


# Time


def test_timestamps_never_go_back_when_the_clock_does(folder: Path) -> None:
    late, early = ManualClock(now_ms=2000), ManualClock(now_ms=1000)
    first, second = SqliteLog(folder, late), SqliteLog(folder, early)
    first.create_topic("t", 1)
    first.append("t", 0, [b"a"])
    second.append("t", 0, [b"b"])
    late.advance(1)
    first.append("t", 0, [b"c"])
    assert [entry.timestamp_ms for entry in first.reader({("t", 0): 0}).poll()] == [2000, 2000, 3000]
    assert [first.offset_for_time("t", 0, at) for at in (0, 2000, 2001, 3000, 3001)] == [0, 0, 2, 2, 3]
    first.close()
    second.close()


def test_waiting_takes_the_clock_s_time(log: SqliteLog, clock: ManualClock) -> None:
    log.create_topic("t", 1)
    before = clock.monotonic_s()
    assert log.reader({("t", 0): 0}).poll(timeout_s=3600) == []
    assert clock.monotonic_s() - before == pytest.approx(3600, abs=0.1)


# The doorbell


class RingingClock(ManualClock):
    """Does something each time somebody sleeps."""

    def __init__(self, on_sleep: Callable[[], Any]) -> None:
        super().__init__()
        self.on_sleep = on_sleep
        self.sleeps = 0

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.sleeps += 1
        self.on_sleep()


def test_a_reader_hears_an_append_at_its_next_look(folder: Path, log: SqliteLog) -> None:
    log.create_topic("t", 1)
    clock = RingingClock(lambda: log.append("t", 0, [b"x"]))
    reader = SqliteLog(folder, clock).reader({("t", 0): 0})
    assert len(reader.poll(timeout_s=60)) == 1
    assert clock.sleeps == 1


def test_a_lost_ring_only_delays(folder: Path, log: SqliteLog) -> None:
    """As after a SIGKILL between commit and ring: nothing tells the reader, it looks by itself."""
    log.create_topic("t", 1)
    clock = ManualClock()
    reader = SqliteLog(folder, clock).reader({("t", 0): 0})
    assert reader.poll() == []
    (folder / "doorbell").unlink()
    deaf = SqliteLog(folder, clock)
    deaf.append("t", 0, [b"x"])
    before = clock.monotonic_s()
    assert [entry.payload for entry in reader.poll(timeout_s=60)] == [b"x"]
    assert clock.monotonic_s() - before <= CHECK_ALL_S + 0.1
    deaf.close()


def test_a_ring_for_another_topic_disturbs_nobody(folder: Path, log: SqliteLog) -> None:
    log.create_topic("t", 1)
    log.create_topic("other", 1)
    clock = RingingClock(lambda: log.append("other", 0, [b"x"]))
    reader = SqliteLog(folder, clock).reader({("t", 0): 0})
    assert reader.poll(timeout_s=1) == []


class WatchfulClock(SystemClock):
    """Tells when somebody waits for a descriptor, and counts how often anybody slept."""

    def __init__(self) -> None:
        self.waiting = threading.Event()
        self.sleeps = 0

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        super().sleep(seconds)

    def wait_readable(self, descriptor: int, seconds: float) -> bool:
        self.waiting.set()
        return super().wait_readable(descriptor, seconds)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux wakes who waits for a file")
def test_in_a_silence_the_bell_wakes_a_reader(folder: Path, log: SqliteLog) -> None:
    log.create_topic("t", 1)
    clock = WatchfulClock()
    patient = SqliteLog(folder, clock)
    reader = patient.reader({("t", 0): 0})
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(reader.poll, timeout_s=60)
        assert clock.waiting.wait(30)
        slept = clock.sleeps
        log.append("t", 0, [b"x"])
        assert [entry.payload for entry in found.result()] == [b"x"]
        assert clock.sleeps == slept, "it was woken, it did not look around"
    patient.close()


# Large things


def test_a_poll_of_large_records_stops_before_it_fills_the_memory(log: SqliteLog) -> None:
    log.create_topic("t", 2)
    payload = bytes(POLL_BYTES_MAX // 4)
    for partition in (0, 1):
        log.append("t", partition, [payload] * 6)
    reader = log.reader({("t", 0): 0, ("t", 1): 0})
    sizes = [len(reader.poll()) for _ in range(3)]
    assert max(sizes) <= 5
    assert sum(sizes) == 12


def test_a_long_prefix_is_deleted_whole(folder: Path, log: SqliteLog) -> None:
    count = 2 * DELETE_ROWS + 10
    log.create_topic("t", 2)
    for partition in (0, 1):
        log.append("t", partition, [b"x"] * count)
    log.delete_prefix("t", 0, count - 1)
    db = apsw.Connection(str(file_of(folder, "t")))
    assert db.execute("SELECT count(*) FROM record").fetchone() == (count + 1,)
    db.close()


# Damage


def test_an_index_of_garbage_is_named(folder: Path) -> None:
    folder.mkdir()
    (folder / "topics.db").write_bytes(os.urandom(5000))
    with pytest.raises(Corrupt, match=r"topics\.db"):
        SqliteLog(folder, SystemClock())


@pytest.mark.parametrize("damage", ["garbage", "empty", "truncated", "another database"])
def test_a_damaged_topic_is_named_and_can_be_deleted(folder: Path, damage: str) -> None:
    log = SqliteLog(folder, SystemClock())
    log.create_topic("t", 2)
    log.append("t", 0, [os.urandom(1000) for _ in range(500)])
    log.close()
    path = file_of(folder, "t")
    assert not Path(f"{path}-wal").exists(), "the last to close leaves one file"
    match damage:
        case "garbage":
            path.write_bytes(os.urandom(100_000))
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            os.truncate(path, path.stat().st_size // 2)
        case _:
            path.unlink()
            other = apsw.Connection(str(path))
            other.execute("CREATE TABLE partition (number)")
            other.close()
    again = SqliteLog(folder, SystemClock())

    def read_all() -> None:
        reader = again.reader({("t", 0): 0})
        try:
            while reader.poll():
                pass
        finally:
            reader.close()

    with pytest.raises(Corrupt, match=path.name):
        read_all()
    again.delete_topic("t")
    assert again.topics() == []
    assert list(folder.glob("t@*")) == []
    again.create_topic("t", 1)
    again.append("t", 0, [b"x"])
    again.close()


def test_a_missing_file_is_named(folder: Path, log: SqliteLog) -> None:
    log.create_topic("t", 1)
    path = file_of(folder, "t")
    path.unlink()
    with pytest.raises(Corrupt, match=path.name):
        log.append("t", 0, [b"x"])
    log.delete_topic("t")
    with pytest.raises(NotFound):
        log.append("t", 0, [b"x"])


def test_a_hole_is_never_skipped(folder: Path, log: SqliteLog) -> None:
    log.create_topic("t", 1)
    log.append("t", 0, [b"a", b"b", b"c"])
    db = apsw.Connection(str(file_of(folder, "t")))
    db.execute("DELETE FROM record WHERE id = 1")
    reader = log.reader({("t", 0): 0})
    with pytest.raises(Corrupt, match="offset 0"):
        reader.poll()
    db.execute("DELETE FROM record")
    with pytest.raises(Corrupt, match="offset 0"):
        reader.poll()
    assert reader.position("t", 0) == 0
    db.close()


def test_the_format_of_a_newer_version_is_refused_by_name(folder: Path, log: SqliteLog) -> None:
    log.create_topic("t", 1)
    db = apsw.Connection(str(file_of(folder, "t")))
    db.pragma("user_version", 7)
    db.close()
    with pytest.raises(InvalidRequest, match="format version 7"):
        log.append("t", 0, [b"x"])


def test_an_error_in_one_topic_does_not_hold_back_the_others(folder: Path, log: SqliteLog) -> None:
    for topic in ("a", "b", "c"):
        log.create_topic(topic, 1)
    reader = log.reader({("a", 0): 0, ("b", 0): 0, ("c", 0): 0})
    log.delete_topic("b")
    log.append("a", 0, [b"a"])
    log.append("c", 0, [b"c"])
    seen: list[bytes] = []
    errors: list[dict[str, Any]] = []
    for _ in range(6):
        try:
            seen += [entry.payload for entry in reader.poll()]
        except NotFound as error:
            errors.append(error.data)
    assert sorted(seen) == [b"a", b"c"]
    assert {"topic": "b"} in errors


# Full disks


FILL = """
import sys, resource, signal
from pathlib import Path
from venice.clock import SystemClock
from venice.errors import Full
from venice.log.sqlite import SqliteLog
log = SqliteLog(Path(sys.argv[1]), SystemClock())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
count = 0
try:
    while True:
        count = log.append("t", 0, [bytes(100_000)] * 3)[-1] + 1
except Full as error:
    assert "t@" in str(error), error
assert log.end_offset("t", 0) == count
try:
    log.create_topic("large", 10_000)
    while True:
        log.append("large", 0, [bytes(100_000)] * 3)
except Full:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert log.append("t", 0, [b"there is room again"]) == [count]
log.close()
print(count)
"""


def test_a_full_disk_is_named_and_nothing_is_half_done(folder: Path, log: SqliteLog) -> None:
    """A limit on the size of files stands for the full disk: writes fail in the same places."""
    log.create_topic("t", 1)
    done = subprocess.run([sys.executable, "-c", FILL, str(folder)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    count = int(done.stdout)
    assert count > 3
    entries = []
    reader = log.reader({("t", 0): 0})
    while batch := reader.poll():
        entries += batch
    assert [entry.offset for entry in entries] == list(range(count + 1))


NO_ROOM = """
import sys, resource, signal
from pathlib import Path
from venice.clock import SystemClock
from venice.errors import Full
from venice.log.sqlite import SqliteLog
log = SqliteLog(Path(sys.argv[1]), SystemClock())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    log.create_topic("large", 10_000)
except Full:
    print(log.topics(), sorted(path.name for path in Path(sys.argv[1]).glob("large*")))
"""


def test_a_topic_without_room_is_not_left_half_made(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", NO_ROOM, str(folder)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("[] []\n", 0), done.stderr


# Other processes


def test_a_process_that_stops_within_a_transaction_does_not_block_for_ever(folder: Path, log: SqliteLog) -> None:
    log.create_topic("t", 1)
    log.append("t", 0, [b"a"])
    holder = apsw.Connection(str(file_of(folder, "t")))
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="t@"):
        log.append("t", 0, [b"b"])
    assert len(log.reader({("t", 0): 0}).poll()) == 1, "readers do not wait for writers"
    with pytest.raises(Unavailable, match="t@"):
        log.delete_topic("t")
    holder.execute("ROLLBACK")
    holder.close()
    log.delete_topic("t")
    assert list(folder.glob("t@*")) == [], "the second try finishes what the first began"


def test_a_held_file_is_waited_for_as_long_as_the_caller_says(folder: Path) -> None:
    clock = ManualClock()
    log = open_log(f"sqlite:{folder}", clock, timeout_s=0.5)
    log.create_topic("t", 1)
    (topic_file,) = folder.glob("t@*.db")
    holder = apsw.Connection(str(topic_file))
    holder.execute("BEGIN IMMEDIATE")
    before_s = clock.monotonic_s()
    with pytest.raises(Unavailable, match="held by another process"):
        log.append("t", 0, [b"a"])
    assert 0.5 < clock.monotonic_s() - before_s < 1
    holder.close()
    assert log.append("t", 0, [b"a"]) == [0]
    log.close()


def test_a_deletion_cut_short_is_finished_by_the_next_creation(folder: Path, clock: ManualClock, log: SqliteLog) -> None:
    """A process killed right after the name went leaves a file that others may still have open."""
    first = log.create_topic("t", 1)
    other = SqliteLog(folder, clock)
    other.append("t", 0, [b"old"])
    index = apsw.Connection(str(folder / "topics.db"))
    index.execute("DELETE FROM topic")
    index.close()
    second = log.create_topic("t", 1)
    assert second != first
    assert file_of(folder, "t").name == f"t@{second}.db"
    assert other.append("t", 0, [b"new"]) == [0]
    assert [entry.payload for entry in log.reader({("t", 0): 0}).poll()] == [b"new"]
    other.close()


def test_a_forked_child_is_told_to_open_the_log_again(folder: Path, log: SqliteLog) -> None:
    log.create_topic("t", 1)
    log.append("t", 0, [b"x"])
    reader = log.reader({("t", 0): 0})
    child = os.fork()
    if child == 0:
        calls = (lambda: log.append("t", 0, [b"y"]), log.topics, reader.poll, lambda: log.reader({("t", 0): 0}))
        told = all(outcome(call) is InvalidRequest for call in calls)
        os._exit(0 if told else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(reader.poll()) == 1
    assert log.append("t", 0, [b"z"]) == [1]


def test_closing_while_others_append_is_clean(folder: Path) -> None:
    clock: Clock = SystemClock()
    log = SqliteLog(folder, clock)
    log.create_topic("t", 1)
    errors: list[type[BaseException] | None] = []

    def append() -> None:
        error = None
        while error is None:
            error = outcome(lambda: log.append("t", 0, [b"x"]))
        errors.append(error)

    threads = [threading.Thread(target=append) for _ in range(3)]
    for thread in threads:
        thread.start()
    log.close()
    for thread in threads:
        thread.join()
    assert errors == [InvalidRequest] * 3


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_a_topic_takes_no_open_file_until_it_is_used(folder: Path) -> None:
    log = SqliteLog(folder, SystemClock())
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        log.create_topic(f"t{number}", 1)
    assert len(log.topics()) == 20
    assert len(os.listdir("/proc/self/fd")) == before
    log.append("t0", 0, [b"x"])
    assert len(os.listdir("/proc/self/fd")) > before
    log.close()
