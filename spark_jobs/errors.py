# SPDX-License-Identifier: Apache-2.0
"""Errors of the Spark jobs.

::

    SparkJobError
    |-- PlanError (ValueError)
    |-- BandCorruptError
    |-- SessionError
    |-- SweepRefusedError
    `-- TaskFailedError
"""


class SparkJobError(Exception):
    """Base of everything this package raises on purpose."""


class PlanError(SparkJobError, ValueError):
    """A reconstruction cannot be planned as asked: the message says what was got and what is possible."""


class BandCorruptError(SparkJobError):
    """A stored band of filtered rows does not have the checksum or size that it should have."""


class SessionError(SparkJobError):
    """Spark cannot be started, or the master does not answer."""


class SweepRefusedError(SparkJobError):
    """What should be swept from a store would be more than what killed jobs left."""


class TaskFailedError(SparkJobError):
    """A task failed as often as it may; nothing was registered."""
