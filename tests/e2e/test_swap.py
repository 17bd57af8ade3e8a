"""Readers that loop while versions are pushed see whole versions only, in order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from reading import KEY_SCHEMA, VALUE_SCHEMA, Reader, rows

from venice.client.davinci import DaVinciClient
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.control.remote import ControllerClient
from venice.push.batch import push
from venice.supervisor import Cluster

PUSHES = 20


@pytest.mark.timeout(900)  # forty seconds where nothing else runs
def test_readers_see_whole_versions_in_order_through_20_pushes(start_cluster: Callable[..., Cluster]) -> None:
    settings = start_cluster(workers=2).settings
    ControllerClient(settings.controller_url, SystemClock()).create_store("rows", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA)
    push(settings, "rows", sql=rows(1))
    with (
        Reader(lambda: ThinClient(settings.router_url, "rows"), seed=1) as thin,
        Reader(lambda: DaVinciClient(settings, "rows"), seed=2) as davinci,
    ):
        for edition in range(2, PUSHES + 1):
            assert push(settings, "rows", sql=rows(edition)).version == edition
        with ThinClient(settings.router_url, "rows") as client:
            assert client.get(7)["edition"] == PUSHES
    for reader in (thin, davinci):
        assert reader.faults == []
        assert reader.editions == sorted(set(reader.editions)), "a reader went back"
        assert reader.batches > PUSHES
    assert thin.editions[-1] == PUSHES
