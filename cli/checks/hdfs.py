# SPDX-License-Identifier: Apache-2.0
"""HDFS behind the store: its configuration here, its NameNode, its DataNodes, its clock."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from cli.checks.check import Check, State, answers, ask_json, host_and_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_WEB_PORT = 9870
_RPC_PORT = 8020
_MOST_SKEW_S = 60.0
_LOW_FRACTION = 0.05


def check_hdfs(store_url: str) -> Iterator[Check]:
    """Look at the HDFS that a store's URL names; nothing for other stores."""
    url = urlsplit(store_url)
    if url.scheme not in ("hdfs", "webhdfs", "swebhdfs"):
        return
    conf: Mapping[str, str] = {}
    named = os.environ.get("HADOOP_CONF_DIR")
    if named:
        from storage.errors import StoreUrlError
        from storage.hadoop_conf import read_hadoop_conf

        try:
            conf = read_hadoop_conf(Path(named))
        except StoreUrlError as error:
            yield Check("HADOOP_CONF_DIR", "wrong", str(error), "correct the file, or name another folder")
            return
        if not conf:
            yield Check(
                "HADOOP_CONF_DIR",
                "wrong",
                f"{named} has no readable core-site.xml or hdfs-site.xml",
                "name the folder with the cluster's files, or unset HADOOP_CONF_DIR",
            )
        else:
            yield Check("HADOOP_CONF_DIR", "ok", f"{named}, {len(conf)} properties")
    if url.scheme == "hdfs" and not _is_service(url.netloc, conf):
        host, port = host_and_port(url.netloc, _RPC_PORT)
        if why := answers(host, port):
            yield Check(
                "NameNode",
                "wrong",
                f"nobody answers on {host} port {port}: {why}",
                "start HDFS, or correct the store's URL",
            )
            return
    yield from _name_node(url.scheme, url.netloc, conf)


def _is_service(netloc: str, conf: Mapping[str, str]) -> bool:
    """Whether a URL names a service of several NameNodes."""
    return f"dfs.ha.namenodes.{netloc}" in conf


def _web_addresses(scheme: str, netloc: str, conf: Mapping[str, str]) -> list[str]:
    """Where the NameNodes' web addresses should be."""
    from storage.hadoop_conf import name_node_addresses

    secure = scheme == "swebhdfs"
    if _is_service(netloc, conf):
        return list(name_node_addresses(conf, netloc, "https" if secure else "http"))
    if scheme != "hdfs":
        return [netloc]
    told = conf.get("dfs.namenode.http-address", "")
    host = host_and_port(netloc, _RPC_PORT)[0]
    if told and host_and_port(told, _WEB_PORT)[0] != "0.0.0.0":
        return [told]
    return [f"{host}:{host_and_port(told, _WEB_PORT)[1] if told else _WEB_PORT}"]


def _name_node(scheme: str, netloc: str, conf: Mapping[str, str]) -> Iterator[Check]:
    """Ask the active NameNode over HTTP how HDFS is."""
    protocol, tried = "https" if scheme == "swebhdfs" else "http", []
    for address in _web_addresses(scheme, netloc, conf):
        try:
            state = _bean(protocol, address, "FSNamesystem")
            if state[0].get("tag.HAState", "active") != "active":
                tried.append(f"{address} is on standby")
                continue
            details = _bean(protocol, address, "NameNodeInfo")[0]
        except OSError as error:
            tried.append(f"{address}: {error}")
            continue
        yield from _judge(address, state[0], details, conf)
        yield _clock(address, state[1])
        return
    level: State = "missing" if scheme == "hdfs" else "wrong"
    yield Check(
        "NameNode's pages",
        level,
        "; ".join(tried) or "no address is configured",
        "set dfs.namenode.http-address in HADOOP_CONF_DIR to see more of HDFS here",
    )


def _bean(protocol: str, address: str, name: str) -> tuple[dict[str, Any], float | None]:
    """One set of a NameNode's figures, and its clock."""
    query = urlencode({"qry": f"Hadoop:service=NameNode,name={name}"})
    found = ask_json(f"{protocol}://{address}/jmx?{query}")
    beans = found.content.get("beans") if isinstance(found.content, dict) else None
    if not beans:
        raise OSError("it tells nothing of HDFS: no NameNode, or its figures are closed")
    return beans[0], found.clock_s


def _judge(address: str, state: dict[str, Any], details: dict[str, Any], conf: Mapping[str, str]) -> Iterator[Check]:
    """What the NameNode's figures mean."""
    safe_mode = str(details.get("Safemode", "")).strip()
    if safe_mode:
        yield Check(
            "NameNode",
            "wrong",
            f"{address} is in safe mode, nothing can be written: {safe_mode[:120]}",
            "wait for its DataNodes, or: hdfs dfsadmin -safemode leave",
        )
    else:
        yield Check("NameNode", "ok", f"{address} answers, not in safe mode")
    live, wanted = int(state.get("NumLiveDataNodes", 0)), int(conf.get("dfs.replication", "3"))
    dead = int(state.get("NumDeadDataNodes", 0))
    found = f"{live} live, {dead} dead; replication {wanted}{'' if 'dfs.replication' in conf else ' (by default)'}"
    if live == 0:
        yield Check("DataNodes", "wrong", found, "start the DataNodes, and read their logs")
    elif live < wanted:
        yield Check(
            "DataNodes",
            "wrong",
            f"{found}: files stay with fewer copies than wanted",
            f"start DataNodes, or set dfs.replication to {live} in HADOOP_CONF_DIR",
        )
    else:
        yield Check("DataNodes", "ok", found)
    missing, lacking = int(state.get("MissingBlocks", 0)), int(state.get("UnderReplicatedBlocks", 0))
    if missing:
        yield Check(
            "blocks",
            "wrong",
            f"{missing} are on no live DataNode",
            "start the DataNodes that have them; hdfs fsck / -list-corruptfileblocks names the files",
        )
    else:
        yield Check("blocks", "ok", f"none is missing, {lacking} lack a copy for now")
    total, left = float(state.get("CapacityTotal", 0)), float(state.get("CapacityRemaining", 0))
    low = total > 0 and left < _LOW_FRACTION * total
    yield Check(
        "room in HDFS",
        "wrong" if low else "ok",
        f"{left / 1e9:.0f} of {total / 1e9:.0f} GB left",
        "add disks or DataNodes, or delete" if low else "",
    )


def _clock(address: str, clock_s: float | None) -> Check:
    """The NameNode's clock against this machine's."""
    if clock_s is None:
        return Check("HDFS clock", "missing", f"{address} does not tell the time")
    ahead = clock_s - time.time()
    if abs(ahead) > _MOST_SKEW_S:
        return Check(
            "HDFS clock",
            "wrong",
            f"{address} is {ahead:+.0f} s from this machine",
            "let both follow the same NTP servers: Kerberos and sweeps go by the clock",
        )
    return Check("HDFS clock", "ok", f"within {max(1.0, abs(ahead)):.0f} s of this machine")
