"""Placement of partitions: even, the same whoever computes it, and as little moved as can be."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from venice.errors import Unavailable
from venice.model import Node, Worker
from venice.rules.placement import needed, place


def cluster(workers_by_node: list[int]) -> list[Node]:
    return [
        Node(id=f"n{node}", region="r", workers=tuple(Worker(id=f"n{node}-w{i}", url="", incarnation="") for i in range(count)))
        for node, count in enumerate(workers_by_node)
    ]


def node_of(worker: str) -> str:
    return worker.partition("-")[0]


clusters = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(cluster)
stores = st.sampled_from(("flights", "users", "x"))
partitions = st.integers(1, 40)
factors = st.integers(1, 3)


@given(stores, partitions, factors, clusters)
def test_each_partition_is_on_different_nodes(store: str, count: int, factor: int, nodes: list[Node]) -> None:
    for row in place(store, count, factor, nodes):
        assert len(row) == min(factor, len(nodes))
        assert len({node_of(worker) for worker in row}) == len(row)


@given(stores, partitions, clusters)
def test_single_replicas_are_spread_evenly(store: str, count: int, nodes: list[Node]) -> None:
    placed = [row[0] for row in place(store, count, 1, nodes)]
    by_node = Counter({node.id: 0 for node in nodes})
    by_node.update(node_of(worker) for worker in placed)
    assert max(by_node.values()) - min(by_node.values()) <= 1
    for node in nodes:
        by_worker = Counter({worker.id: 0 for worker in node.workers})
        by_worker.update(worker for worker in placed if node_of(worker) == node.id)
        assert max(by_worker.values()) - min(by_worker.values()) <= 1


@given(stores, partitions, factors, clusters)
@example("flights", 34, 2, cluster([1, 1, 1]))
def test_copies_are_spread_evenly(store: str, count: int, factor: int, nodes: list[Node]) -> None:
    by_node = Counter({node.id: 0 for node in nodes})
    by_node.update(node_of(worker) for row in place(store, count, factor, nodes) for worker in row)
    assert max(by_node.values()) - min(by_node.values()) <= 1


@given(stores, partitions, factors, clusters, st.randoms(use_true_random=False))
def test_the_order_of_the_members_does_not_matter(store: str, count: int, factor: int, nodes: list[Node], rng: Random) -> None:
    shuffled = [
        Node(id=node.id, region=node.region, workers=tuple(rng.sample(node.workers, len(node.workers))))
        for node in rng.sample(nodes, len(nodes))
    ]
    assert place(store, count, factor, shuffled) == place(store, count, factor, nodes)


@given(stores, partitions, factors, clusters, st.data())
def test_after_a_loss_only_the_lost_replicas_move(store: str, count: int, factor: int, nodes: list[Node], data: st.DataObject) -> None:
    lost = data.draw(st.sampled_from([worker.id for node in nodes for worker in node.workers]))
    left = [Node(id=n.id, region=n.region, workers=tuple(w for w in n.workers if w.id != lost)) for n in nodes]
    if not any(node.workers for node in left):
        return
    before = place(store, count, factor, nodes)
    after = place(store, count, factor, left, before)
    copies = min(factor, sum(bool(node.workers) for node in left))
    for old, new in zip(before, after, strict=True):
        assert lost not in new
        assert len(new) == copies
        assert set(new) >= set([worker for worker in old if worker != lost][:copies])


@given(stores, partitions, factors, clusters)
def test_what_is_placed_already_stays(store: str, count: int, factor: int, nodes: list[Node]) -> None:
    before = place(store, count, factor, nodes)
    assert place(store, count, factor, nodes, before) == before


def test_a_new_node_takes_its_share_and_disturbs_few_others() -> None:
    before = place("flights", 120, 1, cluster([1, 1, 1]))
    after = place("flights", 120, 1, cluster([1, 1, 1, 1]))
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert sum(new == ("n3-w0",) for new in moved) == 30
    assert len(moved) <= 45


def test_nodes_without_workers_are_left_out() -> None:
    assert place("s", 2, 2, cluster([0, 1])) == (("n1-w0",), ("n1-w0",))
    with pytest.raises(Unavailable, match="no worker can hold store 's'"):
        place("s", 2, 2, cluster([0, 0]))


@pytest.mark.parametrize(("factor", "replicas", "expected"), [(1, 1, 1), (2, 2, 1), (3, 3, 2), (3, 1, 1), (3, 2, 1), (1, 2, 1)])
def test_all_but_one_replica_must_be_ready(factor: int, replicas: int, expected: int) -> None:
    assert needed(factor, ["w"] * replicas) == expected
