# SPDX-License-Identifier: Apache-2.0
"""Options of a local cluster: what is refused, and that the state file keeps them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from local_cluster.errors import ClusterOptionsError
from local_cluster.options import ClusterOptions


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"bind": "localhost"}, "'localhost', expected an IPv4 address"),
        ({"bind": "::1"}, "expected an IPv4 address"),
        ({"bind": "0.0.0.0"}, "expected one address of this machine"),
        ({"bind": "127.0.0.3"}, "expected 127.0.0.1 or one of a network"),
        ({"data_nodes": 0, "replication": 0}, "data_nodes is 0, expected at least 1"),
        ({"data_nodes": 1}, "1 data nodes cannot hold 2 copies"),
        ({"workers": -1}, "workers is -1"),
        ({"worker_cores": 0}, "worker_cores is 0"),
        ({"worker_memory": "2 GB"}, "worker_memory is '2 GB', expected a whole number with m or g"),
        ({"daemon_memory": "0m"}, "daemon_memory is '0m'"),
        ({"block_bytes": 1000}, "block_bytes is 1000, expected a multiple of 512"),
        ({"port_base": 80}, "port_base is 80, expected a port from 1024"),
        ({"port_base": 65_500}, "port_base is 65500"),
        ({"folder": Path("/tmp/with space")}, "only letters, digits"),
        ({"folder": Path("/tmp/50%")}, "only letters, digits"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(tmp_path, values, reason):
    with pytest.raises(ClusterOptionsError, match=reason) as caught:
        ClusterOptions(**({"folder": tmp_path} | values))
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_the_folder_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ClusterOptions(Path("cluster")).folder == (tmp_path / "cluster").resolve()


def test_options_survive_json_and_later_versions(tmp_path):
    script = tmp_path / "gpus.sh"
    options = ClusterOptions(tmp_path, bind="10.0.0.2", gpus_per_worker=2, gpu_discovery_script=script, yarn=True)
    values = json.loads(json.dumps(options.as_json()))
    assert ClusterOptions.from_json(values | {"unheard_of": 1}) == options
    assert ClusterOptions.from_json(json.loads(json.dumps(ClusterOptions(tmp_path).as_json()))).port_base is None
