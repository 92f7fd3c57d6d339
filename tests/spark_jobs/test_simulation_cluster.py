# SPDX-License-Identifier: Apache-2.0
"""Descriptions of clusters and of scans that are not stored: all examples load, what is wrong gets one sentence."""

from __future__ import annotations

import dataclasses
import tomllib

import pytest

from ingest.chunks import StoredScan
from spark_jobs.errors import SparkJobError
from spark_jobs.simulation.cluster import Cluster, NodeGroup, Rate, Rates, cluster_from, read_cluster
from spark_jobs.simulation.errors import DescriptionError
from spark_jobs.simulation.scans import NAMED_SIZES, ScanSize, described_scan, scan_size
from tests.support.peers import REPOSITORY

EXAMPLES = sorted((REPOSITORY / "conf" / "clusters").glob("*.toml"))
NODES = {
    "count": 4, "cores": 16, "memory_gib": 128, "disks": 4, "disk_mb_per_s": 180, "network_mb_per_s": 1150,
}  # fmt: skip


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_loads_and_names_a_source_for_each_rate(path):
    cluster = read_cluster(path)
    assert cluster.name == path.stem
    assert cluster.price_per_hour > 0
    for name in (field.name for field in dataclasses.fields(Rates)):
        rate = getattr(cluster.rates, name)
        assert rate.basis in ("measured", "assumed")
        assert rate.source


def test_there_are_examples_of_all_kinds():
    clusters = [read_cluster(path) for path in EXAMPLES]
    assert any(cluster.n_nodes == 1 for cluster in clusters)
    assert any(cluster.n_nodes == 32 for cluster in clusters)
    assert any(cluster.has_gpus for cluster in clusters)


def test_a_cluster_can_be_resized_and_keeps_no_more_copies_than_nodes():
    cluster = cluster_from({"name": "c", "nodes": [NODES]}, "c.toml")
    assert (cluster.n_nodes, cluster.copies) == (4, 3)
    assert (cluster.with_nodes(100).n_nodes, cluster.with_nodes(2).copies) == (100, 2)
    two = cluster_from({"name": "c", "nodes": [NODES, NODES]}, "c.toml")
    with pytest.raises(DescriptionError, match="one kind of nodes"):
        two.with_nodes(3)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"nodes": [NODES]}, "c.toml: 'name' is missing"),
        ({"name": "c", "nodes": []}, r"at least one \[\[nodes\]\] section"),
        ({"name": "c", "nodes": [NODES | {"coers": 1}]}, r"'nodes.0.coers' is unknown"),
        ({"name": "c", "nodes": [{k: v for k, v in NODES.items() if k != "cores"}]}, "'nodes.0.cores' is missing"),
        ({"name": "c", "nodes": [NODES | {"count": 0}]}, "count of at least 1, got 0"),
        ({"name": "c", "nodes": [NODES | {"disk_mb_per_s": -1}]}, "disk_mb_per_s above 0, got -1"),
        ({"name": "c", "nodes": [NODES | {"cores": "many"}]}, "'nodes.0.cores' is wrong"),
        ({"name": "c", "nodes": [NODES | {"gpus": 2}]}, "need gpu_memory_gib"),
        ({"name": "c", "nodes": [NODES | {"gpus": 20, "gpu_memory_gib": 80}]}, "each GPU needs a core"),
        (
            {"name": "c", "nodes": [NODES, NODES | {"gpus": 2, "gpu_memory_gib": 80}]},
            "all nodes of c have GPUs or none",
        ),
        ({"name": "c", "nodes": [NODES], "network": {"oversubscription": 0.5}}, "at least 1, got 0.5"),
        ({"name": "c", "nodes": [NODES], "hdfs": {"replication": 0}}, "replication must be at least 1"),
        ({"name": "c", "nodes": [NODES], "spark": {"task_cores": 64}}, "a task takes 64 cores"),
        ({"name": "c", "nodes": [NODES], "spark": {"memory_share": 2}}, "memory_share must be above 0"),
        ({"name": "c", "nodes": [NODES], "troubles": {"task_sigma": -1}}, "task_sigma must be 0 to 2"),
        ({"name": "c", "nodes": [NODES], "rates": {"cpu_gups": 4.0}}, "'rates.cpu_gups' is wrong"),
        (
            {"name": "c", "nodes": [NODES], "rates": {"cpu_gups": {"value": 4, "basis": "guessed", "source": "x"}}},
            "'rates.cpu_gups.basis' is wrong",
        ),
        (
            {"name": "c", "nodes": [NODES], "rates": {"cpu_gups": {"value": 4, "basis": "measured", "source": " "}}},
            "needs a source",
        ),
        (
            {"name": "c", "nodes": [NODES], "rates": {"cpu_gups": {"value": 0, "basis": "measured", "source": "x"}}},
            "cpu_gups must be above 0",
        ),
    ],
)
def test_what_is_wrong_in_a_cluster_is_named_with_its_file(values, words):
    with pytest.raises(DescriptionError, match=words) as caught:
        cluster_from(values, "c.toml")
    assert str(caught.value).startswith("c.toml: ")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, SparkJobError)


def test_a_file_that_is_not_there_or_no_toml_is_refused(tmp_path):
    with pytest.raises(DescriptionError, match=r"none.toml cannot be read: No such file"):
        read_cluster(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = [")
    with pytest.raises(DescriptionError, match=r"bad.toml is no TOML"):
        read_cluster(tmp_path / "bad.toml")


def test_rates_of_clusters_are_not_shared():
    first, second = Cluster("a", (NodeGroup(**NODES),)), Cluster("b", (NodeGroup(**NODES),))
    assert first.rates == second.rates
    assert Rate(1.0, "assumed", "here") != Rate(1.0, "measured", "here")


@pytest.mark.parametrize(
    ("name", "terabytes"), [("stone", 0.012), ("artery", 0.06), ("thorax-360", 2.5), ("thorax-720", 5), ("body", 150)]
)
def test_the_named_sizes_have_the_bytes_that_the_system_is_built_for(name, terabytes):
    size = NAMED_SIZES[name]
    assert size.pixel_bytes / 1e12 == pytest.approx(terabytes, rel=0.01)
    stored = described_scan(size)
    assert isinstance(stored, StoredScan)
    assert stored.manifest.stored_bytes == pytest.approx(size.pixel_bytes, rel=1e-3)
    assert sum(map(sum, stored.manifest.group_bytes)) == pytest.approx(size.pixel_bytes, rel=1e-3)
    assert stored.scan.geometry.n_views == size.views


def test_a_scan_of_a_file_is_named_after_it(tmp_path):
    path = tmp_path / "knee.toml"
    path.write_text(
        "[scan]\nviews = 360\nrows = 512\ncols = 640\nbins = 4\nsod_mm = 200\nsdd_mm = 300\npixel_mm = 0.11\n"
        "compression = 1.5\n"
    )
    size = scan_size(str(path))
    assert (size.name, size.bins) == ("knee", 4)
    stored = described_scan(size)
    assert stored.manifest.stored_bytes == pytest.approx(size.pixel_bytes / 1.5, rel=1e-3)
    assert tomllib.loads(path.read_text())["scan"]["views"] == stored.scan.n_views


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[scan]\nviews = 4", "'rows' is missing"),
        ("scan = 4", r"needs a \[scan\] section"),
        ("[scan]\nvoews = 4", "is "),
    ],
)
def test_what_is_wrong_in_a_scan_is_named_with_its_file(text, words, tmp_path):
    path = tmp_path / "knee.toml"
    path.write_text(text)
    with pytest.raises(DescriptionError, match=words) as caught:
        scan_size(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"views": 0}, "views of at least 1"),
        ({"sdd_mm": 50.0}, "beyond the axis"),
        ({"pixel_mm": float("nan")}, "pixel_mm above 0"),
        ({"flats": 0}, "at least 1 flat frame"),
        ({"compression": 0.0}, "compression above 0"),
    ],
)
def test_impossible_scans_are_refused(changes, words):
    with pytest.raises(DescriptionError, match=words):
        ScanSize(**({"name": "s", "views": 4, "rows": 4, "cols": 4, "bins": 1, "sod_mm": 100.0, "sdd_mm": 200.0,
                     "pixel_mm": 0.1} | changes))  # fmt: skip


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(DescriptionError, match="stone, artery, thorax-360, thorax-720, body"):
        scan_size("elephant")
