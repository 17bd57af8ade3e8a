"""A real cluster for each test that asks for one: processes of this machine, on free ports, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kafka_broker import run_broker, start_or_skip

from venice.config import Settings, load

if TYPE_CHECKING:
    from venice.supervisor import Cluster


@pytest.fixture
def make_settings(tmp_path: Path, free_port: Callable[..., int]) -> Callable[..., Settings]:
    """Settings of a cluster with so many workers that is not running yet; short leases and graces."""

    def make(workers: int = 1) -> Settings:
        return load(
            data=tmp_path / "data",
            controller_url=f"http://127.0.0.1:{free_port()}",
            router_url=f"http://127.0.0.1:{free_port()}",
            worker_port=free_port(workers),
            workers=workers,
            retire_grace_s=1.0,
            push_lease_s=3.0,
        )

    return make


@pytest.fixture
def start_cluster(make_settings: Callable[..., Settings]) -> Iterator[Callable[..., Cluster]]:
    """Start a cluster with so many workers; it is stopped after the test."""
    # Not above: a unit test must not depend on everything that a cluster is made of.
    from venice.supervisor import Cluster

    with ExitStack() as stack:

        def start(workers: int = 1) -> Cluster:
            cluster = Cluster(make_settings(workers))
            cluster.start()
            stack.callback(cluster.stop)
            return cluster

        yield start


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A log for one cluster: a catalog has one name, so a broker of its own, not the one that other tests share."""
    if request.param == "sqlite":
        yield ""
        return
    yield start_or_skip(tmp_path / "kafka")
    run_broker("stop", tmp_path / "kafka")
