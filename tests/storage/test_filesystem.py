# SPDX-License-Identifier: Apache-2.0
"""Opening stores by URL, and what is told when that cannot be done."""

from __future__ import annotations

import builtins
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from local_cluster.ports import free_ports
from storage.errors import StorageError, StoreAccessError, StoreFullError, StoreUnavailableError, StoreUrlError
from storage.filesystem import local_path, open_store
from storage.hadoop_errors import hadoop_error
from storage.hdfs_store import open_hdfs_store
from storage.publish import publish_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from local_cluster.local_cluster import LocalCluster


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "is empty"),
        ("ftp://host/path", "unknown scheme 'ftp'; expected one of file, memory, hdfs, webhdfs, swebhdfs, s3"),
        ("file://elsewhere/path", "expected file:///path on this machine"),
        ("hdfs:///path", "expected hdfs://host:port/path"),
        ("webhdfs://host/path", "expected webhdfs://host:port/path"),
        ("webhdfs://host:many/path", "expected webhdfs://host:port/path"),
        ("hdfs://host:9000/a/../b", r"got '\.', '\.\.'"),
    ],
)
def test_bad_urls_are_refused_in_one_sentence(url: str, reason: str) -> None:
    with pytest.raises(StorageError, match=reason) as caught:
        open_store(url)
    assert isinstance(caught.value, ValueError)


def test_a_plain_path_and_its_url_are_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "with space #1 50%"
    stores = [open_store(root), open_store(str(root)), open_store(root.as_uri())]
    monkeypatch.chdir(tmp_path)
    stores.append(open_store("with space #1 50%"))
    assert {store.url for store in stores} == {root.as_uri()}
    assert {local_path(store, "a") for store in stores} == {root / "a"}
    assert not root.exists()
    assert open_store(open_store("file:///").url).exists("")


def test_a_file_in_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(StoreAccessError, match=r"notes\.txt is a file, not a folder"):
        open_store((tmp_path / "notes.txt").as_uri()).open_write("scans/one/manifest.json")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_hdfs(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "hdfs":
            raise ImportError("No module named 'hdfs'")
        return original(name, *arguments, **options)

    for module in ("webhdfs_store", "webhdfs_client", "webhdfs_upload"):
        monkeypatch.delitem(sys.modules, f"storage.{module}", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_hdfs)
    with pytest.raises(StoreUrlError, match="a store of scheme 'webhdfs' needs the package hdfs"):
        open_store("webhdfs://host:9870/")


def test_an_unreachable_server_is_told_by_its_url() -> None:
    store = open_store(f"webhdfs://127.0.0.1:{free_ports(1)[0]}/x")
    with pytest.raises(StoreUnavailableError, match=r"^webhdfs://127\.0\.0\.1.*/x/a: the server does not answer"):
        store.exists("a")


@pytest.mark.hdfs
def test_another_user_is_refused(hdfs_daemons: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HADOOP_USER_NAME", "stranger")
    for url in (hdfs_daemons.hdfs_url, hdfs_daemons.webhdfs_url):
        with pytest.raises(StoreAccessError, match="Permission denied: user=stranger"):
            publish_bytes(open_store(url), "not-mine/a", b"x", kind="replace")


def test_hadoops_reports_become_our_errors() -> None:
    full = hadoop_error("hdfs://h:1/a", "DSQuotaExceededException: The DiskSpace quota of /a is exceeded\n\tat org.x")
    assert isinstance(full, StoreFullError)
    assert str(full).endswith("(DSQuotaExceededException: The DiskSpace quota of /a is exceeded)")
    other = hadoop_error("hdfs://h:1/a", "could only be written to 0 of the 1 minReplication nodes\\n\\tat org.x")
    assert type(other) is StoreUnavailableError
    assert str(other) == "hdfs://h:1/a: could only be written to 0 of the 1 minReplication nodes"


def test_a_store_can_be_opened_in_many_threads_at_once(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(open_store(tmp_path).url)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path.as_uri()] * 8


def test_a_hadoop_configuration_rules_when_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = "<property><name>dfs.nameservices</name><value>clinic</value></property>"
    nodes = "<property><name>dfs.ha.namenodes.clinic</name><value>one</value></property>"
    one = "<property><name>dfs.namenode.rpc-address.clinic.one</name><value>127.0.0.1:1</value></property>"
    tries = "<property><name>dfs.client.failover.max.attempts</name><value>1</value></property>"
    (tmp_path / "core-site.xml").write_text("<configuration></configuration>")
    (tmp_path / "hdfs-site.xml").write_text(f"<configuration>{names}{nodes}{one}{tries}</configuration>")
    monkeypatch.setenv("HADOOP_CONF_DIR", str(tmp_path))
    store = open_hdfs_store("hdfs://clinic/x")
    with pytest.raises(StoreUnavailableError, match=r"^hdfs://clinic/x/a: .*refused"):
        store.exists("a")
