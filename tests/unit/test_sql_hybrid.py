"""SQL and export of hybrid stores: pushed rows and what was written since, on both logs, without any process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hybrid_kit import PARTITIONS, PUSHED, World, hybrid_world

from venice import sql
from venice.errors import Corrupt, Unavailable
from venice.served import ServedVersion


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = request.getfixturevalue("kafka_url") if request.param == "kafka" else f"sqlite:{tmp_path / 'log'}"
    with hybrid_world(url, tmp_path) as made:
        yield made
    assert not list(made.settings.data.glob(".sql-*")), "replicas made for a query outlive it"


def read(world: World) -> dict[str, dict[str, Any]]:
    rows = sql.query(world.settings, f"FROM {world.name}").to_pylist()
    found = {row.pop("key"): row for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture
def written(world: World) -> World:
    """Rows of all kinds: untouched, overwritten in both schemas, deleted, new, refused."""
    world.lead()
    world.write("user 1", {"page": "old schema", "n": 7}, 1)
    for number in range(2, 30):
        world.write(f"user {number}", {"page": "written", "n": 1 << 40, "by": "me"})
    for number in range(20, 40):
        world.write(f"user {number}", None)
    world.write("user 25", {"page": "back", "n": 1})
    world.write("somebody new", {"page": "new", "n": 2})
    world.lead(term=2)
    world.write("user 3", {"page": "by a leader that was replaced", "n": 0}, term=1)
    world.write("user 4", {"page": "by its successor", "n": 4}, term=2)
    return world


def test_a_version_nobody_wrote_to_has_its_pushed_rows(world: World) -> None:
    assert read(world) == world.expected


def test_a_store_is_what_its_replicas_serve(written: World) -> None:
    assert read(written) == written.expected
    assert {"user 3", "user 25", "somebody new"} <= set(written.expected)
    assert not {"user 20", "user 39"} & set(written.expected)


def test_an_export_is_too_and_says_up_to_where(written: World, tmp_path: Path) -> None:
    told: list[sql.AsOf] = []
    assert sql.export(written.settings, written.name, to=tmp_path / "out.parquet", on_read=told.append) == len(written.expected)
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert {row.pop("key"): row for row in rows} == written.expected
    ends = tuple(written.log.end_offset(written.topic, partition) for partition in range(PARTITIONS))
    assert told == [sql.AsOf(written.name, 1, ends)]


def test_what_was_trimmed_is_read_from_the_checkpoint(written: World) -> None:
    first = written.checkpoint(0)
    written.write("user 50", {"page": "after the checkpoint", "n": 50}, term=2)
    written.write("user 51", {"page": "after the checkpoint", "n": 51}, term=2)
    assert written.log.start_offset(written.topic, 0) == first.next_offset > 0
    assert read(written) == written.expected


def test_a_topic_trimmed_while_it_is_read_is_read_again_from_the_checkpoint(written: World, monkeypatch: pytest.MonkeyPatch) -> None:
    attach: Callable[..., Any] = ServedVersion._fold
    tried: list[int] = []

    def trimmed_first(served: ServedVersion, storage: Any, partition: int) -> None:
        if not tried:
            written.checkpoint(partition)
        tried.append(partition)
        attach(served, storage, partition)

    monkeypatch.setattr(ServedVersion, "_fold", trimmed_first)
    assert read(written) == written.expected
    assert tried == [0, 0, 1]


def test_without_a_checkpoint_for_what_was_trimmed_it_says_so(written: World) -> None:
    written.log.delete_prefix(written.topic, 1, 3)
    with pytest.raises(Unavailable, match="begins at offset 3"):
        read(written)


def test_a_value_of_a_schema_the_store_lacks_is_named(written: World) -> None:
    written.site.change(value_schemas=written.site.store.value_schemas[:1])
    with pytest.raises(Corrupt, match="schema 2, not 1"):
        read(written)


def test_a_batch_version_of_the_store_stays_what_was_pushed(written: World) -> None:
    written.site.change(versions=(replace(written.version, hybrid=None, real_time_partitions=0),))
    assert read(written) == PUSHED
