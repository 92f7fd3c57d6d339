# SPDX-License-Identifier: Apache-2.0
"""What a Hadoop configuration (``core-site.xml`` and ``hdfs-site.xml`` of HADOOP_CONF_DIR) says to a client."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from storage.errors import StoreUrlError

if TYPE_CHECKING:
    from collections.abc import Mapping

_FILES = ("core-site.xml", "hdfs-site.xml")


def configured_folder() -> Path | None:
    """The folder that HADOOP_CONF_DIR names, if it is set."""
    named = os.environ.get("HADOOP_CONF_DIR")
    return Path(named) if named else None


def read_hadoop_conf(folder: Path | None) -> dict[str, str]:
    """Read the properties of a folder's files; empty if there is no folder or none of the files.

    Raises
    ------
    StoreUrlError
        If a file is not the XML of a Hadoop configuration.
    """
    found: dict[str, str] = {}
    for name in _FILES if folder is not None else ():
        file = Path(folder or "", name)
        if not file.is_file():
            continue
        try:
            root = ElementTree.parse(file).getroot()
        except (ElementTree.ParseError, OSError) as error:
            raise StoreUrlError(f"{file}: not a Hadoop configuration ({error})") from error
        for item in root.iter("property"):
            key, value = item.findtext("name"), item.findtext("value")
            if key and value is not None:
                found[key.strip()] = value.strip()
    return found


def wants_kerberos(conf: Mapping[str, str]) -> bool:
    """Whether a configuration asks for Kerberos."""
    return conf.get("hadoop.security.authentication", "simple").lower() == "kerberos"


def name_node_addresses(conf: Mapping[str, str], service: str, kind: str) -> tuple[str, ...]:
    """Addresses (``host:port``) of the NameNodes of a name service, in their order; empty if it is not configured.

    Parameters
    ----------
    conf : what `read_hadoop_conf` returned.
    service : its name, as in ``hdfs://clinic/``.
    kind : ``"rpc"``, ``"http"`` or ``"https"``.
    """
    nodes = [name.strip() for name in conf.get(f"dfs.ha.namenodes.{service}", "").split(",") if name.strip()]
    keys = [f"dfs.namenode.{kind}-address.{service}.{node}" for node in nodes]
    return tuple(conf[key] for key in keys if key in conf)
