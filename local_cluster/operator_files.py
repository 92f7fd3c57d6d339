# SPDX-License-Identifier: Apache-2.0
"""Files that tell programs of this machine how to use the cluster: env.sh to source, conepacs.toml to name."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from local_cluster import hdfs, spark

if TYPE_CHECKING:
    from pathlib import Path

    from local_cluster.state import ClusterState

ENVIRONMENT_FILE = "env.sh"
SETTINGS_FILE = "conepacs.toml"
#: Folder of the store within HDFS.
STORE_PATH = "pacs"


def store_url(state: ClusterState) -> str:
    """URL of the store on this cluster's HDFS."""
    return f"{hdfs.hdfs_url(state.options, state.record('namenode'))}/{STORE_PATH}"


def environment(state: ClusterState) -> dict[str, str]:
    """Variables that env.sh exports."""
    folder = state.options.folder
    values = {
        "CONEPACS_CONFIG": str(folder / SETTINGS_FILE),
        "HADOOP_CONF_DIR": str(hdfs.conf_folder(folder)),
    }
    if state.of_kind("master"):
        values |= spark.application_environment(state.options)
    return values


def write_operator_files(state: ClusterState) -> tuple[Path, Path]:
    """Write both files; return their paths."""
    folder = state.options.folder
    exports = [f"export {name}={shlex.quote(value)}\n" for name, value in environment(state).items()]
    environment_file = folder / ENVIRONMENT_FILE
    environment_file.write_text("# Use the cluster of this folder: . env.sh\n" + "".join(exports), encoding="utf-8")
    masters = state.of_kind("master")
    lines = [
        "# Settings that use the cluster of this folder: CONEPACS_CONFIG=this file.",
        f"store = {_toml(store_url(state))}",
        f"index = {_toml(str(folder / 'index.sqlite'))}",
    ]
    if masters:
        lines += ["", "[spark]", f"master = {_toml(spark.master_url(state.options, masters[0]))}"]
    lines += ["", "[journal]", f"folder = {_toml(str(folder / 'journal'))}", ""]
    settings_file = folder / SETTINGS_FILE
    settings_file.write_text("\n".join(lines), encoding="utf-8")
    return environment_file, settings_file


def _toml(text: str) -> str:
    """A TOML string; JSON's are such."""
    return json.dumps(text)
