"""A push from its first call to the version that serves, against a real cluster: again, rehearsed, deferred, failed, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from push_kit import LONG, record
from pyarrow.dataset import dataset

from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings, load
from venice.control.remote import ControllerClient
from venice.errors import Conflict, Full, InvalidRequest, NotFound, Unavailable
from venice.model import VersionStatus
from venice.push.batch import push
from venice.push.progress import Event, Phase, PhaseEnded, PushBegun

SCHEMA = record(("n", "long"), ("name", "string"))
ENDLESS = "SELECT i AS key, i * 2 AS n, 'name ' || i AS name FROM range(1_000_000_000) t(i)"
PUSHER = """
import sys
from venice.push.batch import push
from venice.push.progress import Progress
def say(event):
    if isinstance(event, Progress) and event.rows:
        print(event.phase.value, event.rows, flush=True)
try:
    push(sys.argv[1], sys.argv[2], sql=sys.argv[3], push_id="the-push", on_event=say)
except BaseException as error:
    print("ended:", type(error).__name__, error, flush=True)
"""


def rows(count: int, plus: int = 0) -> str:
    return f"SELECT i AS key, i + {plus} AS n, 'name ' || i AS name FROM range({count}) t(i)"


@dataclass(frozen=True)
class Place:
    """A store of its own for a test, in the cluster of this module."""

    settings: Settings
    client: ControllerClient
    store: str

    def attempts(self) -> list[Path]:
        """Attempt folders that are there."""
        return sorted(Path(self.settings.blobs_url).glob(f"{self.store}/*/*"))

    def status(self, version: int) -> VersionStatus:
        return self.client.get_version(self.store, version).version.status

    def current(self) -> int:
        return self.client.get_store(self.store).current


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[..., int]) -> Iterator[Settings]:
    from venice.supervisor import Cluster  # Not above: see `tests/clusters.py`.

    cluster = Cluster(
        load(
            data=tmp_path_factory.mktemp("data"),
            controller_url=f"http://127.0.0.1:{free_port()}",
            router_url=f"http://127.0.0.1:{free_port()}",
            worker_port=free_port(),
            push_lease_s=3.0,
        )
    )
    cluster.start()
    yield cluster.settings
    cluster.stop()


@pytest.fixture
def place(settings: Settings, request: pytest.FixtureRequest) -> Place:
    client = ControllerClient(settings.controller_url, SystemClock())
    store = request.node.name
    client.create_store(store, key_schema=LONG, value_schema=SCHEMA)
    return Place(settings, client, store)


@contextmanager
def pusher(place: Place, sql: str) -> Iterator[subprocess.Popen[str]]:
    """A process that pushes, and says when rows are flowing."""
    command = [sys.executable, "-c", PUSHER, place.settings.controller_url, place.store, sql]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str], word: str) -> str:
    """The first line that begins with `word`."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return line
    raise AssertionError(f"the process ended without saying {word!r}")


def test_a_push_serves_and_the_same_push_is_not_done_twice(place: Place) -> None:
    events: list[Event] = []
    first = push(place.settings, place.store, sql=rows(1000), push_id="monday", on_event=events.append)
    assert (first.version, first.rows, first.existing, sum(first.partition_rows)) == (1, 1000, False, 1000)
    assert list(first.seconds) == [Phase.PLAN, Phase.READ, Phase.WRITE, Phase.SEAL, Phase.LOAD]
    assert isinstance(next(event for event in events if isinstance(event, PushBegun)), PushBegun)
    assert [event.phase for event in events if isinstance(event, PhaseEnded)] == list(first.seconds)
    again = push(place.settings, place.store, inputs="not/even/there.parquet", push_id="monday")
    assert (again.version, again.rows, again.bytes, again.existing) == (1, 1000, first.bytes, True)
    second = push(place.settings.controller_url, place.store, sql=rows(10, plus=5))
    assert (second.version, place.current()) == (2, 2)
    with closing(ThinClient(place.settings.router_url, place.store)) as reader:
        assert reader.get(7) == {"n": 12, "name": "name 7"}
        assert reader.get(10) is None


def test_tables_and_data_frames_are_pushed(place: Place) -> None:
    table = pa.table({"key": [1, 2, 3], "n": [10, 20, 30], "name": ["a", "ü", ""]})
    expected = {1: {"n": 10, "name": "a"}, 2: {"n": 20, "name": "ü"}, 3: {"n": 30, "name": ""}}
    with closing(ThinClient(place.settings.router_url, place.store)) as reader:
        for number, data in enumerate((table, dataset(table), table.to_pandas()), 1):
            assert push(place.settings, place.store, data=data).rows == 3
            assert (reader.batch_get([1, 2, 3, 4]), reader.last_version) == (expected, number)
    with pytest.raises(InvalidRequest, match="'n' of the data is null"):
        push(place.settings, place.store, data=pa.table({"key": [1], "n": pa.array([None], pa.int64()), "name": ["x"]}))
    with pytest.raises(InvalidRequest, match="the data has no column 'name'"):
        push(place.settings, place.store, data=table.drop(["name"]))
    with pytest.raises(InvalidRequest, match="once only"):
        push(place.settings, place.store, data=table.to_reader())
    with pytest.raises(InvalidRequest, match="cannot read a int"):
        push(place.settings, place.store, data=3)
    with pytest.raises(InvalidRequest, match="one of them"):
        push(place.settings, place.store, data=table, sql="SELECT 1")


def test_a_dry_run_counts_everything_and_leaves_nothing(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = push(place.settings, place.store, sql=f"{rows(1000)} UNION ALL {rows(10)}", dry_run=True)
    assert (result.version, result.rows, result.duplicates, sum(result.partition_rows)) == (None, 1000, 10, 1000)
    assert result.bytes > 0
    with pytest.raises(InvalidRequest, match="null in 1 row"):
        push(place.settings, place.store, sql="SELECT NULL::INT AS key, 1 AS n, 'x' AS name", dry_run=True)
    assert place.client.list_versions(place.store) == ()
    assert list(tmp_path.glob("venice-dry-run-*")) == []
    assert place.attempts() == []


def test_a_deferred_swap_waits_for_its_roll_forward(place: Place) -> None:
    push(place.settings, place.store, sql=rows(10))
    assert push(place.settings, place.store, sql=rows(20), deferred_swap=True, push_id="later").version == 2
    assert place.current() == 1
    assert push(place.settings, place.store, sql=rows(20), push_id="later").existing
    place.client.roll_forward(place.store)
    assert place.current() == 2


def test_a_failed_push_says_why_and_changes_nothing(place: Place) -> None:
    push(place.settings, place.store, sql=rows(10))
    kept = place.attempts()
    with pytest.raises(InvalidRequest, match="same key"):
        push(place.settings, place.store, sql=f"{rows(5)} UNION ALL {rows(5, plus=1)}", push_id="tuesday")
    failed = place.client.get_version(place.store, 2).version
    assert (failed.status, place.current()) == (VersionStatus.ERROR, 1)
    assert "several rows with different values have the same key" in failed.reason
    assert place.attempts() == kept
    # What is wrong before the first row makes no version at all.
    for sql, memory_limit in (("SELECT 1 AS key", None), ("SELEC", None), (rows(1), "much"), (None, None)):
        with pytest.raises(InvalidRequest):
            push(place.settings, place.store, sql=sql, memory_limit=memory_limit)
    with pytest.raises(NotFound):
        push(place.settings, place.store, inputs="not/there.parquet")
    with pytest.raises(NotFound):
        push(place.settings, "nobody", sql=rows(1))
    assert place.client.get_store(place.store).largest_version == 2
    assert push(place.settings, place.store, sql=rows(5), push_id="tuesday").version == 3, "a failed push may be tried again under its id"


def test_a_push_over_the_stores_quota_says_what_to_do(place: Place) -> None:
    push(place.settings, place.store, sql=rows(10))
    place.client.update_store(place.store, storage_quota_bytes=2_000)
    with pytest.raises(Full, match=rf"quota is 2,000 .*venice store update {place.store} --storage-quota") as error:
        push(place.settings, place.store, sql=rows(5_000))
    assert (error.value.data["quota_bytes"], place.status(2), place.current()) == (2_000, VersionStatus.ERROR, 1)
    assert "quota is 2,000" in place.client.get_version(place.store, 2).version.reason
    place.client.update_store(place.store, storage_quota_bytes=-1)
    assert push(place.settings, place.store, sql=rows(5_000)).version == 3


def test_a_push_that_is_told_to_stop_kills_its_version_and_removes_its_files(place: Place) -> None:
    for number, stop in enumerate((signal.SIGTERM, signal.SIGINT), start=1):
        with pusher(place, ENDLESS) as process:
            said(process, "read")
            assert len(place.attempts()) == 1
            with pytest.raises(Conflict, match="is being pushed"):
                push(place.settings, place.store, sql=rows(1), push_id="another")
            process.send_signal(stop)
            assert said(process, "ended:").split()[1] == "KeyboardInterrupt"
            assert process.wait(60) == 0
        assert place.status(number) is VersionStatus.KILLED
        assert place.attempts() == []
    assert push(place.settings, place.store, sql=rows(10)).rows == 10


def test_a_version_killed_by_an_operator_ends_its_push(place: Place) -> None:
    with pusher(place, ENDLESS) as process:
        said(process, "read")
        place.client.kill(place.store, 1, "not today")
        assert f"Conflict version 1 of store {place.store!r} is KILLED: not today" in said(process, "ended:")
    assert place.attempts() == []


def test_a_push_that_was_killed_hard_goes_on_as_a_new_attempt_of_its_version(place: Place) -> None:
    with pusher(place, ENDLESS) as process:
        said(process, "read")
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
    result = push(place.settings, place.store, sql=rows(1000), push_id="the-push")
    assert (result.version, result.rows, result.existing) == (1, 1000, False)
    assert place.current() == 1


def test_workers_that_do_not_come_are_said_and_the_version_stays(place: Place) -> None:
    with pytest.raises(Unavailable, match=r"version 1 of store .* is sealed, but after 0 s"):
        push(place.settings, place.store, sql=rows(10), push_id="early", wait_s=0.0)
    assert push(place.settings, place.store, sql=rows(10), push_id="early").version == 1, "it is waited for, not pushed again"
