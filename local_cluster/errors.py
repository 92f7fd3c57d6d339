# SPDX-License-Identifier: Apache-2.0
"""Errors of the local cluster; every message is one plain sentence that says what to do.

::

    ClusterError
    |-- ClusterOptionsError (ValueError)
    |-- MissingPartError
    |-- ClusterRunningError
    |-- NotRunningError
    |-- DaemonFailedError
    |-- UnknownDaemonError (ValueError)
    |-- DrainError
    `-- StateFileError
"""

from __future__ import annotations


class ClusterError(Exception):
    """Base of the errors of this package."""


class ClusterOptionsError(ClusterError, ValueError):
    """An option of the cluster is not what was expected."""


class MissingPartError(ClusterError):
    """Java, Maven, pyspark or a jar that the daemons need is not there."""


class ClusterRunningError(ClusterError):
    """The folder has a running cluster already."""


class NotRunningError(ClusterError):
    """The folder has no running cluster, or the cluster has no such part."""


class DaemonFailedError(ClusterError):
    """A daemon ended, or was not ready in time."""


class UnknownDaemonError(ClusterError, ValueError):
    """The cluster has no daemon of this name."""


class DrainError(ClusterError):
    """A daemon cannot be drained, or still had work at the end of the time given."""


class StateFileError(ClusterError):
    """The state file of the folder cannot be read."""
