# SPDX-License-Identifier: Apache-2.0
"""Name services and Kerberos as configuration: which client is built with what.  No live realm is asked."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

import hdfs
import pytest

from storage.errors import StoreUnavailableError, StoreUrlError
from storage.filesystem import open_store
from storage.hadoop_conf import name_node_addresses, read_hadoop_conf, wants_kerberos
from storage.hdfs_store import open_hdfs_store
from storage.retrying import RetryingStore
from storage.webhdfs_client import WebHdfsTarget, configured_client, make_client, webhdfs_target

if TYPE_CHECKING:
    from pathlib import Path

HIGH_AVAILABILITY = {
    "dfs.nameservices": "clinic",
    "dfs.ha.namenodes.clinic": "nn1, nn2",
    "dfs.namenode.rpc-address.clinic.nn1": "one:8020",
    "dfs.namenode.rpc-address.clinic.nn2": "two:8020",
    "dfs.namenode.http-address.clinic.nn1": "one:9870",
    "dfs.namenode.http-address.clinic.nn2": "two:9870",
    "dfs.namenode.https-address.clinic.nn1": "one:9871",
    "dfs.namenode.https-address.clinic.nn2": "two:9871",
}
KERBEROS = {"hadoop.security.authentication": "kerberos"}


def write_conf(folder: Path, **files: dict[str, str]) -> Path:
    for name, properties in files.items():
        lines = [f"<property><name>{k}</name><value>{v}</value></property>" for k, v in properties.items()]
        (folder / f"{name}-site.xml").write_text(f"<configuration>{''.join(lines)}</configuration>")
    return folder


def test_a_configuration_is_read(tmp_path: Path) -> None:
    conf = read_hadoop_conf(write_conf(tmp_path, core=KERBEROS, hdfs=HIGH_AVAILABILITY))
    assert conf == KERBEROS | HIGH_AVAILABILITY
    assert wants_kerberos(conf)
    assert not wants_kerberos(HIGH_AVAILABILITY)
    assert name_node_addresses(conf, "clinic", "rpc") == ("one:8020", "two:8020")
    assert name_node_addresses(conf, "other", "rpc") == ()
    assert read_hadoop_conf(None) == {}
    assert read_hadoop_conf(tmp_path / "nowhere") == {}
    (tmp_path / "core-site.xml").write_text("<configuration>")
    with pytest.raises(StoreUrlError, match=r"core-site\.xml: not a Hadoop configuration"):
        read_hadoop_conf(tmp_path)


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("webhdfs://one:9870/pacs", ("http://one:9870",)),
        ("webhdfs://one:9870;two:9870/pacs", ("http://one:9870", "http://two:9870")),
        ("webhdfs://one:9870,two:9870/pacs", ("http://one:9870", "http://two:9870")),
        ("webhdfs://clinic/pacs", ("http://one:9870", "http://two:9870")),
        ("swebhdfs://clinic/pacs", ("https://one:9871", "https://two:9871")),
        ("webhdfs://[::1]:9870/pacs", ("http://[::1]:9870",)),
    ],
)
def test_one_or_several_name_nodes(url: str, addresses: tuple[str, ...]) -> None:
    assert webhdfs_target(url, HIGH_AVAILABILITY) == WebHdfsTarget(addresses, "/pacs")
    client = make_client(webhdfs_target(url, HIGH_AVAILABILITY, "carla"))
    assert isinstance(client, hdfs.InsecureClient)
    assert client.urls == list(addresses)


@pytest.mark.parametrize(
    "url", ["webhdfs://unknown/pacs", "webhdfs://one:9870;two/pacs", "webhdfs:///pacs", "webhdfs://one:9870/p?user=x"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(StoreUrlError, match=r"name service that the files in HADOOP_CONF_DIR|the only option is"):
        webhdfs_target(url, HIGH_AVAILABILITY)


@pytest.mark.parametrize(
    ("url", "conf", "kerberos"),
    [
        ("webhdfs://one:9870/p", {}, False),
        ("webhdfs://one:9870/p", KERBEROS, True),
        ("webhdfs://one:9870/p?auth=kerberos", {}, True),
        ("webhdfs://one:9870/p?auth=simple", KERBEROS, False),
    ],
)
def test_kerberos_by_configuration_or_url(url: str, conf: dict[str, str], kerberos: bool) -> None:
    assert webhdfs_target(url, conf).kerberos is kerberos


def test_the_kerberos_client_is_built_with_every_name_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[str, dict[str, Any]]] = []
    module = types.ModuleType("hdfs.ext.kerberos")
    module.KerberosClient = lambda url, **options: built.append((url, options))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hdfs.ext.kerberos", module)
    monkeypatch.setenv("HADOOP_CONF_DIR", str(write_conf(tmp_path, core=KERBEROS, hdfs=HIGH_AVAILABILITY)))
    _, root = configured_client("webhdfs://clinic/pacs")
    assert root == "/pacs"
    assert built == [("http://one:9870;http://two:9870", {"mutual_auth": "OPTIONAL", "timeout": (10.0, 120.0)})]


def test_a_missing_kerberos_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdfs.ext.kerberos", None)
    with pytest.raises(
        StoreUrlError, match=r"needs the package requests-kerberos \(pip install 'conepacs\[kerberos\]'"
    ):
        open_store("webhdfs://one:9870/pacs?auth=kerberos")


def test_a_missing_kerberos_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HADOOP_CONF_DIR", str(write_conf(tmp_path, core=KERBEROS, hdfs=HIGH_AVAILABILITY)))
    monkeypatch.setattr("storage.hdfs_store.find_library", lambda name: None)
    with pytest.raises(StoreUrlError, match=r"asks for Kerberos, which needs the library libgssapi_krb5"):
        open_hdfs_store("hdfs://clinic/pacs")
    monkeypatch.setattr("storage.hdfs_store.find_library", lambda name: f"lib{name}.so.2")
    assert open_hdfs_store("hdfs://clinic/pacs").url == "hdfs://clinic/pacs"


def test_a_name_node_that_does_not_answer_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Answer:
        def __init__(self, code: int, content: dict[str, Any]) -> None:
            self.status_code, self.content = code, content
            self.reason = "reason"

        def __bool__(self) -> bool:
            return self.status_code < 400

        def json(self) -> dict[str, Any]:
            return self.content

    def request(method: str, url: str, **options: Any) -> Answer:
        asked.append(url)
        if "one:9870" in url:
            return Answer(403, {"RemoteException": {"exception": "StandbyException", "message": "Operation READ"}})
        return Answer(200, {"FileStatus": {"type": "FILE", "length": 7}})

    store = open_store("webhdfs://one:9870;two:9870/pacs")
    assert isinstance(store, RetryingStore)
    monkeypatch.setattr(store.bare._client, "_request", request)  # type: ignore[attr-defined]
    assert store.info("a").size == 7
    assert [url.split("/")[2] for url in asked] == ["one:9870", "two:9870"]
    assert store.info("b").size == 7
    assert [url.split("/")[2] for url in asked[2:]] == ["two:9870"]
    assert store.url == "webhdfs://one:9870;two:9870/pacs"
    assert not issubclass(StoreUrlError, StoreUnavailableError)
