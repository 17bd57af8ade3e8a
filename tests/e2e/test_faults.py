"""Faulty records planted in the topics of a cluster that runs: each is counted, told and kept, and everything else is served."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streaming import create, eventually, pushed

from venice.client.producer import Producer
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings, environment
from venice.log import Entry, Log
from venice.log.open import open_log
from venice.naming import real_time_topic, version_topic
from venice.push.batch import push
from venice.record import Kind, Origin, Record, decode, encode
from venice.rules.partitioning import partition_of
from venice.schema.codec import key_codec
from venice.supervisor import Cluster

KEY = 7
PARTITION = partition_of(key_codec('"long"').encode(KEY), 4)


@pytest.fixture
def cluster(log_url: str, make_settings: Callable[..., Settings]) -> Iterator[Cluster]:
    """Two nodes of one worker each, which both hold every partition."""
    settings = make_settings(workers=2).model_copy(update={"workers": 1, "log": log_url, "heartbeat_s": 2.0})
    running = Cluster(settings, nodes=2)
    running.start()
    yield running
    running.stop()


def test_what_is_at_fault_is_counted_kept_and_told_and_the_rest_is_served(cluster: Cluster) -> None:
    settings = cluster.settings
    create(settings, replicas=2)
    push(settings, "counts", sql=pushed(1))
    log = open_log(settings.log_url, SystemClock())
    with ThinClient(settings.router_url, "counts") as thin, Producer(settings, "counts") as producer:

        def write(n: int) -> None:
            producer.put(KEY, {"source": "stream", "n": n}).result(60)
            eventually(lambda: thin.get(KEY) == {"source": "stream", "n": n}, lambda: (n, thin.get(KEY), lag(settings)))

        write(1)
        poison = [
            b"garbage",
            encode(Record(Kind.PUT, key=b"\x0e", value=b"?", schema_id=99, origin=Origin.REAL_TIME, timestamp_ms=2**50)),
            encode(Record(Kind.UPDATE, key=b"\x0e", schema_id=1, update_schema_id=1, origin=Origin.REAL_TIME, timestamp_ms=2**50)),
        ]
        at = log.append(real_time_topic("counts"), PARTITION, poison)
        write(2)
        newest = [record for _, record in records(log, version_topic("counts", 1)) if record.kind is Kind.PUT][-1]
        forged = newest._replace(value=b"!", sequence=newest.sequence + 1_000)
        log.append(version_topic("counts", 1), PARTITION, [b"damaged", encode(newest), encode(forged)])
        write(3)

        wanted = {("version", "corrupt", 1), ("version", "duplicate", 1), ("version", "missing", 1)}
        merged = {("real_time", fault, 1) for fault in ("corrupt", "unregistered", "unsupported")}
        eventually(
            lambda: sorted(map(faults, lag(settings)), key=len) == [wanted, wanted | merged], lambda: [faults(one) for one in lag(settings)]
        )
        eventually(lambda: all(one["lag_records"] == 0 and one["fresh_ms"] > 0 for one in lag(settings)), lambda: lag(settings))
        write(4)

        kept = command(settings, "inspect", "dead-letters", "counts")
        found = [(one["topic"], one["partition"], one["offset"], one["fault"]) for one in kept]
        origin = real_time_topic("counts"), PARTITION
        assert found == [(*origin, at[0], "corrupt"), (*origin, at[1], "unregistered"), (*origin, at[2], "unsupported")]
        assert [one["payload"] for one in kept] == [as_json(payload) for payload in poison]

        (version,) = command(settings, "version", "list", "counts")
        assert {(one["topic"], one["fault"], one["count"]) for one in version["faults"]} == merged | {(*one[:2], 2) for one in wanted}
        assert all(metric in scraped(settings) for metric in METRICS)
        logs = "".join(file.read_text() for file in Path(settings.data).rglob("logs/*.log"))
        assert logs.count(f"topic=counts_rt partition={PARTITION} offset={at[1]}") == 1, "told once, by the leader"
        assert logs.count("fault=missing") == 2, "by each replica once"
        expected = {key: {"source": "push 1", "n": -1} for key in range(300)} | {KEY: {"source": "stream", "n": 4}}
        assert dict(thin.batch_get(range(300))) == expected
    log.close()


PLACE = f'partition="{PARTITION}",store="counts"'
METRICS = [
    f'venice_faulty_records_total{{fault="unregistered",{PLACE},topic="real_time",version="1"}} 1.0',
    f'venice_faulty_records_total{{fault="missing",{PLACE},topic="version",version="1"}} 1.0',
    f'venice_leader_lag_records{{{PLACE},version="1"}} 0.0',
    f'venice_replica_lag_seconds{{{PLACE},version="1"}} 0.0',
    f'venice_replica_freshness_seconds{{{PLACE},version="1"}} ',
]


def records(log: Log, topic: str) -> Iterator[tuple[Entry, Record]]:
    reader = log.reader({(topic, PARTITION): 0})
    end = log.end_offset(topic, PARTITION)
    while reader.position(topic, PARTITION) < end:
        for entry in reader.poll(timeout_s=1):
            yield entry, decode(entry.payload)
    reader.close()


def command(settings: Settings, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "venice.cli", *arguments, "--json"],
        env=environment(settings), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return json.loads(done.stdout)


def lag(settings: Settings) -> list[Any]:
    """What the workers say of both replicas of the partition."""
    return [one for one in command(settings, "inspect", "lag", "counts") if one["partition"] == PARTITION]


def faults(one: Any) -> set[tuple[str, str, int]]:
    return {(count["topic"], count["fault"], count["count"]) for count in one["faults"]}


def as_json(payload: bytes) -> str:
    from venice.cli_output import plain

    return str(plain(payload))


def scraped(settings: Settings) -> str:
    found = b""
    for index in range(2):
        with urllib.request.urlopen(f"http://127.0.0.1:{settings.worker_port + index}/metrics", timeout=10) as answer:
            found += answer.read()
    return found.decode()
