# SPDX-License-Identifier: Apache-2.0
"""Ports of the daemons, and which daemons a cluster gets."""

from __future__ import annotations

import socket
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from local_cluster.errors import ClusterOptionsError
from local_cluster.layout import added_records, first_state, with_spark
from local_cluster.options import ClusterOptions
from local_cluster.ports import PORT_SPAN, free_ports, is_free, ports_at


def test_free_ports_are_different_and_below_those_of_outgoing_connections():
    ports = free_ports(30)
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(ports)) == 30
    assert max(ports) < first_outgoing or first_outgoing < 16_000


def test_a_port_that_is_listened_on_is_not_free():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not is_free("127.0.0.1", taken.getsockname()[1])


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(ClusterOptionsError, match=r"192\.0\.2\.1 is no address of this machine"):
        free_ports(1, "192.0.2.1")


def test_the_fixed_layout_has_no_port_twice():
    singles = ("namenode", "master", "resourcemanager", "nodemanager")
    layout = [ports_at(9000, kind, 0) for kind in singles]
    layout += [ports_at(9000, "datanode", index) for index in range(60)]
    layout += [ports_at(9000, "worker", index) for index in range(100)]
    ports = list(chain.from_iterable(each.values() for each in layout))
    assert len(set(ports)) == len(ports)
    assert min(ports) == 9000
    assert max(ports) < 9000 + PORT_SPAN
    assert ports_at(9000, "datanode", 1) == {"data": 9023, "http": 9024, "ipc": 9025}
    for kind, first_too_many in (("datanode", 60), ("worker", 100)):
        with pytest.raises(ClusterOptionsError, match=f"no room for {kind}{first_too_many}"):
            ports_at(9000, kind, first_too_many)


def names(state):
    return [record.name for record in state.daemons]


def test_a_cluster_has_what_was_asked_for(tmp_path):
    state = first_state(ClusterOptions(tmp_path, yarn=True), None)
    assert names(state) == [
        "namenode", "datanode0", "datanode1", "datanode2", "master", "worker0", "worker1", "resourcemanager",
        "nodemanager",
    ]  # fmt: skip
    ports = list(chain.from_iterable(record.ports.values() for record in state.daemons))
    assert len(set(ports)) == len(ports)
    only_hdfs = first_state(ClusterOptions(tmp_path, spark=False), None)
    assert names(only_hdfs) == ["namenode", "datanode0", "datanode1", "datanode2"]
    assert names(with_spark(only_hdfs)) == [*names(only_hdfs), "master", "worker0", "worker1"]


def test_added_daemons_never_take_a_number_again(tmp_path):
    state = first_state(ClusterOptions(tmp_path), None)
    state = state.with_record(replace(state.record("worker1"), wanted="drained"))
    (record,) = added_records(state, "worker", 1)
    assert record.name == "worker2"
    assert [each.name for each in added_records(state, "datanode", 2)] == ["datanode3", "datanode4"]
    with pytest.raises(ClusterOptionsError, match="expected at least 1"):
        added_records(state, "worker", 0)


def test_data_nodes_and_ports_of_an_earlier_start_stay(tmp_path, monkeypatch):
    """All that hold blocks are there again, and one that was drained stays out."""
    old = first_state(ClusterOptions(tmp_path, data_nodes=4), None)
    old = old.with_record(replace(old.record("datanode1"), wanted="drained"))
    new = first_state(ClusterOptions(tmp_path, data_nodes=2), old)
    assert [record.name for record in new.of_kind("datanode")] == ["datanode0", "datanode2", "datanode3"]
    assert [record.name for record in new.drained("datanode")] == ["datanode1"]
    for name in ("namenode", "datanode2", "master", "worker0"):
        assert new.record(name).ports == old.record(name).ports
    monkeypatch.setattr("local_cluster.layout.is_free", lambda host, port: True)
    moved = first_state(ClusterOptions(tmp_path, data_nodes=5, port_base=9000), old)
    assert len(moved.of_kind("datanode")) == 5
    assert (moved.record("namenode").ports["rpc"], moved.record("datanode4").ports["data"]) == (9000, 9032)


def test_a_taken_port_is_not_taken_again(tmp_path):
    old = first_state(ClusterOptions(tmp_path), None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", old.record("namenode").ports["rpc"]))
        taken.listen()
        assert first_state(ClusterOptions(tmp_path), old).record("namenode").ports != old.record("namenode").ports
    with socket.socket() as taken:
        base = free_ports(1)[0]
        taken.bind(("127.0.0.1", base + 1))
        taken.listen()
        with pytest.raises(
            ClusterOptionsError, match=rf"port {base + 1} of 127\.0\.0\.1, namenode's for http, is taken"
        ):
            first_state(ClusterOptions(tmp_path, port_base=base), None)
