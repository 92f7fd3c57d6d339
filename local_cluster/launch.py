# SPDX-License-Identifier: Apache-2.0
"""How each daemon is started: configuration files, command line, environment."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from local_cluster import hdfs, spark, yarn
from local_cluster.errors import ClusterOptionsError, NotRunningError
from local_cluster.jars import hadoop_class_path, java_program, require_java, spark_home
from local_cluster.ports import is_free
from local_cluster.processes import require_linux

if TYPE_CHECKING:
    from local_cluster.options import ClusterOptions
    from local_cluster.state import ClusterState, DaemonRecord


def require_parts(options: ClusterOptions) -> None:
    """Refuse what cannot work before anything is written.

    Raises
    ------
    MissingPartError
        If Java, pyspark or a jar is missing and cannot be fetched, or this is no Linux.
    ClusterOptionsError
        If the address is no address of this machine, or the GPU discovery script is no program.
    """
    require_linux()
    is_free(options.bind, 0)  # refuses an address that is not this machine's
    spark_home()
    require_java()
    hadoop_class_path()
    if options.yarn:
        yarn.bouncy_castle_jars()
    if options.gpu_discovery_script is not None and not os.access(options.gpu_discovery_script, os.X_OK):
        raise ClusterOptionsError(f"the GPU discovery script {options.gpu_discovery_script} is no program")


def write_configuration(state: ClusterState) -> None:
    """Write the configuration of all that the cluster has."""
    options = state.options
    hdfs.write_configuration(options, state.record("namenode"), state.drained("datanode"))
    if options.spark:
        spark.write_configuration(options, master_of(state))
    if options.yarn:
        yarn.write_configuration(options, state.record("resourcemanager"), state.record("nodemanager"))


def forget_applications(state: ClusterState) -> None:
    """Delete what a master that is gone noted of applications that are gone."""
    shutil.rmtree(spark.recovery_folder(state.options.folder), ignore_errors=True)


def master_of(state: ClusterState) -> DaemonRecord:
    """Spark's master.

    Raises
    ------
    NotRunningError
        If the cluster has no Spark.
    """
    masters = state.of_kind("master")
    if not masters:
        raise NotRunningError(f"the cluster in {state.options.folder} has no Spark")
    return masters[0]


def hadoop_java(options: ClusterOptions) -> list[str]:
    """Beginning of the command line of Hadoop's daemons and tools.

    Raises
    ------
    MissingPartError
        If Java or a jar is missing.
    """
    return hdfs.java_command(options, java_program(), hadoop_class_path())


def launch_of(state: ClusterState, record: DaemonRecord) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of a daemon.

    Raises
    ------
    MissingPartError
        If Java or a jar is missing.
    """
    options = state.options
    if record.kind in ("namenode", "datanode"):
        return hdfs.daemon_command(options, record, hadoop_java(options)), hdfs.environment_of(options)
    if record.kind in ("master", "worker"):
        if record.kind == "worker":
            spark.write_gpu_script(options, record)
        return spark.daemon_command(options, record, master_of(state)), spark.environment_of(options, record)
    jars = [*hadoop_class_path(), *yarn.bouncy_castle_jars()]
    java = hdfs.java_command(options, java_program(), jars)
    return yarn.daemon_command(record, java), yarn.environment_of(options)
