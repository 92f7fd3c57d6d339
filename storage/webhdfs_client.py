# SPDX-License-Identifier: Apache-2.0
"""Which client of the `hdfs` package a WebHDFS URL means: one NameNode or several, plain names or Kerberos."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import hdfs

from storage.errors import StoreUrlError
from storage.hadoop_conf import configured_folder, name_node_addresses, read_hadoop_conf, wants_kerberos
from storage.paths import root_of

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class WebHdfsTarget:
    """What a URL and the Hadoop configuration say.

    Attributes
    ----------
    addresses : ``http://host:port`` of every NameNode; a standby one is passed over.
    root : absolute folder, "" for the top.
    kerberos : else simple authentication, by the user's name alone.
    user : name for simple authentication; None for that of the process.
    """

    addresses: tuple[str, ...]
    root: str
    kerberos: bool = False
    user: str | None = None


def webhdfs_target(url: str, conf: Mapping[str, str], user: str | None = None) -> WebHdfsTarget:
    """Read a URL: ``webhdfs://host:port/folder``, several ``host:port`` between ``;`` or ``,``, or a name service.

    ``?auth=kerberos`` or ``?auth=simple`` rules over ``hadoop.security.authentication`` of `conf`.

    Raises
    ------
    StoreUrlError
        If the URL names neither hosts with ports nor a name service of `conf`, or has other options.
    """
    parts = urlsplit(url)
    kind = "https" if parts.scheme.lower() == "swebhdfs" else "http"
    hosts = [host for host in parts.netloc.replace(",", ";").split(";") if host]
    if len(hosts) == 1 and ":" not in hosts[0]:
        hosts = list(name_node_addresses(conf, hosts[0], kind)) or hosts
    if not hosts or parts.fragment or not all(_is_address(host) for host in hosts):
        raise StoreUrlError(
            f"{url}: expected {parts.scheme}://host:port/path, several host:port between ';', or a name service that "
            "the files in HADOOP_CONF_DIR describe"
        )
    options = parse_qs(parts.query, keep_blank_values=True)
    said = options.pop("auth", ["kerberos" if wants_kerberos(conf) else "simple"])[-1]
    if options or said not in ("kerberos", "simple"):
        raise StoreUrlError(f"{url}: the only option is ?auth=kerberos or ?auth=simple, got ?{parts.query}")
    return WebHdfsTarget(tuple(f"{kind}://{host}" for host in hosts), root_of(parts.path), said == "kerberos", user)


def make_client(target: WebHdfsTarget) -> Any:
    """Client of the `hdfs` package for a target; nothing is contacted yet.

    Raises
    ------
    StoreUrlError
        If Kerberos is wanted and its packages are not installed.
    """
    addresses, timeout = ";".join(target.addresses), (CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S)
    if not target.kerberos:
        return hdfs.InsecureClient(addresses, user=target.user, timeout=timeout)
    try:
        kerberos = importlib.import_module("hdfs.ext.kerberos")
    except ImportError as error:
        raise StoreUrlError(
            f"{addresses}: Kerberos over WebHDFS needs the package requests-kerberos "
            f"(pip install 'conepacs[kerberos]'), not found ({error})"
        ) from error
    # OPTIONAL: an error page of the server need not prove who it is, an answer must.
    return kerberos.KerberosClient(addresses, mutual_auth="OPTIONAL", timeout=timeout)


def configured_client(url: str) -> tuple[Any, str]:
    """Client and root folder for a URL, as environment and Hadoop configuration want it; StoreUrlError if malformed."""
    target = webhdfs_target(url, read_hadoop_conf(configured_folder()), os.environ.get("HADOOP_USER_NAME") or None)
    return make_client(target), target.root


def _is_address(host: str) -> bool:
    """Whether it is ``host:port``."""
    try:
        parts = urlsplit(f"//{host}")
        return bool(parts.hostname) and parts.port is not None
    except ValueError:
        return False
